"""The Starlette adapter on trio, with the stores that run there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from harness import VIEWS, Client, Clock, starlette_app
from test_races import Outcome, World, _key

from async_session import Match, Session, SessionGone, SessionPolicy, SessionStore
from async_session.stores.filesystem import FileSystemStore
from async_session.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SessionStore:
    if request.param == "memory":
        return MemoryStore()
    return FileSystemStore(tmp_path / "sessions", fsync=False)


async def test_the_way_of_a_visitor(store: SessionStore) -> None:
    clock = Clock()
    policy = SessionPolicy(lifetime=100, permanent=True, refresh_interval=10)
    client = Client(starlette_app(VIEWS, store, policy=policy, clock=clock))
    assert (await client.get("read")).body == "{}"
    first = (await client.get("sign_in")).sent_id
    assert first is not None
    assert "ada" in (await client.get("read")).body
    clock.advance(60)
    assert (await client.get("nothing")).sent_id == first  # refreshed
    second = (await client.get("login")).sent_id
    assert second not in {None, first}
    third = (await client.get("regenerate")).sent_id
    assert third not in {None, first, second}
    clock.advance(100)
    assert "dark" in (await client.get("read")).body
    await client.get("logout")
    assert client.cookie is None
    for cookie in (first, second, third):
        assert (await Client(client.app, cookie).get("read")).body == "{}"


PAIRS = [
    ("write", "write"),
    ("write", "logout"),
    ("read", "logout"),
    ("write", "login"),
    ("nothing", "login"),
    ("regenerate", "logout"),
    ("regenerate", "regenerate"),
    ("write", "regenerate"),
]


@pytest.mark.parametrize(("one", "two"), PAIRS)
async def test_two_requests_at_once(one: str, two: str, store: SessionStore) -> None:
    world = World("starlette", store, permanent=True, due=True)

    async def check(outcome: Outcome) -> None:
        sent = {_key(cookie) for cookie in outcome.sent}
        assert outcome.live.keys() <= sent | {_key(outcome.first)}
        if two == "logout":
            for cookie in {outcome.first, *outcome.sent}:
                assert "ada" not in await world.opens(cookie)
        else:
            assert len(outcome.live) == 1
            assert outcome.jar is not None
            assert "ada" in await world.opens(outcome.jar)

    assert await world.run(one, two, check=check) >= 2


class GateStore(MemoryStore):
    """A store whose saves wait at a gate, once there is one."""

    deadline = None  # type: ignore[assignment]  # it waits, so the manager has to keep the time

    def __init__(self) -> None:
        super().__init__()
        self.gate: anyio.Event | None = None
        self.reached: anyio.Event | None = None

    def shut(self) -> None:
        self.gate, self.reached = anyio.Event(), anyio.Event()

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        if self.gate is not None and self.reached is not None:
            self.reached.set()
            await self.gate.wait()
        return await super().save(key, data, ttl=ttl, match=match)


@pytest.mark.parametrize(
    ("view", "left"), [("write", "'written': True"), ("logout", "{}"), ("regenerate", "{}")]
)
async def test_a_commit_outlasts_the_scope_that_is_cancelled(view: str, left: str) -> None:
    store = GateStore()
    client = Client(starlette_app(VIEWS, store, policy=SessionPolicy(timeout=60)))
    await client.get("sign_in")
    store.shut()
    assert store.gate is not None
    assert store.reached is not None
    scope = anyio.CancelScope()
    ended = anyio.Event()

    async def visit() -> None:
        with scope:
            await client.twin().get(view)
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(visit)
        await store.reached.wait()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not ended.is_set()  # it waits until it is known what became of the write
        store.gate.set()
        await ended.wait()
    assert scope.cancelled_caught  # and only then lets the cancellation through
    assert left in (await client.get("read")).body


async def test_a_commit_has_its_deadline() -> None:
    store = GateStore()
    client = Client(starlette_app(VIEWS, store, policy=SessionPolicy(timeout=0.05)))
    await client.get("sign_in")
    store.shut()
    answer = await client.twin().get("write")
    assert (answer.status, answer.all("retry-after")) == (503, ["5"])
    assert answer.set_cookie is None


async def test_save_and_what_it_raises(store: SessionStore) -> None:
    async def save(session: Session) -> object:
        session["a"] = 1
        await session.save()
        await client.twin().get("logout")
        session["b"] = 1
        with pytest.raises(SessionGone):
            await session.save()
        return "gone"

    views: dict[str, Any] = {**VIEWS, "save": save}
    client = Client(starlette_app(views, store))
    await client.get("sign_in")
    assert (await client.twin().get("save")).body == "'gone'"
    assert (await client.get("read")).body == "{}"
