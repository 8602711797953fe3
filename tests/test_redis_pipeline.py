"""The shared connection, by itself: order, cancellation, loss, deadline, one error among many."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import exceptions
from redis.asyncio import ConnectionPool
from servers import QUIET, RedisServer, free_port

from async_session.stores._redis_commands import packed
from async_session.stores._redis_pipeline import Pipeline

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Timed(Pipeline):
    """A pipeline that gives every command the same time."""

    def __init__(self, make_connection: Any, timeout: float) -> None:
        super().__init__(make_connection)
        self._timeout = timeout

    def start(self, *command: str | bytes | int) -> asyncio.Future[Any]:
        until = asyncio.get_running_loop().time() + self._timeout
        return self.send(packed(*command), until)


def _pipeline(url: str, timeout: float = 1.0) -> Timed:
    pool = ConnectionPool.from_url(
        url, protocol=2, socket_timeout=None, socket_connect_timeout=5, **QUIET
    )
    return Timed(pool.make_connection, timeout)


@pytest.fixture
async def pipeline(own_redis_server: RedisServer) -> AsyncIterator[Timed]:
    pipeline = _pipeline(own_redis_server.url)
    yield pipeline
    await pipeline.aclose()


async def test_answers_come_in_order(pipeline: Timed) -> None:
    answers = await asyncio.gather(*(pipeline.start("ECHO", str(n)) for n in range(1000)))
    assert answers == [str(n).encode() for n in range(1000)]


async def test_what_is_refused_is_refused_alone(pipeline: Timed) -> None:
    good, bad, other = (
        pipeline.start("ECHO", "a"),
        pipeline.start("NOSUCHCOMMAND"),
        pipeline.start("ECHO", "b"),
    )
    with pytest.raises(exceptions.ResponseError, match="unknown command"):
        await bad
    assert (await good, await other) == (b"a", b"b")


async def test_a_server_that_refuses_everything_for_now_refuses_each_alone() -> None:
    """The driver calls LOADING a connection error; the connection is as good as before."""

    async def loading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        for answer in (
            b"-LOADING Redis is loading\r\n",
            b"-LOADING Redis is loading\r\n",
            b"+PONG\r\n",
        ):
            await reader.readuntil(b"PING\r\n")
            writer.write(answer)

    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(loading, "127.0.0.1", 0)
    pipeline = _pipeline(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(exceptions.BusyLoadingError):
        await pipeline.start("PING")
    first, second = pipeline.start("PING"), pipeline.start("PING")
    with pytest.raises(exceptions.BusyLoadingError):
        await first
    assert await second == b"PONG"
    assert len(connections) == 1
    await pipeline.aclose()
    for writer in connections:
        writer.close()
    server.close()


async def test_one_connection_is_enough(pipeline: Timed) -> None:
    first = await pipeline.start("CLIENT", "ID")
    ids = await asyncio.gather(*(pipeline.start("CLIENT", "ID") for _ in range(50)))
    assert set(ids) == {first}


async def test_a_cancelled_waiter_gives_its_answer_to_nobody(pipeline: Timed) -> None:
    chance = random.Random(7)
    wrong = 0

    async def ask(n: int) -> None:
        nonlocal wrong
        for turn in range(20):
            text = f"{n}-{turn}"
            wrong += await pipeline.start("ECHO", text) != text.encode()
            await asyncio.sleep(0)

    async with asyncio.timeout(30):
        tasks = [asyncio.ensure_future(ask(n)) for n in range(300)]
        for _ in range(60):
            await asyncio.sleep(0)
            for task in chance.sample(tasks, 3):
                task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert wrong == 0
    assert any(isinstance(result, asyncio.CancelledError) for result in done)
    assert any(result is None for result in done)


async def test_a_killed_server_fails_who_waits_and_the_next_connects(
    pipeline: Timed, own_redis_server: RedisServer
) -> None:
    await pipeline.start("SET", "a", "1")
    own_redis_server.freeze()
    waiting = [pipeline.start("GET", "a") for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.to_thread(own_redis_server.kill)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, OSError | exceptions.ConnectionError) for result in results)
    assert len({id(result) for result in results}) == 20
    await asyncio.to_thread(own_redis_server.start)
    assert await pipeline.start("ECHO", "back") == b"back"


async def test_an_idle_connection_that_dies_is_noticed_at_once(
    pipeline: Timed, own_redis_server: RedisServer
) -> None:
    await pipeline.start("ECHO", "a")
    await asyncio.to_thread(own_redis_server.restart)
    while pipeline.link is not None:  # the reader sees the end by itself
        await asyncio.sleep(0.001)
    assert await pipeline.start("ECHO", "b") == b"b"


async def test_a_frozen_server_costs_the_deadline_and_no_more(
    own_redis_server: RedisServer,
) -> None:
    pipeline = _pipeline(own_redis_server.url, timeout=0.2)
    await pipeline.start("ECHO", "a")
    own_redis_server.freeze()
    began = time.monotonic()
    results = await asyncio.gather(
        *(pipeline.start("ECHO", "b") for _ in range(10)), return_exceptions=True
    )
    took = time.monotonic() - began
    assert {type(result) for result in results} == {TimeoutError}
    assert 0.19 <= took < 0.3
    own_redis_server.thaw()
    assert await pipeline.start("ECHO", "c") == b"c"
    await pipeline.aclose()


async def test_nobody_listens() -> None:
    pipeline = _pipeline(f"redis://127.0.0.1:{free_port()}")
    for _ in range(2):
        with pytest.raises(exceptions.ConnectionError):
            await pipeline.start("ECHO", "a")
    await pipeline.aclose()


async def test_connecting_may_take_longer_than_a_command_may_wait() -> None:
    """Who waits is failed in time; the connection that is being made is not given up."""
    greeted = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await greeted.wait()
        while line := await reader.readuntil(b"\r\n"):
            if line.startswith(b"*"):
                writer.write(b"+OK\r\n")

    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = ConnectionPool(host="127.0.0.1", port=port, protocol=2, db=1, **QUIET)
    pipeline = Timed(pool.make_connection, 0.05)
    with pytest.raises(TimeoutError):
        await pipeline.start("PING")
    with pytest.raises(TimeoutError):
        await pipeline.start("PING")
    greeted.set()
    await asyncio.sleep(0.01)
    assert await pipeline.start("PING") == b"OK"
    assert len(connections) == 1
    await pipeline.aclose()
    for writer in connections:
        writer.close()
    server.close()


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n+EXTRA\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(chatty, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = ConnectionPool(host="127.0.0.1", port=port, protocol=2, **QUIET)
    pipeline = Timed(pool.make_connection, 1)
    assert await pipeline.start("PING") == b"PONG"
    while pipeline.link is not None:
        await asyncio.sleep(0)
    assert await pipeline.start("PING") == b"PONG"
    await pipeline.aclose()
    server.close()


async def test_closing_fails_who_waits(own_redis_server: RedisServer) -> None:
    pipeline = _pipeline(own_redis_server.url)
    await pipeline.start("ECHO", "a")
    waiting = pipeline.start("ECHO", "b")
    await asyncio.sleep(0)
    await pipeline.aclose()
    with pytest.raises(ConnectionError, match="the store was closed"):
        await waiting
    assert await pipeline.start("ECHO", "c") == b"c"
    await pipeline.aclose()
