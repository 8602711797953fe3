"""Writers who have to wait: merged into one save, each with its own answer, and ends go first."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from harness import ADAPTERS, KEY, Client
from stores import AMPLE
from writing import POLICY, START, manager

from async_session import (
    Match,
    Session,
    SessionConflict,
    SessionManager,
    SessionPolicy,
    StoreUnavailable,
)
from async_session.errors import SessionTooLarge, StoreError
from async_session.stores.memory import MemoryStore
from async_session.testing import FaultyStore, make_cookie

pytestmark = pytest.mark.anyio


class StepStore(MemoryStore):
    """A store whose guarded saves wait until `step` lets them go, one by one."""

    deadline = 60.0

    def __init__(self) -> None:
        super().__init__()
        self.held: list[anyio.Event] = []
        self.saves = 0
        self.free = True

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        self.saves += 1
        if not self.free:
            gate = anyio.Event()
            self.held.append(gate)
            await gate.wait()
        return await super().save(key, data, ttl=ttl, match=match)

    def open_all(self) -> None:
        self.free = True
        for gate in self.held:
            gate.set()

    async def step(self) -> None:
        """Let the oldest save go, and everything happen that follows."""
        self.held.pop(0).set()
        await settle()


async def settle() -> None:
    for _ in range(30):
        await anyio.lowlevel.checkpoint()


class World:
    """Sessions that have read the same, and what became of their commits."""

    def __init__(self, policy: SessionPolicy = POLICY) -> None:
        self.store = StepStore()
        self.engine = manager(self.store, policy)
        self.results: dict[str, Any] = {}
        self.cookie = ""

    async def begin(self, *names: str, data: Any = START) -> list[Session]:
        self.cookie = await make_cookie(self.store, data, secret_key=KEY)
        self.store.saves, self.store.free = 0, False
        self.sessions = {name: await self.engine.open(self.cookie) for name in names}
        return list(self.sessions.values())

    async def commit(self, name: str, scope: anyio.CancelScope | None = None) -> None:
        with scope or anyio.CancelScope():
            try:
                self.results[name] = (await self.engine.commit(self.sessions[name])).value
            except Exception as error:
                self.results[name] = error

    @asynccontextmanager
    async def committing(self, *names: str) -> AsyncIterator[anyio.abc.TaskGroup]:
        """Let them commit in this order, until each stands at the store or waits."""
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(self.commit, name)
                await settle()
            try:
                yield group
            except BaseException:
                self.store.open_all()  # a commit cannot be cancelled: the test would hang
                raise

    async def left(self) -> dict[Any, Any]:
        self.store.free = True
        return dict(await self.engine.open(self.cookie))


async def test_those_who_wait_are_saved_together() -> None:
    world = World()
    names = [f"k{n}" for n in range(10)]
    for name, session in zip(names, await world.begin(*names), strict=True):
        session[name] = 1
        session["hits"] += 1
    async with world.committing(*names):
        assert len(world.store.held) == 1
        await world.store.step()
        assert world.results == {"k0": world.cookie}  # and needs not wait for the others
        assert len(world.store.held) == 1
        await world.store.step()
    assert world.results == dict.fromkeys(names, world.cookie)
    assert world.store.saves == 2
    assert await world.left() == {"user": 42, "hits": 10, **dict.fromkeys(names, 1)}
    assert not world.engine._committer.turns._lines  # nobody waits: nothing is kept


async def test_a_resolver_that_raises_fails_the_one_it_was_asked_about() -> None:
    world = World()
    one, two, three = await world.begin("one", "two", "three")
    one["hits"], two["hits"], three["hits"] = 1, "two", 1
    two["b"] = three["c"] = 1
    async with world.committing("one", "two", "three"):
        await world.store.step()
        await world.store.step()
    assert isinstance(world.results["two"], TypeError)
    assert "session['hits']" in world.results["two"].__notes__[0]
    assert await world.left() == {"user": 42, "hits": 2, "c": 1}


@pytest.mark.parametrize("then", ["save", "regenerate", "refresh"])
async def test_what_was_merged_in_stays_at_the_next_write(then: str) -> None:
    world = World(POLICY.replace(permanent=True))
    one, two, three = await world.begin("one", "two", "three")
    one["a"] = two["b"] = three["c"] = 1
    for session in one, two, three:
        session["hits"] += 1
    async with world.committing("one", "two", "three"):
        await world.store.step()
        await world.store.step()
    world.store.free = True
    if then == "save":
        two["hits"] += 1
    elif then == "regenerate":
        two.regenerate()
    else:
        two.modified = False
    two._answered = False
    value = (await world.engine.commit(two)).value
    left = dict(await world.engine.open(value))
    assert left == {"user": 42, "hits": 4 if then == "save" else 3, "a": 1, "b": 1, "c": 1}
    assert dict.keys(two) == {"user", "hits", "b"}  # its own dict is its own


async def test_one_who_is_cancelled_while_waiting_is_kept_like_the_others() -> None:
    world = World()
    one, two, three = await world.begin("one", "two", "three")
    one["a"] = two["b"] = three["c"] = 1
    scope = anyio.CancelScope()
    async with world.committing("one", "two") as group:
        group.start_soon(world.commit, "three", scope)
        await settle()
        scope.cancel()
        await settle()
        await world.store.step()
        await world.store.step()
    assert scope.cancelled_caught
    assert world.store.saves == 2
    assert await world.left() == {**START, "a": 1, "b": 1, "c": 1}


async def test_who_waits_in_vain_gets_an_error_and_writes_nothing() -> None:
    world = World(POLICY.replace(timeout=0.05))
    one, two = await world.begin("one", "two")
    one["a"] = two["b"] = 1
    async with world.committing("one", "two"):
        pass  # nobody lets the first save go
    assert {type(error) for error in world.results.values()} == {StoreUnavailable}
    assert await world.left() == START
    assert not world.engine._committer.turns._lines
    again = await world.engine.open(world.cookie)
    again["d"] = 1
    await world.engine.commit(again)
    assert await world.left() == {**START, "d": 1}


async def test_those_who_were_carried_share_the_fate_of_who_carried_them() -> None:
    world = World()
    one, two, three = await world.begin("one", "two", "three")
    one["a"] = two["b"] = three["c"] = 1
    faults = FaultyStore(world.store)
    object.__setattr__(world.engine._committer, "store", faults)
    async with world.committing("one", "two", "three"):
        faults.fail("save")
        await world.store.step()
    assert world.results["one"] == world.cookie
    for name in "two", "three":
        assert isinstance(world.results[name], StoreUnavailable)
    assert world.results["two"] is not world.results["three"]
    assert await world.left() == {**START, "a": 1}


async def test_nobody_waits_for_a_write_that_has_failed() -> None:
    store = FaultyStore(MemoryStore())
    engine = manager(store)
    cookie = await make_cookie(store, START, secret_key=KEY)
    for error in (StoreError("refused"), RuntimeError("the store has a bug"), None):
        session = await engine.open(cookie)
        session["n"] = 1
        if error is None:
            assert (await engine.commit(session)).value == cookie
        else:
            store.fail("save", error=error)
            with pytest.raises(type(error)):
                await engine.commit(session)
    assert not engine._committer.turns._lines


async def test_an_end_comes_before_all_who_wait() -> None:
    world = World()
    names = ["one", "two", "end", "three"]
    one, two, end, three = await world.begin(*names)
    one["a"] = two["b"] = three["c"] = 1
    end.logout()
    async with world.committing("one", "two", "end") as group:
        assert len(world.store.held) == 2  # the first writer, and the end
        await world.store.step()
        await world.store.step()  # the end is refused
        assert len(world.store.held) == 1  # and lets the second writer finish
        group.start_soon(world.commit, "three")
        await settle()
        await world.store.step()
        while world.store.held:
            assert len(world.store.held) == 1  # now nobody is in its way
            assert "three" not in world.results
            await world.store.step()
            if "end" in world.results:
                world.store.free = True
    assert world.results["three"] is None
    assert await world.left() == {}


async def test_together_too_much() -> None:
    world = World(POLICY.replace(max_size=1100))
    names = [f"k{n}" for n in range(8)]
    for name, session in zip(names, await world.begin(*names), strict=True):
        session[name] = "x" * 240
    async with world.committing(*names):
        while world.store.held:
            await world.store.step()
    errors = [name for name in names if isinstance(world.results[name], SessionTooLarge)]
    kept = [name for name in names if world.results[name] == world.cookie]
    assert (len(kept), len(errors)) == (4, 4)
    assert (await world.left()).keys() == {*START, *kept}


@pytest.mark.parametrize(
    ("on_conflict", "left"),
    [("overwrite", {**START, "c": 1}), ("raise", {**START, "a": 1})],
)
async def test_other_policies_for_those_who_wait(on_conflict: Any, left: Any) -> None:
    world = World(POLICY.replace(on_conflict=on_conflict))
    one, two, three = await world.begin("one", "two", "three")
    one["a"] = two["b"] = three["c"] = 1
    async with world.committing("one", "two", "three"):
        while world.store.held:
            await world.store.step()
    failed = {name for name, result in world.results.items() if result != world.cookie}
    assert failed == ({"two", "three"} if on_conflict == "raise" else set())
    assert all(isinstance(world.results[name], SessionConflict) for name in failed)
    assert await world.left() == left


async def test_clear_and_lifetimes_among_those_who_wait() -> None:
    world = World()
    one, two, three, four = await world.begin("one", "two", "three", "four")
    one["a"] = three["c"] = four["d"] = 1
    two.clear()
    two["b"] = 1
    three.lifetime = 99
    async with world.committing("one", "two", "three", "four"):
        await world.store.step()
        await world.store.step()
    assert await world.left() == {"b": 1, "c": 1, "d": 1}
    assert (await world.engine.open(world.cookie)).lifetime == two.lifetime == 99


def test_writers_in_several_event_loops() -> None:
    store, threads, each = MemoryStore(), 4, 25
    engine = manager(store)
    cookie = anyio.run(lambda: make_cookie(store, START, secret_key=KEY))
    together = threading.Barrier(threads)

    async def write(n: int) -> None:
        sessions = [await engine.open(cookie) for _ in range(each)]
        await anyio.to_thread.run_sync(together.wait, 10)
        async with anyio.create_task_group() as group:
            for m, session in enumerate(sessions):
                session[f"k{n}.{m}"] = 1
                session["hits"] += 1
                group.start_soon(engine.commit, session)

    running = [
        threading.Thread(target=lambda n=n: anyio.run(write, n, backend=["asyncio", "trio"][n % 2]))
        for n in range(threads)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(20)
    left = dict(anyio.run(engine.open, cookie))
    assert left.pop("hits") == threads * each
    assert len(left) == 1 + threads * each


# -- lost answers ----------------------------------------------------------------------------------


async def plain(engine: SessionManager, cookie: str) -> None:
    session = await engine.open(cookie)
    session["other"] = True
    await engine.commit(session)


#: what another process does before the answer is missed: does it fail, and how many were counted
LOST = {
    "nothing": ("nothing", True, 1),
    "merged on top": ("merge", True, 2),
    "written on top": ("write", False, 1),
}


class Meddler(MemoryStore):
    """Loses the answer of one save, and lets another process write before anybody looks."""

    deadline = 60.0
    meddle: Callable[[], Any] | None = None
    #: saves that are answered before
    skip = 0

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        saved = await super().save(key, data, ttl=ttl, match=match)
        if self.skip:
            self.skip -= 1
        elif self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            await meddle()
            raise StoreUnavailable("the test lost this answer")
        return saved


@pytest.mark.parametrize(("other", "found", "hits"), LOST.values(), ids=LOST)
async def test_a_write_whose_answer_was_lost(other: str, found: bool, hits: int) -> None:
    store = Meddler()
    mine, theirs = manager(store), manager(store)
    cookie = await make_cookie(store, START, secret_key=KEY)
    session, beside = await mine.open(cookie), await theirs.open(cookie)
    session["hits"] += 1
    beside["hits"] += 1

    async def meddle() -> None:
        if other == "merge":
            await theirs.commit(beside)
        elif other == "write":
            await plain(theirs, cookie)

    store.meddle = meddle
    if found:
        assert (await mine.commit(session)).value == cookie
    else:  # nobody can tell
        with pytest.raises(StoreUnavailable):
            await mine.commit(session)
    assert (await mine.open(cookie))["hits"] == hits


@pytest.mark.parametrize("action", ["logout", "regenerate", "login"])
async def test_an_end_whose_answer_was_lost(action: str) -> None:
    store = Meddler()
    engine = manager(store)
    cookie = await make_cookie(store, START, secret_key=KEY)
    session = await engine.open(cookie)
    getattr(session, action)(*["ada"] if action == "login" else [])

    async def meddle() -> None:
        store.meddle = again if action != "logout" else None
        store.skip = 1  # the new record is written over itself

    async def again() -> None:
        """Lose the tombstone's answer, too."""
        store.skip = 1

    store.meddle = meddle
    value = (await engine.commit(session)).value
    assert dict(await engine.open(cookie)) == {}
    assert (value is None) == (action == "logout")
    if value is not None:
        assert dict(await engine.open(value)) == START


# -- through the adapters --------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
async def test_changes_inside_containers_are_merged_by_shape(adapter: str, any_store: Any) -> None:
    both = 0
    here = anyio.Event()

    async def meet() -> None:
        nonlocal both
        both += 1
        if both == 2:
            here.set()
        await here.wait()

    async def start(session: Session) -> None:
        session["cart"] = {"lines": [{"sku": "tea"}], "tags": {"gift"}, "total": {"n": 1}}

    async def milk(session: Session) -> None:
        cart = session["cart"]
        await meet()
        cart["lines"].append({"sku": "milk"})
        cart["tags"].add("cold")
        cart["milk"] = True
        cart["total"]["n"] = 2

    async def sugar(session: Session) -> None:
        cart = session["cart"]
        await meet()
        cart["lines"].append({"sku": "sugar"})
        cart["tags"].discard("gift")
        cart["total"]["currency"] = "EUR"

    async def read(session: Session) -> object:
        cart = session["cart"]
        return sorted(line["sku"] for line in cart["lines"]), cart["tags"], cart["total"], len(cart)

    views = {"start": start, "milk": milk, "sugar": sugar, "read": read}
    client = Client(ADAPTERS[adapter](views, any_store, policy=SessionPolicy(timeout=AMPLE)))
    await client.get("start")
    async with anyio.create_task_group() as group:
        group.start_soon(client.twin().get, "milk")
        group.start_soon(client.twin().get, "sugar")
    expected = ["milk", "sugar", "tea"], {"cold"}, {"n": 2, "currency": "EUR"}, 4
    assert (await client.get("read")).body == repr(expected)
