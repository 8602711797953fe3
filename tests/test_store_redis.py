"""What the Redis store promises beyond the contract: clients, outages, event loops."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis import exceptions
from redis.asyncio import Redis
from servers import QUIET, RedisServer, free_port

from async_session.errors import ConfigurationError, StoreError, StoreUnavailable
from async_session.stores._redis_pipeline import Pipeline
from async_session.stores.base import Match
from async_session.stores.redis import RedisStore

KEY = "ab" + "0" * 62
OLD, NEW = b"old-version-0001" + b"o" * 500, b"new-version-0002" + b"n" * 500


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(own_redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(own_redis_server.url, timeout=0.5)
    yield store
    await store.aclose()


async def run_server(call: Any) -> None:
    """Stop and start a server from a thread, as somebody else would."""
    await asyncio.to_thread(call)


# Outages.


@pytest.mark.anyio
async def test_a_dead_server_is_unavailable_at_once(
    store: RedisStore, own_redis_server: RedisServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    await run_server(own_redis_server.kill)
    began = time.monotonic()
    for call in calls(store):
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert isinstance(caught.value.__cause__, (redis.RedisError, OSError))
    assert time.monotonic() - began < 0.5


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["open", "delete", "any", "absent", "version"])
async def test_only_reads_and_deletes_are_sent_again(kind: str) -> None:
    # The first connection breaks after the command was read: was it done or not?
    connections: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(await reader.read(1000))
        if len(connections) > 1:
            writer.write(b"$-1\r\n" if kind == "open" else b":1\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    store = RedisStore(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    if kind == "open":
        assert await store.open(KEY) is None
    elif kind == "delete":
        await store.delete(KEY)
    else:
        match = {"any": Match.ANY, "absent": Match.ABSENT, "version": OLD[:16]}[kind]
        with pytest.raises(StoreUnavailable):
            await store.save(KEY, NEW, ttl=60, match=match)  # type: ignore[arg-type]
    assert len(connections) == (2 if kind in {"open", "delete"} else 1)
    await store.aclose()
    server.close()
    await server.wait_closed()


@pytest.mark.anyio
async def test_a_frozen_server_costs_no_more_than_the_deadline(
    store: RedisStore, own_redis_server: RedisServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    own_redis_server.freeze()
    try:
        for call in calls(store):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"0\.5 s"):
                await call
            assert 0.45 < time.monotonic() - began < 0.8
    finally:
        own_redis_server.thaw()
    # What was sent to it may still arrive; answers to the calls given up do not.
    await asyncio.sleep(0.1)
    await store.save(KEY, NEW, ttl=60)
    assert await store.open(KEY) == NEW


@pytest.mark.anyio
async def test_waiting_for_a_connection_counts(
    own_redis_server: RedisServer,
) -> None:
    client = Redis.from_url(own_redis_server.url, max_connections=2, **QUIET)
    store = RedisStore(client, timeout=0.5)
    assert await asyncio.gather(*(store.open(KEY) for _ in range(50))) == [None] * 50
    own_redis_server.freeze()
    try:
        began = time.monotonic()
        found = await asyncio.gather(*(store.open(KEY) for _ in range(6)), return_exceptions=True)
        assert time.monotonic() - began < 0.8
    finally:
        own_redis_server.thaw()
    assert {type(error) for error in found} == {StoreUnavailable}
    await client.aclose()


@pytest.mark.anyio
async def test_a_port_where_nobody_listens() -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}", timeout=0.5)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.open(KEY)
    assert time.monotonic() - began < 0.6
    await store.aclose()


@pytest.mark.anyio
async def test_a_client_is_not_retried_behind_our_back(own_redis_server: RedisServer) -> None:
    # redis-py's default is ten retries: a SET NX whose answer was lost would then be refused by
    # its own value, and a dead server would be found dead only at the deadline.
    client = Redis.from_url(own_redis_server.url, **QUIET)
    store = RedisStore(client, timeout=5)
    await store.open(KEY)
    own_redis_server.freeze()
    saving = asyncio.create_task(store.save(KEY, NEW, ttl=60, match=Match.ABSENT))
    await asyncio.sleep(0.05)
    await run_server(own_redis_server.restart)
    with pytest.raises(StoreUnavailable):
        await saving
    assert await store.open(KEY) is None, "the write went out once"
    await client.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (exceptions.BusyLoadingError("Redis is loading the dataset"), StoreUnavailable),
        (exceptions.ReadOnlyError("You can't write against a replica."), StoreUnavailable),
        (exceptions.ResponseError("BUSY Redis is busy running a script"), StoreUnavailable),
        (exceptions.ClusterDownError("CLUSTERDOWN Hash slot not served"), StoreUnavailable),
        (exceptions.MasterDownError("MASTERDOWN Link is down"), StoreUnavailable),
        (exceptions.TimeoutError("Timeout reading"), StoreUnavailable),
        (exceptions.ConnectionError("gone"), StoreUnavailable),
        (exceptions.OutOfMemoryError("command not allowed"), StoreError),
        (exceptions.NoPermissionError("this user has no permissions"), StoreError),
        (exceptions.AuthenticationError("invalid password"), StoreError),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), StoreError),
        (RuntimeError("Event loop is closed"), StoreError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_no_exception_of_the_driver_comes_through(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, answer: Exception, kind: type[StoreError]
) -> None:
    client = Redis.from_url(redis_url, **QUIET)

    async def read_response(*args: Any, **kwargs: Any) -> Any:
        raise answer

    def send(*args: Any) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(answer)
        return future

    monkeypatch.setattr("redis.asyncio.connection.Connection.read_response", read_response)
    monkeypatch.setattr(Pipeline, "send", send)
    for store in (RedisStore(redis_url), RedisStore(client)):
        for call in calls(store):
            with pytest.raises(StoreError) as caught:
                await call
            assert type(caught.value) is kind
            assert repr(caught.value.__cause__) == repr(answer)
        await store.aclose()
    await client.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("can_share", [True, False])
async def test_without_hiredis_there_is_a_pool(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, can_share: bool
) -> None:
    monkeypatch.setattr("async_session.stores._redis_urls.CAN_SHARE", can_share)
    store, client = RedisStore(redis_url), Redis.from_url(redis_url, **QUIET)
    before = len(await client.client_list())
    await asyncio.gather(*(store.save(f"{n:064}", OLD, ttl=60) for n in range(9)))
    assert await store.open(f"{8:064}") == OLD
    assert (len(await client.client_list()) - before == 1) is can_share
    await store.aclose()
    await client.aclose()


@pytest.mark.anyio
async def test_a_key_of_another_type_is_an_error(redis_url: str) -> None:
    store = RedisStore(redis_url, prefix="other-type:")
    client = Redis.from_url(redis_url, **QUIET)
    await client.hset("other-type:" + KEY, "a", "b")
    with pytest.raises(StoreError, match="Redis refused"):
        await store.open(KEY)
    await client.delete("other-type:" + KEY)
    await client.aclose()
    await store.aclose()


@pytest.mark.anyio
async def test_the_ttl_and_the_key_in_redis(redis_url: str) -> None:
    client = Redis.from_url(redis_url, **QUIET)
    store = RedisStore(client, prefix="app:")
    for match, data in ((Match.ABSENT, OLD), (OLD[:16], NEW), (Match.ANY, OLD)):
        await store.save(KEY, data, ttl=5000, match=match)
        assert await client.ttl("app:" + KEY) == 5000
        await client.expire("app:" + KEY, 10)
    await store.delete(KEY)
    assert await client.exists("app:" + KEY) == 0
    await client.aclose()


@pytest.mark.anyio
async def test_a_version_has_16_bytes(redis_url: str) -> None:
    # An empty one would match a key that is not there.
    store = RedisStore(redis_url)
    for version in (b"", b"short", bytes(17)):
        with pytest.raises(ValueError, match="16 bytes"):
            await store.save(KEY, NEW, ttl=60, match=version)


# Clients and URLs.


@pytest.mark.parametrize(
    "client",
    [
        None,
        object(),
        Redis,
        redis.Redis(host="localhost"),
        {"host": "localhost"},
        b"redis://localhost",
        "localhost:6379",
        "localhost",
        "",
        "http://localhost",
        "memcached://localhost",
    ],
    ids=str,
)
def test_what_is_no_client_is_refused(client: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"RedisStore\('redis://localhost:6379/0'\)"):
        RedisStore(client)


@pytest.mark.parametrize(
    "client",
    [Redis(decode_responses=True), "redis://localhost?decode_responses=True"],
    ids=["client", "url"],
)
def test_text_answers_are_refused(client: Any) -> None:
    with pytest.raises(ConfigurationError, match="decode_responses"):
        RedisStore(client)


def test_the_timeout_is_checked() -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        RedisStore("redis://localhost", timeout=0)
    assert RedisStore("redis://localhost", timeout=2).deadline == 2.0


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:s3cret@localhost:6379/0",
        "rediss://:s3cret@localhost",
        "redis://localhost?password=s3cret",
        "redis+unix:///run/redis.sock?password=s3cret",
    ],
)
def test_no_secret_is_shown(url: str) -> None:
    shown = repr(RedisStore(url))
    assert "s3cret" not in shown
    assert shown.startswith(f"RedisStore('{url.partition('://')[0]}://")


@pytest.mark.parametrize("url", ["redis://user:s3/cret@localhost", "redis://h:s3cret/0"])
def test_no_secret_is_in_the_error_for_a_bad_url(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisStore(url)
    assert "s3" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.anyio
async def test_passwords(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--requirepass", "s3cret:/@")
    await run_server(server.start)
    try:
        good = RedisStore(f"redis://:s3cret%3A%2F%40@127.0.0.1:{server.port}")
        assert await good.save(KEY, OLD, ttl=60) is True
        await good.aclose()
        for wrong in ("redis://", "redis://:wr0ng@"):
            store = RedisStore(f"{wrong}127.0.0.1:{server.port}")
            with pytest.raises(StoreError) as caught:
                await store.open(KEY)
            assert "s3cret" not in str(caught.value)
            assert "wr0ng" not in str(caught.value)
            assert type(caught.value) is StoreError, "waiting does not help"
            await store.aclose()
    finally:
        await run_server(server.kill)


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["redis+unix", "unix"])
async def test_a_unix_socket(redis_server: RedisServer, scheme: str) -> None:
    store = RedisStore(f"{scheme}://{redis_server.socket}?db=1")
    await store.save(KEY, OLD, ttl=60)
    assert await store.open(KEY) == OLD
    await store.aclose()


@pytest.mark.anyio
async def test_a_client_stays_open(redis_url: str) -> None:
    client = Redis.from_url(redis_url, **QUIET)
    store = RedisStore(client)
    await store.open(KEY)
    (connection,) = client.connection_pool._available_connections
    await store.aclose()
    assert connection.is_connected
    await client.aclose()


@pytest.mark.anyio
async def test_a_client_keeps_its_timeout_and_the_store_its_own(
    own_redis_server: RedisServer,
) -> None:
    client = Redis.from_url(own_redis_server.url, socket_timeout=0.1, **QUIET)
    store = RedisStore(client, timeout=0.5)
    await store.save(KEY, OLD, ttl=60)
    (connection,) = client.connection_pool._available_connections
    assert connection.socket_timeout == 0.1
    own_redis_server.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"0\.5 s"):
            await store.open(KEY)
        assert 0.45 < time.monotonic() - began < 0.8
    finally:
        own_redis_server.thaw()
    assert connection.socket_timeout == 0.1
    assert await store.open(KEY) == OLD
    await client.aclose()


@pytest.mark.anyio
async def test_connections_of_its_own_are_closed(own_redis_server: RedisServer) -> None:
    store = RedisStore(own_redis_server.url)
    watch = Redis.from_url(own_redis_server.url, **QUIET)
    await asyncio.gather(*(store.open(KEY) for _ in range(5)))
    assert await connected(watch) > 1
    await store.aclose()
    await store.aclose()
    assert await connected(watch) == 1
    assert await store.open(KEY) is None, "it may be used again"
    await store.aclose()
    await watch.aclose()


# Event loops. Warnings are errors in this suite, also those of the garbage collector.


def test_a_loop_per_call(own_redis_server: RedisServer) -> None:
    # As Starlette's TestClient does it when it is not used in a `with`.
    store = RedisStore(own_redis_server.url)
    for number in range(5):
        value = OLD + b"%d" % number
        assert asyncio.run(store.save(KEY, value, ttl=60)) is True
        assert asyncio.run(store.open(KEY)) == value
        gc.collect()
    assert asyncio.run(count(own_redis_server)) == 1, "every loop's connections were closed"


def test_loops_that_are_closed_without_a_word(own_redis_server: RedisServer) -> None:
    store = RedisStore(own_redis_server.url)
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.save(KEY, OLD, ttl=60))
        loop.close()
    assert asyncio.run(store.open(KEY)) == OLD
    gc.collect()
    assert asyncio.run(count(own_redis_server)) == 1


def test_two_loops_at_once(own_redis_server: RedisServer) -> None:
    store = RedisStore(own_redis_server.url)

    async def other_loop() -> list[bytes | None]:
        return list(await asyncio.gather(*(store.open(KEY) for _ in range(20))))

    async def main() -> None:
        await store.save(KEY, OLD, ttl=60)
        elsewhere = [asyncio.to_thread(asyncio.run, other_loop()) for _ in range(3)]
        for found in await asyncio.gather(*elsewhere, other_loop()):
            assert found == [OLD] * 20

    asyncio.run(main())
    gc.collect()


def test_a_client_on_a_second_loop_is_explained(own_redis_server: RedisServer) -> None:
    client = Redis.from_url(own_redis_server.url, **QUIET)
    store = RedisStore(client)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.open(KEY))

    async def second() -> None:
        with pytest.raises(StoreError, match="one event loop"):
            await store.open(KEY)

    try:
        asyncio.run(second())
    finally:
        loop.run_until_complete(client.aclose())
        loop.close()


def calls(store: RedisStore) -> Any:
    """Yield one call of each kind, to be awaited one after the other."""
    yield store.open(KEY)
    yield store.save(KEY, NEW, ttl=60)
    yield store.save(KEY, NEW, ttl=60, match=Match.ABSENT)
    yield store.save(KEY, NEW, ttl=60, match=OLD[:16])
    yield store.delete(KEY)


async def connected(client: Redis) -> int:
    """Return how many connections the server has, the one that asks included."""
    found = 0
    for _ in range(50):  # the server notices a close a little later
        found = len(await client.client_list())
        if found == 1:
            break
        await asyncio.sleep(0.01)
    return found


async def count(server: RedisServer) -> int:
    client = Redis.from_url(server.url, **QUIET)
    try:
        return await connected(client)
    finally:
        await client.aclose()
