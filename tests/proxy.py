"""A TCP proxy for tests: it delays what passes, and can cut a connection at any byte."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from typing import Self


class Proxy:
    """Pass bytes between clients and a server of loopback, in the caller's event loop.

    Attributes:
        delay: seconds that each piece is late, each way; or the shortest and the longest.
        cut_requests, cut_replies: after how many bytes of that direction a connection is reset;
            None is never. Counted on each connection anew.
        connections: how many there have been.
    """

    def __init__(self, port: int, delay: float | tuple[float, float] = 0.0) -> None:
        self.delay = delay
        self.cut_requests: int | None = None
        self.cut_replies: int | None = None
        self.connections = 0
        self._target = port
        self._random = random.Random("proxy")
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        await asyncio.sleep(0.01)  # the transports close their sockets in the loop's next turns

    def reset(self) -> None:
        """Reset every connection, as a router that forgot them does."""
        for transport in list(self._open):
            _reset(transport)

    def lateness(self) -> float:
        if isinstance(self.delay, tuple):
            return self._random.uniform(*self.delay)
        return self.delay


class _Side(asyncio.Protocol):
    """One end of a connection; what comes here goes to the peer, later."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.transport: asyncio.Transport | None = None
        self.peer: _Side | None = None
        self.cut: int | None = None
        self._early: list[bytes] = []
        self._late: deque[bytes] = deque()
        self._passed = 0
        self._was_cut = False
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.proxy._open.add(transport)

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self._early.append(data)
            return
        loop = asyncio.get_running_loop()
        # In order, whatever the lateness of the piece before.
        self._due = max(self._due, loop.time() + self.proxy.lateness())
        # Timers of the same time fire in any order, so they do not carry the data.
        self._late.append(data)
        loop.call_at(self._due, self._pass)

    def _pass(self) -> None:
        assert self.peer is not None
        data = self._late.popleft()
        if self._was_cut or self.peer.transport is None or self.peer.transport.is_closing():
            return
        if self.cut is not None and self._passed + len(data) >= self.cut:
            self.peer.transport.write(data[: self.cut - self._passed])
            asyncio.get_running_loop().call_later(0.002, self._break)
            self._was_cut = True
            return
        self._passed += len(data)
        self.peer.transport.write(data)

    def _break(self) -> None:
        for side in (self, self.peer):
            if side is not None and side.transport is not None:
                _reset(side.transport)

    def connected(self, peer: _Side) -> None:
        self.peer = peer
        for data in self._early:
            self.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:
            self.proxy._open.discard(self.transport)
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()


class _Client(_Side):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.proxy.connections += 1
        self.cut = self.proxy.cut_requests
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        assert self.transport is not None
        loop = asyncio.get_running_loop()
        try:
            _, server = await loop.create_connection(
                lambda: _Side(self.proxy), "127.0.0.1", self.proxy._target
            )
        except OSError:
            _reset(self.transport)
            return
        server.cut = self.proxy.cut_replies
        server.connected(self)
        self.connected(server)


def _reset(transport: asyncio.Transport) -> None:
    raw = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


@contextlib.asynccontextmanager
async def answering(*answers: bytes | None) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve the address of a server that answers each piece it reads with the next of `answers`.

    None closes the connection instead. Yields ``host:port`` and the pieces read so far.
    """
    script = iter(answers)
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2_000_000):
                asked.append(data)
                answer = next(script, None)
                if answer is None:
                    break
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        await asyncio.sleep(0.01)
