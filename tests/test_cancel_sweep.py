"""A request that is cancelled at any point leaves the old state or the new one.

A client is signed in and holds one cookie. Its next request is cancelled in three sweeps: at each
await point of the request itself; when each store call of it begins or ends, which is while the
request waits for its commit; and at each await point of the commit's own work, which is what the
end of an event loop does. Then the cookie opens what it opened before or what the request made of
it; or it opens nothing because the request gave the session a new id, and the session lives under
that. No other record lives whose id was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from harness import ADAPTERS, KEY, Answer, ASGIApp, Clock, View, request
from stores import AMPLE

from async_session import Match, Session, SessionManager, SessionPolicy, SessionStore, guarded
from async_session.record import Record, decode
from async_session.testing import RecordingStore, WayToCancel, cancel_everywhere, ways_to_cancel

pytestmark = pytest.mark.anyio

Data = dict[Any, Any]

OLD: Data = {"user": "ada", "seen": 1}


@dataclass(frozen=True)
class Op:
    """What the request does, and what it leaves if it gets that far."""

    say: Callable[[Session], None]
    new: Data
    #: in its commit, if nobody else was there
    calls: int
    owner: str | None = "ada"
    #: whether the session goes on under a new id
    renews: bool = False


OPS = {
    "read": Op(lambda session: None, OLD, 0),
    "write": Op(lambda session: session.update(seen=2), OLD | {"seen": 2}, 1),
    "login": Op(lambda session: session.login("eve"), OLD, 2, "eve", renews=True),
    "regenerate": Op(lambda session: session.regenerate(), OLD, 2, renews=True),
    "logout": Op(lambda session: session.logout(), {}, 1, None),
    "clear": Op(lambda session: session.clear(), {}, 1, None),
}
EACH_OP = pytest.mark.parametrize("op", OPS.values(), ids=OPS)
#: What another request has stored since this one opened: nothing, or what makes it merge.
BESIDE = pytest.mark.parametrize("beside", [{}, {"beside": True}], ids=["alone", "beside"])


class Tripwire(RecordingStore):
    """Cancel when the n-th store call begins (an even step) or ends; `again` at all later steps."""

    def __init__(self, store: SessionStore) -> None:
        super().__init__(store)
        self.steps = 0
        self.wire: tuple[int, Callable[[], object], bool] | None = None

    def arm(self, at: int, cancel: Callable[[], object], *, again: bool = False) -> None:
        self.steps, self.wire = 0, (at, cancel, again)

    def disarm(self) -> int:
        self.wire = None
        return self.steps

    async def watched(self, call: Coroutine[Any, Any, Any]) -> Any:
        self._count()
        try:
            return await call
        finally:
            self._count()

    def _count(self) -> None:
        if self.wire is not None:
            at, cancel, again = self.wire
            if self.steps == at or (again and self.steps > at):
                cancel()
            self.steps += 1

    async def open(self, key: str, /) -> bytes | None:
        found: bytes | None = await self.watched(super().open(key))
        return found

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        saved: bool = await self.watched(super().save(key, data, ttl=ttl, match=match))
        return saved

    async def delete(self, key: str, /) -> None:
        await self.watched(super().delete(key))


class World:
    """A manager on a store, and one client of it."""

    def __init__(self, store: SessionStore) -> None:
        self.store = Tripwire(store)
        policy = SessionPolicy(timeout=AMPLE)
        self.clock = Clock()
        self.manager = SessionManager(self.store, secret_key=KEY, policy=policy, clock=self.clock)
        self.cookie = ""
        self.key = ""
        self.began = False

    async def sign_in(self) -> None:
        self.store.calls.clear()
        self.began = False
        session = await self.manager.open(None)
        session.login("ada")
        session.update(OLD)
        self.cookie = (await self.manager.commit(session)).value or ""
        self.key = session.handle or ""

    async def open(self, op: Op) -> Session:
        session = await self.manager.open(self.cookie)
        op.say(session)
        return session

    async def commit(self, session: Session) -> None:
        self.began = True
        await self.manager.commit(session)

    async def request(self, op: Op) -> None:
        await self.commit(await self.open(op))

    async def meanwhile(self, beside: Data) -> None:
        if beside:
            other = await self.manager.open(self.cookie)
            other.update(beside)
            await self.manager.commit(other)

    async def live(self) -> dict[str, tuple[Data, object]]:
        """Return the data and the owner of each record that lives, by its key."""
        found: dict[str, tuple[Data, object]] = {}
        for key in {key for _, key in self.store.calls}:
            data = await self.store.open(key)
            item = None if data is None else decode(data)
            if isinstance(item, Record):
                content = self.manager._codec.decode(item.serializer, item.payload)
                found[key] = content, item.extras.get("owner")
        return found

    async def check(self, op: Op, when: object, beside: Data = {}) -> str:  # noqa: B006
        """Check what is left; return which state it is, "old" or "new"."""
        before = (OLD | beside, "ada")
        after = (op.new | beside if op.new else {}, op.owner)
        live = await self.live()
        opened = await self.manager.open(self.cookie)
        mine = live.pop(self.key, ({}, None))
        assert (dict(opened), opened.owner) == mine, when
        # The only id that was sent is mine; at most one more was given out, and not sent.
        assert len(live) <= op.renews, when
        if op.renews and mine != before:
            assert (mine, [*live.values()]) == (({}, None), [after]), when
            return "new"
        assert mine in (before, after), when
        return "new" if mine == after else "old"


@EACH_OP
async def test_cancelled_at_each_await_point_of_the_request(
    op: Op, any_store: SessionStore
) -> None:
    world = World(any_store)
    for cancellation in cancel_everywhere():
        await world.sign_in()
        await cancellation.run(world.request(op))
        state = await world.check(op, cancellation)
        # Once it has begun a commit goes on to its end.
        assert state == "new" or not world.began, cancellation
        assert cancellation.reached or world.began


@EACH_OP
@BESIDE
async def test_cancelled_while_each_store_call_of_its_commit_is_made(
    op: Op, beside: Data, any_store: SessionStore
) -> None:
    world = World(any_store)
    for way in ways_to_cancel():
        at, steps = -1, 0
        while at < steps:  # the last time it is never cancelled
            at += 1
            await world.sign_in()
            session = await world.open(op)
            await world.meanwhile(beside)
            steps = await cancelled_at_step(world, session, at, way)
            assert await world.check(op, (way, at), beside) == "new", (way, at)
        # A call more than that is one to find out, and to merge, what another request has done.
        assert steps >= 2 * op.calls + 4 * bool(beside and op.calls)


async def cancelled_at_step(world: World, session: Session, at: int, way: WayToCancel) -> int:
    """Commit, and cancel when a store call begins or ends; return how often one did."""
    with anyio.CancelScope() as scope:
        commit = world.commit(session)
        if way == "scope":
            world.store.arm(at, scope.cancel)
            await commit
        else:
            task = asyncio.ensure_future(commit)
            world.store.arm(at, task.cancel, again=way == "native-repeated")
            await asyncio.wait([task])
    return world.store.disarm()


@EACH_OP
@BESIDE
async def test_cancelled_at_each_await_point_of_the_commits_own_work(
    op: Op, beside: Data, any_store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by an event loop that ends: it cancels the task that carries a commit out, too."""

    async def unprotected(work: Coroutine[object, object, object]) -> object:
        return await work

    monkeypatch.setattr(guarded, "run_to_completion", unprotected)
    world = World(any_store)
    states = set[str]()
    for cancellation in cancel_everywhere():
        await world.sign_in()
        session = await world.open(op)
        await world.meanwhile(beside)
        await cancellation.run(world.commit(session))
        states.add(await world.check(op, cancellation, beside))
    assert "new" in states


# Through an adapter: what the client holds is what it was sent, or what it had.


def app_of(world: World, op: Op, adapter: str) -> ASGIApp:
    async def view(session: Session) -> None:
        op.say(session)

    views: dict[str, View] = {"view": view}
    return ADAPTERS[adapter](views, world.store, policy=world.manager.policy, clock=world.clock)


async def check_client(world: World, op: Op, answer: Answer, when: object) -> str:
    """Check the cookie that was sent, if one was, beside all the rest."""
    if answer.sent_id is not None:
        opened = await world.manager.open(answer.sent_id)
        assert (dict(opened), opened.owner) == (op.new, op.owner), when
    state = await world.check(op, when)
    assert state == "new" or answer.set_cookie is None, when
    return state


@EACH_OP
async def test_a_request_to_starlette_is_cancelled_at_each_await_point(
    op: Op, any_store: SessionStore
) -> None:
    world = World(any_store)
    app = app_of(world, op, "starlette")
    for cancellation in cancel_everywhere():
        await world.sign_in()
        answer = Answer()
        await cancellation.run(request(app, "/view", cookie=world.cookie, answer=answer))
        state = await check_client(world, op, answer, cancellation)
        assert cancellation.reached or (answer.status, state) == (200, "new")


@EACH_OP
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_of_quart_hangs_up_at_each_store_call(
    op: Op, any_store: SessionStore
) -> None:
    """Quart cancels a request when its client has gone."""
    world = World(any_store)
    app = app_of(world, op, "quart")
    at, steps = -1, 0
    while at < steps:
        at += 1
        await world.sign_in()
        answer, hang_up = Answer(), anyio.Event()
        world.store.arm(at, hang_up.set)
        await request(app, "/view", cookie=world.cookie, answer=answer, hang_up=hang_up)
        steps = max(steps, world.store.disarm())
        state = await check_client(world, op, answer, at)
        # The first call opens the session; with the next one the commit has begun.
        assert state == "new" or at < 2, at
