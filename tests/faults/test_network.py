"""F-2 and F-4: a network that resets, is slow, or loses a packet in a hundred."""

from __future__ import annotations

import asyncio
import random
import time
from hashlib import sha256
from typing import Any

import pytest
from faults.networked import Networked
from faults.watch import LoopWatch
from harness import VIEWS, Client, starlette_app

from async_session import SessionPolicy, StoreUnavailable
from async_session.testing import FaultyProxy

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.usefixtures("quiet")]

KEY = sha256(b"a session").hexdigest()
#: How many bytes a connection, a read and a write take, and at which of them one is cut: at every
#: one where they are few.
CUTS = {
    "DynamoDBStore": range(1, 1700, 61),
    "MemcachedStore": range(1, 260),
    "MongoStore": range(40, 1800, 150),
    "RedisStore": range(1, 420),
    "SQLAlchemyStore": range(1, 3000, 61),
}
#: MongoDB's driver tries again until the call's time is up; so that is short.
PATIENCE = {"MongoStore": 0.6}
DEADLINE = 2.0
#: The largest pool has a hundred; as many that were given up may be closing meanwhile.
MOST_CONNECTIONS = 200


@pytest.mark.parametrize("way", ["cut_requests", "cut_replies"])
async def test_a_connection_that_is_reset_at_any_byte(networked: Networked, way: str) -> None:
    """F-2: each call is `StoreUnavailable` or whole, and the next one is right."""
    direct = networked.store(timeout=5)
    stored = _value(0)
    await direct.save(KEY, stored, ttl=600)
    lost = 0
    async with FaultyProxy(networked.server.port) as proxy:
        patience = PATIENCE.get(type(direct).__name__, 5.0)
        store = networked.store(timeout=patience, port=proxy.port)
        assert await store.open(KEY) == stored
        for cut in CUTS[type(store).__name__]:
            proxy.reset()
            await asyncio.sleep(0.001)
            setattr(proxy, way, cut)
            new = _value(cut)
            assert await _outcome(store.open(KEY)) in {stored, None}
            saved = await _outcome(store.save(KEY, new, ttl=600, match=stored[:16]))
            assert saved in {True, None}
            setattr(proxy, way, None)
            found = await direct.open(KEY)
            assert found in ({new} if saved else {new, stored})
            proxy.reset()
            await asyncio.sleep(0.001)
            assert await store.open(KEY) == found, "the next call is right"
            lost += saved is None
            stored = found
    assert lost > 5


async def _outcome(call: Any) -> Any:
    try:
        return await call
    except StoreUnavailable:
        return None


def _value(number: int) -> bytes:
    return b"%016d" % number + random.Random(number).randbytes(40)


class LossyProxy(FaultyProxy):
    """A proxy that can lose packets: one that is lost comes again, 200 ms late.

    Attributes:
        loss: how many of all.
        most: how many connections were open at once.
    """

    loss = 0.0
    most = 0

    def _lateness(self) -> float:
        self.most = max(self.most, self.open_connections)
        return super()._lateness() + (0.2 if self._random.random() < self.loss else 0.0)


@pytest.mark.parametrize("network", ["50 ms", "500 ms", "1 % loss"])
async def test_five_hundred_at_once_on_a_bad_network(
    networked: Networked, network: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-4: each ends in time, connections are bounded, and nothing is left waiting behind them."""
    async with LossyProxy(networked.server.port) as proxy:
        store = networked.store(timeout=DEADLINE, port=proxy.port)
        app = starlette_app(VIEWS, store, policy=SessionPolicy(timeout=DEADLINE))
        client = Client(app)
        assert (await client.get("sign_in")).status == 200
        tasks = len(asyncio.all_tasks())
        proxy.delay = {"50 ms": 0.025, "500 ms": 0.25}.get(network, 0.0)
        proxy.loss = 0.01 if network == "1 % loss" else 0.0
        asking = [client.twin().get("read") for _ in range(400)]
        asking += [Client(app).get("write") for _ in range(100)]
        async with LoopWatch() as loop:
            began = time.monotonic()
            answers = await asyncio.gather(*asking)
            seconds = time.monotonic() - began
        served = sum(answer.status == 200 for answer in answers)
        with capsys.disabled():
            print(
                f"\n{type(store).__name__}, {network}: {served} of 500 in {seconds:.1f} s, "
                f"{proxy.most} connections, loop {loop.worst:.2f} s"
            )
        assert {answer.status for answer in answers} <= {200, 503}
        assert seconds < 2 * DEADLINE * 1.1 + loop.worst
        assert proxy.most <= MOST_CONNECTIONS
        proxy.delay = proxy.loss = 0.0
        for _ in range(4):
            await client.get("read")
        answer = await client.get("read")
        assert (answer.status, "ada" in answer.body) == (200, True)
        assert len(asyncio.all_tasks()) < tasks + 30, "as many as connections, and no request's"
