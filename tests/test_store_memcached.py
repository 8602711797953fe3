"""What the memcached store promises beyond the contract: nodes, outages, cancellation, limits."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiomcache
import anyio
import pytest
from harness import ADAPTERS, VIEWS, Client
from harness import KEY as SECRET
from proxy import answering
from servers import MemcachedServer, free_port

from async_session._flask_session import store_from_config
from async_session.errors import ConfigurationError, StoreError, StoreUnavailable
from async_session.stores import _memcached_wire as wire
from async_session.stores._memcached_nodes import Node, node_of, parse_nodes
from async_session.stores.base import Match
from async_session.stores.memcached import MemcachedStore
from async_session.testing import FaultyProxy
from async_session.tokens import CookieSigner

KEY = "ab" + "0" * 62
NAME = b"session:" + KEY.encode()
OLD, NEW = b"\x80old-version-001" + b"o" * 500, b"\x80new-version-002" + b"n" * 500
DAY = 24 * 3600


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(own_memcached_server: MemcachedServer) -> AsyncIterator[MemcachedStore]:
    store = MemcachedStore(own_memcached_server.address, timeout=0.5)
    yield store
    await store.aclose()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[MemcachedServer]]:
    """Three nodes that the test may freeze."""
    nodes = [MemcachedServer(tmp_path) for _ in range(3)]
    for node in nodes:
        node.start()
    yield nodes
    for node in nodes:
        node.kill()


async def run_server(call: Callable[[], object]) -> None:
    """Stop and start a server from a thread, as somebody else would."""
    await asyncio.to_thread(call)


def calls(store: MemcachedStore, key: str = KEY) -> Iterator[Awaitable[object]]:
    """Yield one call of each kind, to be awaited one after the other."""
    yield store.open(key)
    yield store.save(key, NEW, ttl=60)
    yield store.save(key, NEW, ttl=60, match=Match.ABSENT)
    yield store.save(key, NEW, ttl=60, match=OLD[:16])
    yield store.delete(key)


# Outages.


@pytest.mark.anyio
async def test_a_dead_server_is_unavailable_at_once(
    store: MemcachedStore, own_memcached_server: MemcachedServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    await run_server(own_memcached_server.kill)
    began = time.monotonic()
    for call in calls(store):
        with pytest.raises(StoreUnavailable, match="not available") as caught:
            await call
        assert isinstance(caught.value.__cause__, OSError)
    assert time.monotonic() - began < 0.5


@pytest.mark.anyio
async def test_those_who_wait_when_the_server_dies_are_told_at_once(
    own_memcached_server: MemcachedServer,
) -> None:
    store = MemcachedStore(own_memcached_server.address, timeout=30)
    await store.save(KEY, OLD, ttl=60)
    own_memcached_server.freeze()
    waiting = [asyncio.ensure_future(call) for _ in range(10) for call in calls(store)]
    await asyncio.sleep(0.05)
    await run_server(own_memcached_server.kill)
    done, pending = await asyncio.wait(waiting, timeout=5)
    assert not pending
    assert {type(task.exception()) for task in done} == {StoreUnavailable}
    await store.aclose()


@pytest.mark.anyio
async def test_a_frozen_server_costs_no_more_than_the_deadline(
    store: MemcachedStore, own_memcached_server: MemcachedServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    own_memcached_server.freeze()
    try:
        for call in calls(store):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"0\.5 s"):
                await call
            assert 0.45 < time.monotonic() - began < 0.8
        began = time.monotonic()
        many = [call for _ in range(50) for call in calls(store)]
        found = await asyncio.gather(*many, return_exceptions=True)
        assert {type(error) for error in found} == {StoreUnavailable}
        assert time.monotonic() - began < 0.9
    finally:
        own_memcached_server.thaw()
    # What was sent to it may still arrive; answers to the calls given up do not.
    await asyncio.sleep(0.1)
    await store.save(KEY, NEW, ttl=60)
    assert await store.open(KEY) == NEW


@pytest.mark.anyio
async def test_large_values_do_not_pile_up_before_a_frozen_server(
    own_memcached_server: MemcachedServer,
) -> None:
    store = MemcachedStore(own_memcached_server.address, timeout=0.7)
    value = OLD[:16] + bytes(900_000)
    await store.save(KEY, OLD, ttl=60)
    own_memcached_server.freeze()
    tracemalloc.start()
    try:
        saves = (store.save(KEY, value, ttl=60) for _ in range(100))
        found = await asyncio.gather(*saves, return_exceptions=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        own_memcached_server.thaw()
    assert {type(error) for error in found} == {StoreUnavailable}
    assert peak < 20_000_000, "what nobody takes is not even put together"
    await store.aclose()


@pytest.mark.anyio
async def test_what_was_not_sent_to_a_frozen_server_never_is(
    own_memcached_server: MemcachedServer,
) -> None:
    store = MemcachedStore(own_memcached_server.address, timeout=0.5)
    await store.save(KEY, OLD, ttl=60)
    own_memcached_server.freeze()
    try:
        saves = (store.save(KEY, bytes(900_000), ttl=60) for _ in range(20))
        await asyncio.gather(*saves, return_exceptions=True)
        async with asyncio.timeout(2):
            await store.aclose()  # would wait until the server has taken all of it
    finally:
        own_memcached_server.thaw()


@pytest.mark.anyio
async def test_a_connection_that_went_silent_is_not_used_again() -> None:
    # As behind a firewall that forgot it: nothing comes back, not even an error.
    async with answering(b"END\r\n", b"", b"END\r\n") as (address, asked):
        store = MemcachedStore(address, timeout=0.3)
        assert await store.open(KEY) is None
        with pytest.raises(StoreUnavailable, match="no answer"):
            await store.open(KEY)
        assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is False
        assert len(asked) == 3
        await store.aclose()


@pytest.mark.anyio
async def test_the_many_who_wait_for_a_slow_connection_have_their_turn(
    own_memcached_server: MemcachedServer,
) -> None:
    # Far more than the sockets take at once: all wait for it to be writable again and again.
    async with FaultyProxy(own_memcached_server.port, delay=0.005) as proxy:
        store = MemcachedStore(proxy.address, timeout=30)
        values = {f"{n:064x}": OLD[:16] + bytes([n]) * 700_000 for n in range(40)}
        saved = await asyncio.gather(*(store.save(k, v, ttl=60) for k, v in values.items()))
        assert saved == [True] * 40
        assert await asyncio.gather(*map(store.open, values)) == list(values.values())
        assert proxy.connections == 1
        await store.aclose()


@pytest.mark.anyio
async def test_a_port_where_nobody_listens() -> None:
    store = MemcachedStore(f"127.0.0.1:{free_port()}", timeout=0.5)
    began = time.monotonic()
    for call in calls(store):
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert isinstance(caught.value.__cause__, OSError)
    assert time.monotonic() - began < 0.5
    await store.aclose()


@pytest.mark.anyio
async def test_a_name_that_is_nobodys() -> None:
    store = MemcachedStore("nobody.invalid", timeout=1)
    with pytest.raises(StoreUnavailable, match=r"nobody\.invalid:11211"):
        await store.open(KEY)
    await store.aclose()


@pytest.mark.anyio
async def test_one_attempt_to_connect_serves_all_who_wait(
    own_memcached_server: MemcachedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, attempts, may_go_on = Node.connect, [], asyncio.Event()

    async def slowly(node: Node, make: Any) -> Any:
        attempts.append(node.name)
        await may_go_on.wait()
        return await connect(node, make)

    monkeypatch.setattr(Node, "connect", slowly)
    store = MemcachedStore(own_memcached_server.address, timeout=0.5)
    for _ in range(2):
        began = time.monotonic()
        many = [call for _ in range(10) for call in calls(store)]
        found = await asyncio.gather(*many, return_exceptions=True)
        assert {type(error) for error in found} == {StoreUnavailable}
        assert time.monotonic() - began < 0.8
    # The callers gave up, the attempt did not: the next call has what it brings.
    may_go_on.set()
    assert await store.open(KEY) is None
    assert attempts == [own_memcached_server.address]
    await store.aclose()


@pytest.mark.anyio
async def test_closing_ends_an_attempt_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(node: Node, make: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Node, "connect", never)
    store = MemcachedStore("127.0.0.1", timeout=30)
    tasks = asyncio.all_tasks()
    opening = asyncio.ensure_future(store.open(KEY))
    await asyncio.sleep(0.01)
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="closed"):
        await opening
    assert asyncio.all_tasks() == tasks


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["open", "delete", "any", "absent", "version"])
async def test_only_reads_and_deletes_are_sent_again(kind: str) -> None:
    # The connection breaks after the request was read: was it done or not?
    read = b"VALUE %b 0 %d 7\r\n%b\r\nEND\r\n" % (NAME, len(OLD), OLD)
    script = {
        "open": (None, b"END\r\n"),
        "delete": (None, b"DELETED\r\n"),
        "any": (None, b"STORED\r\n"),
        "absent": (None, b"STORED\r\n"),
        "version": (None, read, None, b"STORED\r\n"),
    }
    async with answering(*script[kind]) as (address, asked):
        store = MemcachedStore(address)
        if kind == "open":
            assert await store.open(KEY) is None
        elif kind == "delete":
            await store.delete(KEY)
        else:
            match = {"any": Match.ANY, "absent": Match.ABSENT, "version": OLD[:16]}[kind]
            with pytest.raises(StoreUnavailable, match="it closed the connection"):
                await store.save(KEY, NEW, ttl=60, match=match)  # type: ignore[arg-type]
        await store.aclose()
    verbs = [request.partition(b" ")[0] for request in asked]
    assert (
        verbs
        == {
            "open": [b"get", b"get"],
            "delete": [b"delete", b"delete"],
            "any": [b"set"],
            "absent": [b"add"],
            "version": [b"gets", b"gets", b"cas"],
        }[kind]
    )


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["requests", "replies"])
async def test_a_connection_that_is_reset_at_any_byte(
    own_memcached_server: MemcachedServer, way: str
) -> None:
    async with FaultyProxy(own_memcached_server.port) as proxy:
        store = MemcachedStore(proxy.address, timeout=5)
        direct = MemcachedStore(own_memcached_server.address, timeout=5)
        old, new = OLD[:20], NEW[:20]
        for cut in range(1, 200, 3):
            await direct.save(KEY, old, ttl=60)
            setattr(proxy, f"cut_{way}", cut)
            outcomes: list[object] = []
            for call in (store.save(KEY, new, ttl=60, match=old[:16]), store.open(KEY)):
                try:
                    outcomes.append(await call)
                except StoreUnavailable:
                    outcomes.append(None)
            assert outcomes[0] in {None, True}
            assert outcomes[1] in {None, old, new}
            setattr(proxy, f"cut_{way}", None)
            proxy.reset()
            await asyncio.sleep(0.005)
            found = await store.open(KEY)
            assert found in ({new} if outcomes[0] else {old, new}), "whole or not at all"
        await store.aclose()
        await direct.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"ERROR Too many open connections\r\n", "Too many open connections"),
        (b"CLIENT_ERROR unauthenticated\r\n", "unauthenticated"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "something else"),
        (b"VALUE session:other 0 2\r\nab\r\nEND\r\n", "another key"),
        (b"VALUE " + NAME + b" 0 2\r\nabcdef\r\nEND\r\n", "where it said"),
        (b"my secret session\r\n", "something else"),
        (b"\x16\x03\x01" + bytes(3000), "protocol"),
    ],
    ids=["full", "auth", "http", "key", "length", "data", "binary"],
)
async def test_what_is_no_answer_ends_the_connection(answer: bytes, says: str) -> None:
    async with answering(answer, answer, b"END\r\n") as (address, _):
        store = MemcachedStore(address)
        with pytest.raises(StoreUnavailable, match=says) as caught:
            await store.open(KEY)
        assert isinstance(caught.value.__cause__, wire.OutOfStep)
        assert "secret" not in str(caught.value)
        assert await store.open(KEY) is None, "on a new connection"
        await store.aclose()


@pytest.mark.anyio
async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    answer = b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (NAME, len(OLD), OLD)
    async with answering(b"END\r\n" + answer, answer) as (address, asked):
        store = MemcachedStore(address)
        assert await store.open(KEY) is None
        await asyncio.sleep(0.01)
        assert await store.open(KEY) == OLD
        assert len(asked) == 2
        await store.aclose()


@pytest.mark.anyio
async def test_a_slow_network_is_no_outage(own_memcached_server: MemcachedServer) -> None:
    async with FaultyProxy(own_memcached_server.port, delay=(0.05, 0.2)) as proxy:
        store = MemcachedStore(proxy.address, timeout=2)
        for _ in range(3):
            assert await store.save(KEY, OLD, ttl=60) is True
            assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is True
            assert await store.open(KEY) == NEW
        assert proxy.connections == 1
        # Late for one call is not dead: the connection stays, and the late answers are not taken.
        proxy.delay = 0.05
        impatient = MemcachedStore(proxy.address, timeout=0.6)
        values = [OLD + b"%d" % n for n in range(20)]
        keys = [f"{n:064x}" for n in range(20)]
        saves = (store.save(k, v, ttl=60) for k, v in zip(keys, values, strict=True))
        assert await asyncio.gather(*saves) == [True] * 20
        answers = 0
        for delay in (0.05, 0.35, 0.05):
            proxy.delay = delay
            found = await asyncio.gather(*map(impatient.open, keys), return_exceptions=True)
            for answer, value in zip(found, values, strict=True):
                assert answer == value or type(answer) is StoreUnavailable
                answers += answer == value
        assert answers >= 20
        await impatient.aclose()
        await store.aclose()


# Nodes.


def keys_of(store: MemcachedStore, name: str, count: int) -> list[str]:
    """Return keys that the node called `name` keeps."""
    candidates = (f"{number:064x}" for number in range(100_000))
    mine = (key for key in candidates if node_of(store._nodes, key).name == name)
    return [next(mine) for _ in range(count)]


@pytest.mark.anyio
async def test_a_frozen_node_is_nobody_elses_business(three: list[MemcachedServer]) -> None:
    store = MemcachedStore([node.address for node in three], timeout=0.6)
    frozen, *others = three
    theirs = keys_of(store, frozen.address, 4)
    rest = [key for node in others for key in keys_of(store, node.address, 4)]
    for key in [*theirs, *rest]:
        assert await store.save(key, OLD, ttl=600) is True
    frozen.freeze()
    try:
        for call in calls(store, theirs[0]):
            with pytest.raises(StoreUnavailable, match=frozen.address):
                await call
        # A logout fails, and says so; so does a write of another request.
        ended, written = b"\x80" + os.urandom(15) + b"ended", b"\x80" + os.urandom(15) + b"late"
        for value in (written, ended):
            with pytest.raises(StoreUnavailable):
                await store.save(theirs[2], value, ttl=30, match=OLD[:16])
        began = time.monotonic()
        for key in rest:
            assert await store.open(key) == OLD
            assert await store.save(key, NEW, ttl=600, match=OLD[:16]) is True
        assert time.monotonic() - began < 0.6, "they did not wait for it"
    finally:
        frozen.thaw()
    # Now the logout is acknowledged; nothing that was sent before undoes it.
    found = await store.open(theirs[3])
    assert found == OLD
    assert await store.save(theirs[3], ended, ttl=30, match=OLD[:16]) is True
    await asyncio.sleep(0.2)
    assert await store.open(theirs[3]) == ended
    assert await store.open(theirs[2]) in {OLD, ended}
    await store.aclose()


@pytest.mark.anyio
async def test_no_acknowledged_logout_is_undone_after_a_thaw(
    own_memcached_server: MemcachedServer,
) -> None:
    store = MemcachedStore(own_memcached_server.address, timeout=0.15)
    keys = [f"{number:064x}" for number in range(30)]
    for key in keys:
        await store.save(key, OLD, ttl=600)

    async def write(key: str) -> None:
        version = OLD[:16]
        while True:
            value = b"\x80" + os.urandom(15) + b"alive"
            try:
                if not await store.save(key, value, ttl=600, match=version):
                    return
                version = value[:16]
            except StoreUnavailable:
                return

    async def end(key: str) -> bytes:
        while True:
            try:
                found = await store.open(key)
                assert found is not None
                value = b"\x80" + os.urandom(15) + b"ended"
                if await store.save(key, value, ttl=600, match=found[:16]):
                    return value
            except StoreUnavailable:
                await asyncio.sleep(0.01)

    for _ in range(3):
        writers = [asyncio.ensure_future(write(key)) for key in keys]
        await asyncio.sleep(0.01)
        own_memcached_server.freeze()
        enders = [asyncio.ensure_future(end(key)) for key in keys]
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in enders), "none was acknowledged meanwhile"
        own_memcached_server.thaw()
        ended = await asyncio.gather(*enders)
        await asyncio.gather(*writers)
        await asyncio.sleep(0.1)
        assert await asyncio.gather(*map(store.open, keys)) == ended
        for key in keys:
            await store.save(key, OLD, ttl=600)
    await store.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
async def test_an_app_on_three_nodes_of_which_one_is_frozen(
    adapter: str, three: list[MemcachedServer]
) -> None:
    store = MemcachedStore([node.address for node in three], timeout=1)
    app = ADAPTERS[adapter](VIEWS, store)
    # Two clients of each node.
    clients: dict[str, list[Client]] = {node.address: [] for node in three}
    while min(map(len, clients.values())) < 2:
        client = Client(app)
        assert (await client.get("sign_in")).status == 200
        ticket = CookieSigner([SECRET.encode()]).verify(client.cookie or "")
        assert ticket is not None
        clients[node_of(store._nodes, ticket.key).name].append(client)
    frozen, *others = (clients[node.address][:2] for node in three)
    three[0].freeze()
    try:
        for client in frozen:
            answer = await client.get("logout")
            assert answer.status in {500, 503}, "nobody handles the error on Quart"
            assert answer.set_cookie is None
        for client in [client for two in others for client in two]:
            assert "ada" in (await client.get("read")).body
            assert (await client.get("logout")).status == 200
    finally:
        three[0].thaw()
    for client in frozen:
        assert (await client.get("logout")).status == 200
        assert "ada" not in (await client.get("read")).body
    await store.aclose()


def test_a_key_has_one_place_for_ever() -> None:
    # The table is part of the format: another mapping would log everybody out.
    nodes = parse_nodes("memcached://a:11211,b:11211,c:11211")
    keys = [f"{number:064x}" for number in range(3000)]
    places = [node_of(nodes, key).name for key in keys]
    assert "".join(place[0] for place in places[:24]) == PLACES
    assert min(Counter(places).values()) > 900
    assert [node_of(nodes[::-1], key).name for key in keys] == places, "whatever the order"
    more = parse_nodes("a, B:11211 ,c,d")
    now = [node_of(more, key).name for key in keys]
    moved = [new for old, new in zip(places, now, strict=True) if new != old]
    assert set(moved) == {"d:11211"}
    assert 600 < len(moved) < 900, "with a fourth node a quarter of the keys move, and only to it"


PLACES = "bbbbacacabbcbcbaccababca"


# Limits.


@pytest.mark.anyio
async def test_a_value_that_is_too_large_is_not_sent(own_memcached_server: MemcachedServer) -> None:
    async with FaultyProxy(own_memcached_server.port) as proxy:
        store = MemcachedStore(proxy.address, max_value=1000)
        for match in (Match.ANY, Match.ABSENT, OLD[:16]):
            with pytest.raises(StoreError, match=r"1001 bytes.* -I") as caught:
                await store.save(KEY, bytes(1001), ttl=60, match=match)
            assert type(caught.value) is StoreError
        assert proxy.connections == 0
        assert await store.save(KEY, bytes(1000), ttl=60) is True
        await store.aclose()


@pytest.mark.anyio
async def test_what_the_server_finds_too_large_is_typed(
    own_memcached_server: MemcachedServer,
) -> None:
    async with FaultyProxy(own_memcached_server.port) as proxy:
        store = MemcachedStore(proxy.address, timeout=5, max_value=3_000_000)
        key = KEY[::-1]
        await store.save(key, OLD, ttl=60)
        for match in (Match.ANY, Match.ABSENT):
            saving = asyncio.ensure_future(store.save(KEY, bytes(2_000_000), ttl=60, match=match))
            reading = asyncio.ensure_future(store.open(key))
            with pytest.raises(StoreError, match="object too large") as caught:
                await saving
            assert type(caught.value) is StoreError
            assert await reading == OLD
        assert proxy.connections == 1, "one answer like any other"
        await store.aclose()


@pytest.mark.anyio
async def test_a_larger_limit_on_both_sides(tmp_path: Path) -> None:
    server = MemcachedServer(tmp_path, "-I", "4m")
    await run_server(server.start)
    try:
        store = MemcachedStore(server.address, timeout=5, max_value=3_000_000)
        value = os.urandom(3_000_000)
        assert await store.save(KEY, value, ttl=60) is True
        assert await store.save(KEY, value, ttl=60, match=value[:16]) is True
        assert await store.open(KEY) == value
        await store.aclose()
    finally:
        await run_server(server.kill)


@pytest.mark.anyio
async def test_an_evicted_record_is_absent_and_stays_so(tmp_path: Path) -> None:
    server = MemcachedServer(tmp_path, "-m", "8")
    await run_server(server.start)
    try:
        store = MemcachedStore(server.address, timeout=5)
        await store.save(KEY, OLD[:16] + bytes(400_000), ttl=6000)
        for number in range(60):
            await store.save(f"{number:064x}", bytes(400_000), ttl=6000)
        assert await store.open(KEY) is None
        assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is False
        assert await store.open(KEY) is None
        await store.aclose()
    finally:
        await run_server(server.kill)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("ttl", "exptime"),
    [
        (1, 2),
        (30, 31),
        (30 * DAY - 1, 30 * DAY),
        # From here on it is a date. One second for the server's clock, a minute for ours.
        (30 * DAY, 1_900_000_001 + 30 * DAY + 61),
        (31 * DAY, 1_900_000_001 + 31 * DAY + 61),
        (400 * DAY, 1_900_000_001 + 400 * DAY + 61),
    ],
)
async def test_the_lifetime_that_is_sent(ttl: int, exptime: int) -> None:
    read = b"VALUE %b 0 %d 7\r\n%b\r\nEND\r\n" % (NAME, len(OLD), OLD)
    stored = b"STORED\r\n"
    async with answering(stored, stored, read, stored) as (address, asked):
        store = MemcachedStore(address, clock=lambda: 1_900_000_000.25)
        for match in (Match.ANY, Match.ABSENT, OLD[:16]):
            assert await store.save(KEY, NEW, ttl=ttl, match=match) is True
        await store.aclose()
    heads = [request.partition(b"\r\n")[0] for request in asked]
    rest = b"%b 0 %d %d" % (NAME, exptime, len(NEW))
    assert heads == [b"set " + rest, b"add " + rest, b"gets " + NAME, b"cas " + rest + b" 7"]


@pytest.mark.anyio
@pytest.mark.parametrize("ttl", [60, 31 * DAY, 400 * DAY])
async def test_the_lifetime_in_the_server(
    store: MemcachedStore, own_memcached_server: MemcachedServer, ttl: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", own_memcached_server.port)
    for match, value in ((Match.ABSENT, OLD), (OLD[:16], NEW), (Match.ANY, OLD)):
        assert await store.save(KEY, value, ttl=ttl, match=match) is True
        writer.write(b"mg " + NAME + b" t\r\n")
        left = int((await reader.readline()).removeprefix(b"HD t"))
        assert ttl <= left <= ttl + 63
    writer.close()
    await writer.wait_closed()


# Guarded writes.


@pytest.mark.anyio
@pytest.mark.parametrize("other", ["changed", "rewritten", "deleted", "always"])
async def test_somebody_writes_between_our_read_and_our_write(
    store: MemcachedStore,
    own_memcached_server: MemcachedServer,
    monkeypatch: pytest.MonkeyPatch,
    other: str,
) -> None:
    rival = MemcachedStore(own_memcached_server.address)
    await rival.save(KEY, OLD, ttl=60)
    ask, clashes = MemcachedStore._ask, 0

    async def interrupted(self: Any, key: str, request: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal clashes
        if self is store and request.parts[0].startswith(b"cas "):
            clashes += 1
            if other == "changed":
                await rival.save(KEY, NEW, ttl=60)
            elif other == "deleted":
                await rival.delete(KEY)
            elif clashes == 1 or other == "always":
                await rival.save(KEY, OLD, ttl=60)
        return await ask(self, key, request, *args, **kwargs)

    monkeypatch.setattr(MemcachedStore, "_ask", interrupted)
    mine = b"\x80mine-version-03" + b"m" * 20
    if other == "always":
        with pytest.raises(StoreUnavailable, match="again in between"):
            await store.save(KEY, mine, ttl=60, match=OLD[:16])
        assert 2 < clashes < 100
    else:
        saved = await store.save(KEY, mine, ttl=60, match=OLD[:16])
        assert saved is (other == "rewritten")
        left = {"changed": NEW, "rewritten": mine, "deleted": None}[other]
        assert await store.open(KEY) == left
    await rival.aclose()


@pytest.mark.anyio
async def test_a_version_has_16_bytes(memcached_url: str) -> None:
    store = MemcachedStore(memcached_url)
    for version in (b"", b"short", bytes(17)):
        with pytest.raises(ValueError, match="16 bytes"):
            await store.save(KEY, NEW, ttl=60, match=version)
    await store.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "key", ["", "a" * 63, KEY.upper(), KEY + "\n", "a b", "a\r\nflush_all\r\n", "é" * 64, "../x"]
)
async def test_only_keys_reach_the_server(key: str) -> None:
    async with answering() as (address, asked):
        store = MemcachedStore(address)
        for call in calls(store, key):
            with pytest.raises(ValueError, match="64"):
                await call
        assert asked == []


# Addresses, clients, URLs.


@pytest.mark.parametrize(
    ("nodes", "shown"),
    [
        ("127.0.0.1:11211", "127.0.0.1:11211"),
        ("localhost", "localhost:11211"),
        ("Cache-1.Example.org:1", "cache-1.example.org:1"),
        ("[::1]", "[::1]:11211"),
        ("[::1]:7", "[::1]:7"),
        ("a:1, b:2,c", "a:1,b:2,c:11211"),
        (["a", "b:2"], "a:11211,b:2"),
        (("a", aiomcache.Client("b", 2)), "a:11211,b:2"),
        (aiomcache.Client("h", 5), "h:5"),
        (aiomcache.Client("::1", 5), "[::1]:5"),
        ("/run/mc.sock", "/run/mc.sock"),
        ("memcached://a:1,b:2,c", "a:1,b:2,c:11211"),
        ("memcached://a:1/", "a:1"),
        ("memcached:///run/my%20mc.sock", "/run/my mc.sock"),
    ],
    ids=str,
)
def test_how_nodes_are_written(nodes: Any, shown: str) -> None:
    assert (
        repr(MemcachedStore(nodes)) == f"MemcachedStore('memcached://{shown}', prefix='session:')"
    )


@pytest.mark.parametrize(
    "nodes",
    [
        None,
        object(),
        b"localhost:11211",
        {"host": "localhost"},
        ("127.0.0.1", 11211),
        [["a"]],
        [],
        "",
        "memcached://",
        "a:",
        "a:0",
        "a:65536",
        "a:port",
        "a b",
        "a,,b",
        "::1",
        "a:1/0",
        "redis://localhost",
        "memcached://a,memcached://b",
        aiomcache.Client,
        MemcachedStore,
    ],
    ids=str,
)
def test_what_is_no_node_is_refused(nodes: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"MemcachedStore\('127\.0\.0\.1:11211'\)"):
        MemcachedStore(nodes)


@pytest.mark.parametrize("nodes", ["a:1,b,a:1", ["a", "A:11211"], ["a", aiomcache.Client("a")]])
def test_a_node_is_named_once(nodes: Any) -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        MemcachedStore(nodes)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memcached://ada:s3cret@h", "no password"),
        ("memcached://h?password=s3cret", "no options"),
        ("ada:s3cret@h:1", "host:port"),
    ],
)
def test_no_secret_is_shown(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        MemcachedStore(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout": 0}, "timeout"),
        ({"max_value": 15}, "max_value"),
        ({"prefix": "my app:"}, "prefix"),
        ({"prefix": "a\r\n"}, "prefix"),
        ({"prefix": "é"}, "prefix"),
        ({"prefix": "p" * 187}, "prefix"),
    ],
)
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        MemcachedStore("localhost", **options)
    assert MemcachedStore("localhost", timeout=2).deadline == 2.0


@pytest.mark.anyio
async def test_the_longest_prefix_fits(memcached_url: str) -> None:
    store = MemcachedStore(memcached_url, prefix="p" * 186)
    assert await store.save(KEY, OLD, ttl=60) is True
    assert await store.open(KEY) == OLD
    await store.aclose()


@pytest.mark.anyio
async def test_a_client_is_left_alone(own_memcached_server: MemcachedServer) -> None:
    # Its connections are not used, because they would not survive a cancelled call.
    mine = free_port()
    client = aiomcache.Client(
        "127.0.0.1", own_memcached_server.port, conn_args={"limit": 1000, "happy_eyeballs_delay": 1}
    )
    with_address = aiomcache.Client(
        "127.0.0.1", own_memcached_server.port, conn_args={"local_addr": ("127.0.0.1", mine)}
    )
    for given in (client, with_address):
        store = MemcachedStore(given)
        await store.save(KEY, OLD, ttl=60)
        assert given._pool.size() == 0
        link = next(iter(next(iter(store._loops.values())).of_node.values()))._link
        assert link is not None
        assert link._transport is not None
        here = link._transport.get_extra_info("sockname")
        assert (here[1] == mine) is (given is with_address)
        assert await client.get(NAME) == OLD
        await store.aclose()
        assert await client.get(NAME) == OLD, "the store closes what it made, and nothing else"
        await client.close()


@pytest.mark.anyio
async def test_a_unix_socket(tmp_path: Path) -> None:
    server = MemcachedServer(tmp_path, unix=True)
    await run_server(server.start)
    try:
        for nodes in (server.address, f"memcached://{server.address}"):
            store = MemcachedStore(nodes)
            await store.save(KEY, OLD, ttl=60)
            assert await store.open(KEY) == OLD
            await store.aclose()
    finally:
        await run_server(server.kill)
    with pytest.raises(StoreUnavailable):
        await store.open(KEY)
    await store.aclose()


# Connections and event loops. Warnings are errors in this suite, also the garbage collector's.


def total_connections(server: MemcachedServer) -> int:
    return stat(server, b"total_connections")


def stat(server: MemcachedServer, name: bytes) -> int:
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(b"stats\r\n")
        found = b""
        while not found.endswith(b"END\r\n"):
            found += s.recv(65536)
    return int(found.partition(b"STAT " + name + b" ")[2].partition(b"\r\n")[0])


def connected(server: MemcachedServer) -> int:
    """Return how many connections there are but this question; a close is seen a bit later."""
    tries = 100
    while (found := stat(server, b"curr_connections") - 1) and tries:
        time.sleep(0.01)
        tries -= 1
    return found


@pytest.mark.anyio
async def test_many_calls_share_one_connection(
    store: MemcachedStore, own_memcached_server: MemcachedServer
) -> None:
    before = await asyncio.to_thread(total_connections, own_memcached_server)
    await asyncio.gather(*(call for _ in range(100) for call in calls(store)))
    after = await asyncio.to_thread(total_connections, own_memcached_server)
    assert after - before == 2, "one for all calls, one for the question"
    await store.aclose()
    await store.aclose()
    assert await asyncio.to_thread(connected, own_memcached_server) == 0
    assert await store.open(KEY) is None, "it may be used again"


@pytest.mark.anyio
async def test_calls_in_flight_when_the_store_is_closed_fail(
    store: MemcachedStore, own_memcached_server: MemcachedServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    own_memcached_server.freeze()
    try:
        waiting = [asyncio.ensure_future(call) for call in calls(store)]
        await asyncio.sleep(0.02)
        await store.aclose()
        found = await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        own_memcached_server.thaw()
    assert {type(error) for error in found} == {StoreUnavailable}
    assert "closed" in str(found[0])
    assert await asyncio.to_thread(connected, own_memcached_server) == 0


def test_a_loop_per_call(own_memcached_server: MemcachedServer) -> None:
    # As Starlette's TestClient does it when it is not used in a `with`.
    store = MemcachedStore(own_memcached_server.address)
    for number in range(5):
        value = OLD + b"%d" % number
        assert asyncio.run(store.save(KEY, value, ttl=60)) is True
        assert asyncio.run(store.open(KEY)) == value
        gc.collect()
    assert connected(own_memcached_server) == 0


def test_loops_that_are_closed_without_a_word(own_memcached_server: MemcachedServer) -> None:
    store = MemcachedStore(own_memcached_server.address)
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.save(KEY, OLD, ttl=60))
        loop.close()
    assert asyncio.run(store.open(KEY)) == OLD
    gc.collect()
    assert connected(own_memcached_server) == 0


def test_two_loops_at_once(own_memcached_server: MemcachedServer) -> None:
    store = MemcachedStore(own_memcached_server.address)

    async def other_loop() -> list[bytes | None]:
        return list(await asyncio.gather(*(store.open(KEY) for _ in range(20))))

    async def main() -> None:
        await store.save(KEY, OLD, ttl=60)
        elsewhere = [asyncio.to_thread(asyncio.run, other_loop()) for _ in range(3)]
        for found in await asyncio.gather(*elsewhere, other_loop()):
            assert found == [OLD] * 20

    asyncio.run(main())
    gc.collect()
    assert connected(own_memcached_server) == 0


def test_trio_is_told(memcached_url: str) -> None:
    store = MemcachedStore(memcached_url)

    async def main() -> None:
        for call in calls(store):
            with pytest.raises(StoreError, match="asyncio only"):
                await call

    anyio.run(main, backend="trio")


# SESSION_TYPE.


@pytest.mark.parametrize("key", ["SESSION_MEMCACHED", "SESSION_URI"])
@pytest.mark.parametrize(
    "value", ["H:1", ["h:1"], "memcached://h:1", aiomcache.Client("h", 1)], ids=str
)
def test_what_flasks_config_makes(key: str, value: Any) -> None:
    config = {"SESSION_TYPE": "memcached", key: value}
    store = store_from_config(config)
    assert repr(store) == "MemcachedStore('memcached://h:1', prefix='session:')"
    store = store_from_config({**config, "SESSION_KEY_PREFIX": "app:"})
    assert repr(store) == "MemcachedStore('memcached://h:1', prefix='app:')"


def test_flasks_config_names_no_server_by_itself() -> None:
    with pytest.raises(ConfigurationError, match="SESSION_MEMCACHED"):
        store_from_config({"SESSION_TYPE": "memcached"})
