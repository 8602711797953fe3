"""A TCP proxy for tests that makes a network sick: slow, cut off at a byte, reset, frozen."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from typing import Literal, Self

__all__ = ["FaultyProxy"]

#: Seconds between the last bytes before a cut and its reset, which would overtake them.
_BEFORE_A_RESET = 0.002


class FaultyProxy:
    """Pass bytes between clients and a server, and spoil what passes as the test says.

    An asynchronous context manager; it listens on a free port of loopback, in the caller's asyncio
    event loop. Everything may be changed while connections are open.

    Args:
        port: the server's.
        host: the server's address.
        delay: seconds that each piece is late, each way; a pair is the shortest and the longest,
            of which each piece draws its own. Pieces keep their order.
        at_cut: what happens at a cut: the connection is ``"reset"``, or closed in good order
            (``"close"``), or silent from then on (``"silence"``).

    Attributes:
        connections: how many there have been.

    Example:
        >>> import anyio
        >>> from async_session.stores.redis import RedisStore
        >>> async def main():
        ...     async with FaultyProxy(6379, delay=0.05) as proxy:
        ...         RedisStore(f"redis://{proxy.address}")
        ...         proxy.cut_replies = 3  # the fourth byte of the answer does not arrive
        >>> anyio.run(main)
    """

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        delay: float | tuple[float, float] = 0.0,
        at_cut: Literal["reset", "close", "silence"] = "reset",
    ) -> None:
        self.delay = delay
        self.at_cut = at_cut
        self.connections = 0
        self._target = (host, port)
        self._cuts: dict[_Direction, int | None] = {"requests": None, "replies": None}
        self._frozen = False
        self._random = random.Random("proxy")  # noqa: S311  # the same in every run
        self._server: asyncio.Server | None = None
        self._sides: set[_Side] = set()

    @property
    def port(self) -> int:
        """The port to connect to in the server's place."""
        assert self._server is not None, "use it as `async with FaultyProxy(port) as proxy`"
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        """The address to connect to, ``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many clients are connected now."""
        return sum(side.direction == "requests" and side.is_open for side in self._sides)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self, "requests"), "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        await asyncio.sleep(0.01)  # the transports close their sockets in the loop's next turns

    # What can go wrong

    @property
    def cut_requests(self) -> int | None:
        """After how many bytes of requests a connection is cut; None is never.

        Counted on each connection anew: from its beginning, and from when this is set.
        """
        return self._cuts["requests"]

    @cut_requests.setter
    def cut_requests(self, size: int | None) -> None:
        self._cut("requests", size)

    @property
    def cut_replies(self) -> int | None:
        """As `cut_requests`, for what the server answers."""
        return self._cuts["replies"]

    @cut_replies.setter
    def cut_replies(self, size: int | None) -> None:
        self._cut("replies", size)

    def _cut(self, direction: _Direction, size: int | None) -> None:
        self._cuts[direction] = size
        for side in self._sides:
            if side.direction == direction:
                side.left = size

    def lose_next_replies(self) -> None:
        """Cut each connection that is open now when the server next answers on it.

        So the request was carried out, and its sender does not know. New connections work.
        """
        for side in self._sides:
            if side.direction == "replies":
                side.left = 0

    def reset(self) -> None:
        """Reset every connection, as a router that forgot them does."""
        for side in list(self._sides):
            side.reset()

    def freeze(self) -> None:
        """Hold back whatever is sent, either way, as a stopped server does.

        Connections are accepted all the same, and nobody is told of one that ends.
        """
        self._frozen = True

    def thaw(self) -> None:
        """Let all that was held back pass, in its order, also requests that were given up."""
        self._frozen = False
        for side in list(self._sides):
            side.thaw()

    @property
    def frozen(self) -> bool:
        """Whether `freeze` was called, and `thaw` was not."""
        return self._frozen

    def _lateness(self) -> float:
        return self._random.uniform(*self.delay) if isinstance(self.delay, tuple) else self.delay

    def _end_at_cut(self, side: _Side) -> None:
        for end in (side, side.peer):
            if self.at_cut == "reset" and end is not None:
                asyncio.get_running_loop().call_later(_BEFORE_A_RESET, end.reset)
            elif self.at_cut == "close" and end is not None:
                end.close()


_Direction = Literal["requests", "replies"]


class _Side(asyncio.Protocol):
    """One end of a connection: what arrives here goes to the peer, later."""

    def __init__(self, proxy: FaultyProxy, direction: _Direction) -> None:
        self.proxy = proxy
        self.direction: _Direction = direction
        self.peer: _Side | None = None
        #: how many bytes still pass before the cut
        self.left = proxy._cuts[direction]
        self._transport: asyncio.Transport | None = None
        self._pieces: deque[bytes | None] = deque()  # None is the end
        self._due = 0.0
        self._held = 0  # how many pieces were due while the proxy was frozen
        self._silent = False
        self._broken = False

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.proxy._sides.add(self)
        if self.direction == "requests":
            self.proxy.connections += 1
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            _, server = await asyncio.get_running_loop().create_connection(
                lambda: _Side(self.proxy, "replies"), *self.proxy._target
            )
        except OSError:
            self.reset()
            self.proxy._sides.discard(self)
            return
        for side, peer in ((self, server), (server, self)):
            side.peer = peer
            for _ in side._pieces:  # what came before
                side._pass_later()

    def data_received(self, data: bytes) -> None:
        self._arrived(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._broken = exc is not None
        self._arrived(None)

    def _arrived(self, piece: bytes | None) -> None:
        self._pieces.append(piece)
        if self.peer is not None:
            self._pass_later()

    def _pass_later(self) -> None:
        loop = asyncio.get_running_loop()
        # In order, whatever the lateness of the piece before. Timers of the same time fire in any
        # order, so they do not carry the pieces.
        self._due = max(self._due, loop.time() + self.proxy._lateness())
        loop.call_at(self._due, self._pass)

    def _pass(self) -> None:
        if self.proxy.frozen:
            self._held += 1
            return
        assert self.peer is not None
        piece = self._pieces.popleft()
        if piece is None:
            self.proxy._sides.discard(self)
            (self.peer.reset if self._broken else self.peer.close)()
        elif self._silent or not self.peer.is_open:
            return
        elif self.left is None or len(piece) < self.left:
            self.peer.write(piece)
            self.left = None if self.left is None else self.left - len(piece)
        else:
            self.peer.write(piece[: self.left])
            self._silent = True
            self.proxy._end_at_cut(self)

    def thaw(self) -> None:
        held, self._held = self._held, 0
        for _ in range(held):
            self._pass()

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        if self._transport is None:
            return
        raw = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
