"""Redis Cluster and Sentinel: what was acknowledged before a primary died is right afterwards.

With ``wait_replicas=1``. Without it what the replica did not have yet is lost, and counted here.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import valkey.asyncio
from harness import VIEWS, Client, starlette_app
from redis_groups import RedisCluster, SentinelTrio, ask, cut_off, until
from servers import RedisServer

from async_session.stores.redis import RedisStore
from async_session.testing import SharedStoreConformance, StoreConformance

pytestmark = pytest.mark.anyio

# Imported here, and not in an event loop.
assert valkey.asyncio


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


class Users:
    """People of whom each has a browser, and what they were told."""

    def __init__(self, store: RedisStore) -> None:
        self._app = starlette_app(VIEWS, store)
        self._signed_in: list[Client] = []
        self._signed_out: list[Client] = []
        self.requests = self.refused = 0

    async def sign_in(self) -> None:
        client = Client(self._app)
        if await self._is_done(client, "sign_in"):
            self._signed_in.append(client)

    async def sign_out(self) -> None:
        client = self._signed_in.pop(0)
        before = client.twin()
        if await self._is_done(client, "logout"):
            self._signed_out.append(before)

    async def _is_done(self, client: Client, view: str) -> bool:
        answer = await client.get(view)
        self.requests += 1
        self.refused += answer.status == 503
        assert answer.status in {200, 503}, "anything else is no StoreUnavailable"
        return answer.status == 200

    async def look_again(self) -> tuple[int, int]:
        """Return how many sessions were lost, and how many logouts were undone."""
        found = [await self._reads(clients) for clients in (self._signed_in, self._signed_out)]
        assert all(len(bodies) > 50 for bodies in found)
        return found[0].count("{}"), len(found[1]) - found[1].count("{}")

    async def _reads(self, clients: list[Client]) -> list[str]:
        bodies: list[str] = []
        for client in clients:
            answer = await client.get("read")
            while answer.status == 503:  # until the failover is over
                await asyncio.sleep(0.05)
                answer = await client.get("read")
            bodies.append(answer.body)
        return bodies


async def at_once(*many: Callable[[], Awaitable[None]]) -> None:
    for start in range(0, len(many), 100):
        await asyncio.gather(*(one() for one in many[start : start + 100]))


@pytest.mark.parametrize("replicas", [1, 0])
@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
async def test_what_was_acknowledged_survives_a_failover(
    kind: str, replicas: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1000 requests, while a primary dies whose replica was cut off some 300 requests before."""
    make = RedisCluster if kind == "cluster" else SentinelTrio
    group: RedisCluster | SentinelTrio = await asyncio.to_thread(make, tmp_path)
    store = RedisStore(group.url, timeout=1, wait_replicas=replicas)
    users = Users(store)
    try:
        await asyncio.to_thread(group.start)
        primary = await asyncio.to_thread(lambda: group.primaries()[0])
        replica = await asyncio.to_thread(group.replica_of, primary)
        async with asyncio.timeout(60):
            await at_once(*[users.sign_in] * 425)
            await at_once(*[users.sign_out] * 75)
            await asyncio.to_thread(until, lambda: in_step(primary, replica))
            await asyncio.to_thread(cut_off, replica, primary)
            await at_once(*[users.sign_in, users.sign_out] * 150)
            await at_once(
                lambda: asyncio.to_thread(fail_over, primary, replica),
                *[users.sign_in, users.sign_out] * 100,
            )
            lost, undone = await users.look_again()
    finally:
        await store.aclose()
        await asyncio.to_thread(group.kill)
    with capsys.disabled():
        print(
            f"\n{kind}, wait_replicas={replicas}: of {users.requests} requests {users.refused} "
            f"refused; {lost} acknowledged sessions lost, {undone} acknowledged logouts undone"
        )
    assert users.requests == 1000
    if replicas:
        assert (lost, undone) == (0, 0)
    else:
        assert lost > 0, "or nothing was shown with wait_replicas=1"
        assert undone > 0


def in_step(primary: RedisServer, replica: RedisServer) -> bool:
    """Tell whether the replica has all that its primary wrote."""
    return ask(primary.port, "WAIT 1 1000").startswith(":1") and "connected" in ask(
        replica.port, "ROLE"
    )


def fail_over(primary: RedisServer, replica: RedisServer) -> None:
    primary.kill()
    replica.thaw()
