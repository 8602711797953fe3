"""The proxy of `async_session.testing`, before a server that sends back what it gets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from servers import free_port

from async_session.testing import FaultyProxy

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Servers that we test with sockets are asyncio's."""
    return "asyncio"


class Echo:
    """A server on `port`; what it was sent is in `got`."""

    def __init__(self) -> None:
        self.port = 0
        self.got = bytearray()
        self.ends: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = "close"
        try:
            while data := await reader.read(1000):
                self.got += data
                writer.write(data)
        except ConnectionError:
            end = "reset"
        self.ends.append(end)
        writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    server = Echo()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()
    await asyncio.sleep(0.02)


class Caller:
    """A connection, and what came back on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, data: bytes, *, seconds: float = 2) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(seconds):
            return await self.reader.readexactly(len(data))

    async def what_is_left(self) -> tuple[bytes, str]:
        """Return all that still arrives, and how the connection ends."""
        got = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                try:
                    while data := await self.reader.read(1000):
                        got += data
                except ConnectionError:
                    return got, "reset"
                return got, "close"
        return got, "silence"


@contextlib.asynccontextmanager
async def call(proxy: FaultyProxy) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    yield Caller(reader, writer)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_it_passes_what_it_gets_and_says_when_a_side_ends(echo: Echo) -> None:
    async with FaultyProxy(echo.port) as proxy:
        assert proxy.address == f"127.0.0.1:{proxy.port}"
        async with call(proxy) as one, call(proxy) as other:
            assert await one.ask(b"one" * 10_000) == b"one" * 10_000
            assert await other.ask(b"other") == b"other"
            assert (proxy.connections, proxy.open_connections) == (2, 2)
        await asyncio.sleep(0.02)
        assert (proxy.connections, proxy.open_connections) == (2, 0)
        assert echo.ends == ["close", "close"]


async def test_a_delay_is_taken_each_way_and_keeps_the_order(echo: Echo) -> None:
    async with FaultyProxy(echo.port, delay=0.05) as proxy, call(proxy) as caller:
        began = time.monotonic()
        await caller.ask(b"a")
        assert 0.1 <= time.monotonic() - began < 0.5
        proxy.delay = (0.0, 0.01)
        for n in range(30):
            caller.writer.write(b"%02d" % n)
            await asyncio.sleep(0.001)
        assert await caller.reader.readexactly(60) == b"".join(b"%02d" % n for n in range(30))


@pytest.mark.parametrize("at_cut", ["reset", "close", "silence"])
@pytest.mark.parametrize("size", [0, 1, 7, 10])
async def test_a_cut_at_a_byte_of_the_reply(echo: Echo, at_cut: Any, size: int) -> None:
    async with FaultyProxy(echo.port, at_cut=at_cut) as proxy:
        proxy.cut_replies = size
        async with call(proxy) as caller:
            caller.writer.write(b"0123456789")
            assert await caller.what_is_left() == (b"0123456789"[:size], at_cut)
        assert echo.got == b"0123456789"
        proxy.cut_replies = None
        async with call(proxy) as caller:
            assert await caller.ask(b"0123456789") == b"0123456789"


@pytest.mark.parametrize("size", [0, 1, 7, 10])
async def test_a_cut_at_a_byte_of_the_request(echo: Echo, size: int) -> None:
    async with FaultyProxy(echo.port) as proxy:
        async with call(proxy) as caller:
            await caller.ask(b"before")
            # On a connection that is open it counts from now.
            proxy.cut_requests = size
            caller.writer.write(b"01234")
            await asyncio.sleep(0.005)
            caller.writer.write(b"56789")
            _, end = await caller.what_is_left()
            assert end == "reset"
        assert echo.got == b"before" + b"0123456789"[:size]
        await asyncio.sleep(0.02)
        assert echo.ends == ["reset"]


async def test_the_next_reply_is_lost_and_the_request_was_carried_out(echo: Echo) -> None:
    async with FaultyProxy(echo.port) as proxy:
        async with call(proxy) as caller:
            await caller.ask(b"before")
            proxy.lose_next_replies()
            caller.writer.write(b"after")
            assert await caller.what_is_left() == (b"", "reset")
        assert echo.got == b"beforeafter"
        async with call(proxy) as caller:
            assert await caller.ask(b"new") == b"new"


async def test_a_reset_ends_every_connection(echo: Echo) -> None:
    async with FaultyProxy(echo.port) as proxy, call(proxy) as one, call(proxy) as other:
        await one.ask(b"one")
        await other.ask(b"other")
        proxy.reset()
        assert await one.what_is_left() == (b"", "reset")
        assert await other.what_is_left() == (b"", "reset")
        await asyncio.sleep(0.02)
        assert echo.ends == ["reset", "reset"]


async def test_nothing_passes_while_it_is_frozen_and_all_of_it_afterwards(echo: Echo) -> None:
    async with FaultyProxy(echo.port) as proxy:
        async with call(proxy) as caller, call(proxy) as given_up:
            await caller.ask(b"before")
            proxy.freeze()
            async with call(proxy) as late:
                late.writer.write(b"late")
                with pytest.raises(TimeoutError):
                    await caller.ask(b"one", seconds=0.05)
                caller.writer.write(b"two")
                given_up.writer.write(b"given up")
                await given_up.writer.drain()
                given_up.writer.close()
                assert await late.what_is_left() == (b"", "silence")
                assert (proxy.frozen, proxy.connections) == (True, 3)
                assert echo.got == b"before"
                proxy.thaw()
                assert await late.reader.readexactly(4) == b"late"
                assert await caller.reader.readexactly(6) == b"onetwo"
                assert b"given up" in echo.got
        await asyncio.sleep(0.02)
        assert (proxy.frozen, proxy.open_connections) == (False, 0)


async def test_a_server_that_is_not_there_resets() -> None:
    async with FaultyProxy(free_port()) as proxy, call(proxy) as caller:
        assert (await caller.what_is_left())[1] in {"reset", "close"}
        assert proxy.open_connections == 0
