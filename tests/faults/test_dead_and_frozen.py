"""F-1 and F-3: the store dies, or freezes, with requests of an app between load and save."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from faults.networked import Networked
from faults.watch import LoopWatch
from harness import ADAPTERS, VIEWS, Answer, Client

from async_session import Session, SessionPolicy

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.usefixtures("quiet")]

#: Of a call, and of a commit.
DEADLINE = 1.5
FAILED = {500, 503}
CLIENTS = 10


class World:
    """An app and clients who are signed in, each with a session of its own."""

    def __init__(self, adapter: str, store: Any) -> None:
        self.loaded = 0
        self._gate = asyncio.Event()
        views = {**VIEWS, "hold": self._hold, "count": _count}
        self.app = ADAPTERS[adapter](views, store, policy=SessionPolicy(timeout=DEADLINE))
        self.clients = [Client(self.app) for _ in range(CLIENTS)]

    async def sign_in(self) -> None:
        for client in self.clients:
            assert (await client.get("sign_in")).status == 200

    async def held(self, view: str = "hold") -> list[asyncio.Task[tuple[Answer, float]]]:
        """Let every client ask; return when all have loaded and none has saved."""
        tasks = [asyncio.create_task(self._timed(client)) for client in self.clients]
        while self.loaded < CLIENTS:
            for task in tasks:
                assert not task.done(), f"it did not load: {task.result()}"
            await asyncio.sleep(0.005)
        return tasks

    def release(self) -> None:
        self._released = time.monotonic()
        self._gate.set()

    async def _timed(self, client: Client) -> tuple[Answer, float]:
        answer = await client.twin().get("hold")
        return answer, time.monotonic() - self._released

    async def _hold(self, session: Session) -> None:
        assert session["user"] == "ada"
        self.loaded += 1
        await self._gate.wait()
        session["written"] = True


async def _count(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


async def timed(client: Client, view: str) -> tuple[Answer, float]:
    began = time.monotonic()
    answer = await client.twin().get(view)
    return answer, time.monotonic() - began


@pytest.fixture(params=sorted(ADAPTERS))
def make_world(request: pytest.FixtureRequest) -> Callable[[Any], World]:
    return lambda store: World(str(request.param), store)


async def test_killed_between_load_and_save(
    make_world: Callable[[Any], World], networked: Networked
) -> None:
    """F-1: each request ends within its deadline, and the first one after the restart succeeds."""
    world = make_world(networked.store(timeout=DEADLINE))
    await world.sign_in()
    waiting = await world.held()
    await asyncio.to_thread(networked.server.kill)
    async with LoopWatch() as loop:
        world.release()
        answers = await asyncio.gather(*waiting)
    for answer, seconds in answers:
        assert answer.status in FAILED
        assert answer.set_cookie is None
        assert seconds < DEADLINE * 1.1 + loop.worst
    await asyncio.to_thread(networked.server.start)
    first = await world.clients[0].get("read")
    assert (first.status, "ada" in first.body) == (200, networked.durable)
    assert (await world.clients[0].get("write")).status == 200


async def test_a_success_is_stored(
    make_world: Callable[[Any], World], networked: Networked, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-1: killed under load: what was acknowledged is there, of what was not one step at most."""
    world = make_world(networked.store(timeout=DEADLINE))
    await world.sign_in()
    acknowledged = [0] * CLIENTS

    async def count(number: int) -> None:
        while True:
            answer, seconds = await timed(world.clients[number], "count")
            assert seconds < 2 * DEADLINE * 1.1 + loop.worst
            if answer.status in FAILED:
                assert answer.set_cookie is None
                return
            acknowledged[number] += 1

    async with LoopWatch() as loop, asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(count(number))
        while sum(acknowledged) < 2 * CLIENTS:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(networked.server.kill)
    await asyncio.to_thread(networked.server.start)
    for client, count_of in zip(world.clients, acknowledged, strict=True):
        answer = await client.get("read")
        assert answer.status == 200
        if networked.durable:
            stored = eval(answer.body).get("n", 0)
            assert stored in {count_of, count_of + 1}
    with capsys.disabled():
        print(f"\n{sum(acknowledged)} acknowledged before the crash")


async def test_frozen_between_load_and_save(
    make_world: Callable[[Any], World], networked: Networked
) -> None:
    """F-3: a frozen store costs a request its deadlines, and nothing after the thaw."""
    world = make_world(networked.store(timeout=DEADLINE))
    await world.sign_in()
    waiting = await world.held()
    await asyncio.to_thread(networked.server.freeze)
    try:
        world.release()
        views = ["read", "write", "logout"] * 3
        asking = [timed(world.clients[n], view) for n, view in enumerate(views)]
        anonymous = timed(Client(world.app), "read")
        async with LoopWatch() as loop:
            (answer, seconds), *rest = await asyncio.gather(anonymous, *asking, *waiting)
        assert (answer.status, answer.body) == (200, "{}")
        assert seconds < DEADLINE / 2, "who has no session does not wait"
        for answer, seconds in rest:
            assert answer.status in FAILED
            assert answer.set_cookie is None
            assert seconds < DEADLINE * 1.1 + loop.worst
    finally:
        await asyncio.to_thread(networked.server.thaw)
    for client in world.clients:
        answer, seconds = await timed(client, "read")
        assert (answer.status, "ada" in answer.body) == (200, True)
        assert seconds < DEADLINE / 2
