"""Every networked store amid thousands of cancelled calls, through a proxy that delays."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from backends import BACKENDS, on, running

from async_session import Match, SessionStore
from async_session.testing import FaultyProxy

OLD, NEW = b"old-version-0001" + b"o" * 500, b"new-version-0002" + b"n" * 500
CANCELLED = 3000
WORKERS = 60

#: Sentinel and a cluster's URL lead to the servers' own addresses, so no proxy can stand between;
#: nor where there is no port or no server. An app's client of DynamoDB is like the store's own.
LEFT_OUT = {
    *("redis socket", "cluster url", "sentinel url", "memcached socket", "sqlite"),
    "dynamodb client",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("name", on(BACKENDS.keys() - LEFT_OUT))
async def test_a_storm_of_cancelled_calls_harms_nobody(name: str, tmp_path: Path) -> None:
    backend = BACKENDS[name]
    async with running(backend, tmp_path) as servers, contextlib.AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(FaultyProxy(port, delay=(0.0, 0.004)))
            for port in servers.ports
        ]
        store = await stack.enter_async_context(
            backend.connect(servers, [proxy.port for proxy in proxies])
        )
        storm = Storm(store)
        async with asyncio.timeout(100):
            await storm.run()
        assert storm.wrong == []
        assert storm.cancelled == CANCELLED
        assert storm.lived > 300
        if backend.connections is not None:
            made = sum(proxy.connections for proxy in proxies)
            assert made <= backend.connections, "a cancelled call does not cost its connection"


class Storm:
    """Calls that are cancelled at any moment, and among them calls that must be answered right."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self.wrong: list[object] = []
        self.cancelled = self.lived = 0
        self._chance = random.Random("storm")
        # Those of the live; the doomed only read them.
        self._values = {f"{n:064x}": b"%016d" % n + self._chance.randbytes(50) for n in range(30)}

    async def run(self) -> None:
        for key, value in self._values.items():
            assert await self.store.save(key, value, ttl=600) is True
        async with asyncio.TaskGroup() as tasks:
            for number in range(WORKERS):
                tasks.create_task(self._work(number))
        for key, value in self._values.items():
            self._check(key, await self.store.open(key), value)

    async def _work(self, number: int) -> None:
        turn = 0
        while self.cancelled < CANCELLED:
            await self._doomed()
            if turn % 9 == number % 9:
                await self._live(f"f{number:03x}{turn:060x}")
            turn += 1

    async def _live(self, mine: str) -> None:
        """Read what is everybody's, and write what is nobody else's."""
        store, chance = self.store, self._chance
        key = chance.choice(list(self._values))
        self._check("everybody's", await store.open(key), self._values[key])
        first, second = chance.randbytes(40), chance.randbytes(40)
        for what, data, match, stored in (
            ("created", first, Match.ABSENT, True),
            ("replaced", second, first[:16], True),
            ("too late", first, first[:16], False),
        ):
            self._check(what, await store.save(mine, data, ttl=600, match=match), stored)
        self._check("mine", await store.open(mine), second)
        self.lived += 1

    def _check(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.wrong.append((what, found))

    async def _doomed(self) -> None:
        store, chance = self.store, self._chance
        other = f"e{chance.randrange(20):063x}"
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.open(chance.choice(list(self._values))),
            lambda: store.open(other),
            lambda: store.delete(other),
            lambda: store.save(other, OLD, ttl=60),
            lambda: store.save(other, OLD + bytes(30_000), ttl=60, match=Match.ABSENT),
            lambda: store.save(other, NEW, ttl=60, match=OLD[:16]),
        ]
        task = asyncio.ensure_future(chance.choice(calls)())
        await asyncio.sleep(chance.uniform(0, 0.008))
        if self.cancelled < CANCELLED:
            self.cancelled += task.cancel()
        await asyncio.wait([task])
