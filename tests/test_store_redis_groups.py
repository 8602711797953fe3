"""Redis Cluster and Sentinel: what was acknowledged before a primary died is right afterwards.

With ``wait_replicas=1``. Without it what the replica did not have yet is lost, and counted here.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import valkey.asyncio
from redis_groups import RedisCluster, SentinelTrio

from async_session import Match, StoreUnavailable
from async_session.stores.redis import RedisStore
from async_session.testing import SharedStoreConformance, StoreConformance

pytestmark = pytest.mark.anyio

# Imported here, and not in an event loop.
assert valkey.asyncio

LIVE = b"\x81" + b"v" * 15 + b"live"
ENDED = b"\x91" + b"e" * 15 + b"ended"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    group = RedisCluster(tmp_path_factory.mktemp("cluster"))
    group.start()
    yield group
    group.kill()


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelTrio]:
    group = SentinelTrio(tmp_path_factory.mktemp("sentinel"))
    group.start()
    yield group
    group.kill()


class TestCluster(StoreConformance, SharedStoreConformance):
    @pytest.fixture
    def factory(self, cluster: RedisCluster) -> functools.partial[RedisStore]:
        return functools.partial(RedisStore, cluster.url, timeout=5)

    @pytest.fixture
    async def store(self, factory: functools.partial[RedisStore]) -> AsyncIterator[RedisStore]:
        store = factory()
        yield store
        await store.aclose()


class TestValkey(StoreConformance, SharedStoreConformance):
    """valkey-py; against redis-server, whose protocol it speaks."""

    @pytest.fixture
    def factory(self, redis_url: str) -> functools.partial[RedisStore]:
        return functools.partial(RedisStore, redis_url.replace("redis://", "valkey://"))

    @pytest.fixture
    async def store(self, factory: functools.partial[RedisStore]) -> AsyncIterator[RedisStore]:
        store = factory()
        yield store
        await store.aclose()


class TestSentinel(TestCluster):
    @pytest.fixture
    def factory(self, trio: SentinelTrio) -> functools.partial[RedisStore]:
        return functools.partial(RedisStore, trio.url, timeout=5)


async def _kill_amid(store: RedisStore, kill: functools.partial[None]) -> tuple[int, int]:
    """Make and end 1000 sessions while a primary is killed; return what went wrong, and errors."""
    acknowledged: dict[str, bytes] = {}
    errors = 0

    async def one(number: int) -> None:
        nonlocal errors
        key = sha256(b"%d" % number).hexdigest()
        try:
            if await store.save(key, LIVE, ttl=600, match=Match.ABSENT):
                acknowledged[key] = LIVE
            if number % 2:
                acknowledged.pop(key, None)  # in doubt, until the end is acknowledged
                if await store.save(key, ENDED, ttl=600, match=LIVE[:16]):
                    acknowledged[key] = ENDED
        except StoreUnavailable:
            errors += 1  # any other error fails the test

    async with asyncio.timeout(120):
        for start in range(0, 1000, 50):
            batch = [one(number) for number in range(start, start + 50)]
            if start == 500:
                batch.append(asyncio.to_thread(kill))
            await asyncio.gather(*batch)
        while True:  # until the failover is over
            try:
                await asyncio.gather(*(store.open(key) for key in list(acknowledged)[:100]))
                break
            except StoreUnavailable:
                await asyncio.sleep(0.1)
        found = {key: await store.open(key) for key in acknowledged}
    return sum(found[key] != data for key, data in acknowledged.items()), errors


@pytest.mark.parametrize("replicas", [1, 0])
@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
async def test_what_was_acknowledged_survives_a_failover(
    kind: str, replicas: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = RedisCluster if kind == "cluster" else SentinelTrio
    group: RedisCluster | SentinelTrio = await asyncio.to_thread(make, tmp_path)
    store = RedisStore(group.url, timeout=1, wait_replicas=replicas)
    try:
        await asyncio.to_thread(group.start)
        victim = await asyncio.to_thread(lambda: group.primaries()[0])
        lost, errors = await _kill_amid(store, functools.partial(victim.kill))
    finally:
        await store.aclose()
        await asyncio.to_thread(group.kill)
    with capsys.disabled():
        print(f"\n{kind}, wait_replicas={replicas}: {lost} acknowledged lost, {errors} errors")
    if replicas:
        assert lost == 0
