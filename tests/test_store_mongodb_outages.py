"""The MongoDB store when servers die, freeze and refuse, and loops end."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pymongo
import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient, WriteConcern, errors
from servers import SecantusServer, free_port
from stores import leaves_sockets

from async_session.errors import StoreError, StoreUnavailable
from async_session.stores.base import Match
from async_session.stores.mongodb import MongoStore
from async_session.testing import FaultyProxy

KEY = "ab" + "0" * 62
OLD, NEW = b"old-version-0001" + b"o" * 500, b"new-version-0002" + b"n" * 500


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["url", "pymongo", "motor"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Make = Callable[..., MongoStore]


@pytest.fixture
async def make(driver: str) -> AsyncIterator[Make]:
    """Makes a store on a URL, in each of the three ways to have one."""
    made: list[Any] = []

    def make(url: str, timeout: float = 1.0) -> MongoStore:
        if driver == "url":
            made.append(MongoStore(url, timeout=timeout))
            return made[-1]
        kind: Any = AsyncMongoClient if driver == "pymongo" else AsyncIOMotorClient
        made.append(kind(url))
        return MongoStore(made[-1].get_default_database()["sessions"], timeout=timeout)

    yield make
    for thing in made:
        if isinstance(thing, MongoStore):
            await thing.aclose()
            continue
        with pymongo.timeout(0.5):  # or it says good-bye to a dead server for half a minute
            if isinstance(thing, AsyncMongoClient):
                await thing.close()
            else:
                await asyncio.to_thread(thing.close)
    made.clear()
    gc.collect()  # here, where sockets that pymongo left are expected


def direct(port: int) -> str:
    # Else the client asks the server for its address, and leaves the proxy out.
    return f"mongodb://127.0.0.1:{port}/app?directConnection=true"


# A server that dies.


@leaves_sockets
@pytest.mark.anyio
async def test_calls_while_the_server_is_dead_end_by_the_deadline(
    make: Make, own_secantus_server: SecantusServer
) -> None:
    store = make(own_secantus_server.url, 0.5)
    await store.save(KEY, OLD, ttl=60)
    await asyncio.to_thread(own_secantus_server.kill)
    for call in calls(store):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert time.monotonic() - began < 0.6
        assert isinstance(caught.value.__cause__, errors.PyMongoError), "the driver says why"


@pytest.fixture
async def driver_lock(own_secantus_server: SecantusServer) -> AsyncIterator[tuple[MongoStore, Any]]:
    """A store whose server has died, and the lock that all calls to its client need."""
    store = MongoStore(own_secantus_server.url, timeout=0.7)
    await store.save(KEY, OLD, ttl=60)
    await asyncio.to_thread(own_secantus_server.kill)
    assert store._clients is not None
    sessions = store._clients.known()
    assert sessions is not None
    client = sessions.database.client
    yield store, client._topology._lock
    await store.aclose()
    await client.close()
    del sessions, client
    gc.collect()


@leaves_sockets
@pytest.mark.anyio
async def test_the_driver_works_again_after_it_timed_out_with_a_call(
    own_secantus_server: SecantusServer, driver_lock: tuple[MongoStore, Any]
) -> None:
    # A call that waits for a server looks again every half second, and needs the lock for that.
    # Here it does not get it until its time is up, as if the machine were busy.
    store, lock = driver_lock
    reading = [asyncio.ensure_future(store.open(KEY)) for _ in range(20)]
    await asyncio.sleep(0.4)
    async with lock:
        for read in reading:
            with pytest.raises(StoreUnavailable):
                await read
        await asyncio.sleep(0.1)
    await asyncio.to_thread(own_secantus_server.start)
    assert await store.open(KEY) == OLD
    async with asyncio.timeout(5):
        await asyncio.gather(*store._calls.tasks)


@leaves_sockets
@pytest.mark.anyio
async def test_reads_do_not_wait_for_a_server_when_nobody_waits_for_them(
    driver_lock: tuple[MongoStore, Any],
) -> None:
    # The driver would look for one for five seconds, or for thirty.
    store, _ = driver_lock
    for number in range(1, 20, 5):
        before = set(store._calls.tasks)
        reading = [store.open(KEY) for _ in range(number)]
        for error in await asyncio.gather(*reading, return_exceptions=True):
            assert isinstance(error, StoreUnavailable)
        if number > 1:  # the first one has found out
            async with asyncio.timeout(1):
                await asyncio.gather(*(store._calls.tasks - before))


@leaves_sockets
@pytest.mark.anyio
async def test_a_driver_that_is_stuck_is_left(driver_lock: tuple[MongoStore, Any]) -> None:
    store, lock = driver_lock
    async with lock:  # as a call of the app's own may leave it, if it is cancelled
        async with asyncio.timeout(5):
            await store.aclose()


@leaves_sockets
@pytest.mark.anyio
async def test_calls_of_a_driver_that_is_stuck_do_not_pile_up(
    driver_lock: tuple[MongoStore, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("async_session.stores._mongodb_calls._LAST_RESORT", 0.1)
    store, lock = driver_lock
    async with lock:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.open(KEY)
        await asyncio.wait(store._calls.tasks, timeout=5)
        assert not store._calls.tasks


@leaves_sockets
@pytest.mark.anyio
async def test_a_port_where_nobody_listens(make: Make) -> None:
    store = make(f"mongodb://127.0.0.1:{free_port()}/app", 0.5)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"Connect|refused"):
        await store.open(KEY)
    assert time.monotonic() - began < 0.6


@leaves_sockets
@pytest.mark.anyio
async def test_a_server_that_never_answers_a_handshake(make: Make) -> None:
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    store = make(f"mongodb://127.0.0.1:{silent.sockets[0].getsockname()[1]}/app", 0.5)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.open(KEY)
    assert time.monotonic() - began < 0.6
    silent.close()
    for writer in writers:
        writer.transport.abort()


@leaves_sockets
@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["absent", "version", "any", "delete"])
async def test_a_write_whose_answer_was_lost_is_made_once(
    make: Make, own_secantus_server: SecantusServer, kind: str
) -> None:
    # As a replica set does, the emulator recognises the write that the driver sends again.
    async with FaultyProxy(own_secantus_server.port) as proxy:
        store = make(direct(proxy.port), 3)
        await store.save(KEY[::-1], OLD, ttl=60)
        if kind != "absent":
            await store.save(KEY, OLD, ttl=60)
        proxy.lose_next_replies()
        before = proxy.connections
        if kind == "delete":
            await store.delete(KEY)
        else:
            match = {"absent": Match.ABSENT, "version": OLD[:16], "any": Match.ANY}[kind]
            assert await store.save(KEY, NEW, ttl=60, match=match) is True  # type: ignore[arg-type]
        assert proxy.connections > before
        assert await store.open(KEY) == (None if kind == "delete" else NEW)


# A server that freezes.


@leaves_sockets
@pytest.mark.anyio
async def test_a_frozen_server_costs_no_more_than_the_deadline(
    make: Make, own_secantus_server: SecantusServer
) -> None:
    store = make(own_secantus_server.url, 0.5)
    await store.save(KEY, OLD, ttl=60)
    own_secantus_server.freeze()
    try:
        for call in calls(store):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await call
            assert 0.4 < time.monotonic() - began < 0.65
        # Motor has ten threads at most on a machine of two cores, and all of them wait.
        began = time.monotonic()
        many = await asyncio.gather(*(store.open(KEY) for _ in range(200)), return_exceptions=True)
        assert time.monotonic() - began < 0.9
        assert {type(error) for error in many} == {StoreUnavailable}
        given_up = asyncio.ensure_future(store.open(KEY))
        await asyncio.sleep(0.05)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert store._calls.tasks, "it goes on"
        await asyncio.wait(store._calls.tasks, timeout=0.6)
        assert not store._calls.tasks, "not longer than the others, although nobody waits for it"
    finally:
        own_secantus_server.thaw()
    await asyncio.sleep(0.5)
    assert await store.save(KEY, NEW, ttl=60) is True
    assert await store.open(KEY) == NEW


@pytest.mark.anyio
async def test_closing_does_not_wait_for_a_frozen_server(
    own_secantus_server: SecantusServer,
) -> None:
    store = MongoStore(own_secantus_server.url, timeout=0.5)
    await store.save(KEY, OLD, ttl=60)
    own_secantus_server.freeze()
    began = time.monotonic()
    await store.aclose()
    assert time.monotonic() - began < 1.5
    own_secantus_server.thaw()
    assert await store.open(KEY) == OLD, "it may be used again"
    await store.aclose()


# Users.


@leaves_sockets
@pytest.mark.anyio
async def test_users_and_what_they_may_do(make: Make, own_secantus_server: SecantusServer) -> None:
    server = own_secantus_server
    await asyncio.to_thread(make_users, server)
    server._options = ("auth",)
    await asyncio.to_thread(server.restart)

    def url(user: str, password: str) -> str:
        return f"mongodb://{user}:{password}@127.0.0.1:{server.port}/app?authSource=admin"

    good = make(url("writer", "s3cret%3A%2F%40"), 3)
    assert await good.save(KEY, OLD, ttl=60) is True
    assert await good.open(KEY) == OLD
    for user, password in (("writer", "wr0ng"), ("nobody", "s3cret%3A%2F%40")):
        store = make(url(user, password), 1)
        for call in (store.open(KEY), store.save(KEY, NEW, ttl=60)):
            with pytest.raises(StoreError) as caught:
                await call
            assert type(caught.value) is StoreError, "waiting does not help"
            assert not any(secret in str(caught.value) for secret in ("s3cret", "wr0ng"))
    reader = make(url("reader", "s3cret%3A%2F%40"), 3)
    assert await reader.open(KEY) == OLD
    for call in (reader.save(KEY, NEW, ttl=60), reader.delete(KEY)):
        with pytest.raises(StoreError) as caught:
            await call
        assert type(caught.value) is StoreError


def make_users(server: SecantusServer) -> None:
    with MongoClient[dict[str, Any]](server.url) as client:
        for user, role in (("writer", "readWrite"), ("reader", "read")):
            client.admin.command(
                "createUser", user, pwd="s3cret:/@", roles=[{"role": role, "db": "app"}]
            )
        # The emulator loses users at a crash, unless something after them was made safe.
        safe = WriteConcern("majority", j=True)
        client.app.get_collection("other", write_concern=safe).insert_one({})


# DNS.


@pytest.mark.anyio
async def test_servers_that_dns_names_are_looked_up_once(
    own_secantus_server: SecantusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def look_up(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.2)
        if asked == 1:
            raise errors.ConfigurationError("The DNS query name does not exist")
        options = {"tls": False, "directConnection": True}
        return {"nodelist": [("127.0.0.1", own_secantus_server.port)], "options": options}

    monkeypatch.setattr("pymongo.asynchronous.uri_parser._parse_srv", look_up)
    store = MongoStore("mongodb+srv://cluster.example.org/app?tls=false", timeout=2)
    with pytest.raises(StoreUnavailable, match="DNS"):
        await store.open(KEY)
    first = asyncio.create_task(store.open(KEY))
    await asyncio.sleep(0.05)
    first.cancel()
    found = await asyncio.gather(*(store.open(KEY) for _ in range(20)))
    assert (found, asked) == ([None] * 20, 2)
    await store.aclose()


@pytest.mark.anyio
async def test_a_slow_look_up_is_there_for_the_next_call(
    own_secantus_server: SecantusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, found = 0, asyncio.Event()

    async def look_up(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        await found.wait()
        options = {"tls": False, "directConnection": True}
        return {"nodelist": [("127.0.0.1", own_secantus_server.port)], "options": options}

    monkeypatch.setattr("pymongo.asynchronous.uri_parser._parse_srv", look_up)
    store = MongoStore("mongodb+srv://cluster.example.org/app?tls=false", timeout=0.5)
    with pytest.raises(StoreUnavailable, match=r"0\.5 s"):
        await store.open(KEY)
    found.set()
    assert await store.open(KEY) is None
    assert asked == 1
    await store.aclose()


@pytest.mark.anyio
async def test_a_name_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = asyncio.Event()

    async def look_up(*args: Any, **kwargs: Any) -> Any:
        await gone.wait()
        raise errors.ConfigurationError("The DNS query timed out")

    monkeypatch.setattr("pymongo.asynchronous.uri_parser._parse_srv", look_up)
    store = MongoStore("mongodb+srv://cluster.example.org/app", timeout=0.3)
    began = time.monotonic()
    for call in calls(store):
        with pytest.raises(StoreUnavailable, match=r"0\.3 s"):
            await call
    assert time.monotonic() - began < 1.7
    gone.set()
    await store.aclose()


# Event loops. Warnings are errors in this suite, also those of the garbage collector.


def test_a_loop_per_call(own_secantus_server: SecantusServer) -> None:
    # As Starlette's TestClient does it when it is not used in a `with`.
    store = MongoStore(own_secantus_server.url, timeout=5)
    for number in range(5):
        value = OLD + b"%d" % number
        assert asyncio.run(store.save(KEY, value, ttl=60)) is True
        assert asyncio.run(store.open(KEY)) == value
        gc.collect()
    assert connected(own_secantus_server) == 0, "every loop's connections were closed"


def test_loops_that_are_closed_without_a_word(
    own_secantus_server: SecantusServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = MongoStore(own_secantus_server.url, timeout=5)
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.save(KEY, OLD, ttl=60))
        loop.close()
        del loop
    assert asyncio.run(store.open(KEY)) == OLD
    gc.collect()
    assert connected(own_secantus_server) == 0
    assert caplog.messages == []


def test_two_loops_at_once(own_secantus_server: SecantusServer) -> None:
    store = MongoStore(own_secantus_server.url, timeout=5)

    async def other_loop() -> list[bytes | None]:
        return list(await asyncio.gather(*(store.open(KEY) for _ in range(20))))

    async def main() -> None:
        await store.save(KEY, OLD, ttl=60)
        elsewhere = [asyncio.to_thread(asyncio.run, other_loop()) for _ in range(3)]
        for found in await asyncio.gather(*elsewhere, other_loop()):
            assert found == [OLD] * 20

    asyncio.run(main())
    gc.collect()
    assert connected(own_secantus_server) == 0


@pytest.mark.parametrize("kind", [AsyncMongoClient, AsyncIOMotorClient])
def test_a_client_on_a_second_loop_is_explained(
    own_secantus_server: SecantusServer, kind: Any
) -> None:
    client = kind(own_secantus_server.url)
    store = MongoStore(client.get_default_database()["sessions"], timeout=5)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.open(KEY))

    async def second() -> None:
        with pytest.raises(StoreError, match="one event loop"):
            await store.open(KEY)

    try:
        asyncio.run(second())
    finally:
        if kind is AsyncMongoClient:
            loop.run_until_complete(client.close())
        else:
            client.close()
        loop.close()


@pytest.mark.anyio
async def test_connections_of_its_own_are_closed(own_secantus_server: SecantusServer) -> None:
    async with FaultyProxy(own_secantus_server.port) as proxy:
        store = MongoStore(direct(proxy.port), timeout=5)
        for _ in range(2):
            await store.open(KEY)
            assert await store.open(KEY) is None
            assert proxy.open_connections == 2, "the monitor's connection, and one to ask on"
            await asyncio.gather(*(store.open(KEY) for _ in range(5)))
            assert proxy.open_connections
            await store.aclose()
            await store.aclose()
            for _ in range(50):
                if not proxy.open_connections:
                    break
                await asyncio.sleep(0.01)
            assert not proxy.open_connections


def calls(store: MongoStore) -> Any:
    """Yield one call of each kind, to be awaited one after the other."""
    yield store.open(KEY)
    yield store.save(KEY, NEW, ttl=60)
    yield store.save(KEY, NEW, ttl=60, match=Match.ABSENT)
    yield store.save(KEY, NEW, ttl=60, match=OLD[:16])
    yield store.delete(KEY)


def connected(server: SecantusServer) -> int:
    """Return how many connections to the server this process has."""
    found = 0
    for _ in range(50):
        with open("/proc/self/net/tcp") as table:
            rows = [line.split() for line in table.readlines()[1:]]
        port = f":{server.port:04X}"
        found = sum(row[2].endswith(port) and row[3] == "01" for row in rows)
        if not found:
            break
        time.sleep(0.02)
    return found
