"""The state machines of `async_session.testing`: they find each seeded fault, and none in ours."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from async_session import Match, SessionManager, SessionStore, guarded, merge, updates, writers
from async_session.commits import Committer
from async_session.record import Ended, Record, Tombstone, decode
from async_session.session import Origin, Session
from async_session.stores.base import SupportsClose
from async_session.stores.memory import MemoryStore
from async_session.testing import ManagerMachine, StoreMachine
from async_session.writers import Writer

#: In so many examples a fault is to be found.
WITHIN = 2000
#: How many are run on stores whose calls take their time; the others have two hundred.
FEWER = {"dynamodb": 50}


def run(
    machine: type[RuleBasedStateMachine], examples: int, *, seeded: bool = False, luck: bool = False
) -> int:
    """Run a machine for so many examples; return in which it failed first, 0 for none.

    Args:
        machine: the class.
        examples: at most.
        seeded: there is a fault. It is to be found, but not to be made small.
        luck: other examples in every run.
    """
    count = 0

    class Counted(machine):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            nonlocal count
            count += 1
            super().__init__()

    try:
        run_state_machine_as_test(
            Counted,
            settings=settings(
                max_examples=examples,
                stateful_step_count=30,
                deadline=None,
                database=None,
                derandomize=not luck,
                # Shrinking would take longer than finding; a real failure is to be shown small.
                phases=[Phase.generate] if seeded else [Phase.generate, Phase.shrink],
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    except AssertionError as error:
        if not seeded:
            raise
        print(f"in example {count}: {error}")
        return count
    return 0


# -- faults of a store -----------------------------------------------------------------------------


class Broken(MemoryStore):
    """A store to be broken: its calls wait for a turn of the loop, as those of a network do."""

    deadline: Any = None

    async def open(self, key: str, /) -> bytes | None:
        await anyio.lowlevel.checkpoint()
        return await super().open(key)

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        await anyio.lowlevel.checkpoint()
        return await super().save(key, data, ttl=ttl, match=match)


class IgnoresAbsent(Broken):
    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        match = Match.ANY if match is Match.ABSENT else match
        return await super().save(key, data, ttl=ttl, match=match)


class ComparesNoVersion(Broken):
    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        if isinstance(match, bytes):
            stored = await self.open(key)
            return stored is not None and await super().save(key, data, ttl=ttl)
        return await super().save(key, data, ttl=ttl, match=match)


class ComparesFirst(Broken):
    """The precondition and the write are two steps."""

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        stored = await self.open(key)
        if match is Match.ABSENT and stored is not None:
            return False
        if isinstance(match, bytes) and (stored is None or stored[:16] != match):
            return False
        return await super().save(key, data, ttl=ttl)


class KeepsTooShort(Broken):
    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        return await super().save(key, data, ttl=ttl - 1, match=match)


class KeepsTheFirstTtl(Broken):
    """A guarded write does not set the ttl anew."""

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        if isinstance(match, bytes) and key in self._items:
            ttl = max(1, int(self._items[key][0] - self._clock()))
        return await super().save(key, data, ttl=ttl, match=match)


class DeletesNothing(Broken):
    async def delete(self, key: str, /) -> None:
        await anyio.lowlevel.checkpoint()


class SavesInTwoSteps(Broken):
    """A save that is cancelled leaves nothing of the old value, and nothing of the new one."""

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        saved = await super().save(key, data[:16], ttl=ttl, match=match)
        if saved:
            await anyio.lowlevel.checkpoint()
            await super().save(key, data, ttl=ttl)
        return saved


class ReadsStale(Broken):
    """Answers from a cache that a guarded write does not renew."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cache: dict[str, bytes] = {}

    async def open(self, key: str, /) -> bytes | None:
        if key in self.cache:
            return self.cache[key]
        value = await super().open(key)
        if value is not None:
            self.cache[key] = value
        return value

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        if not isinstance(match, bytes):
            self.cache.pop(key, None)
        return await super().save(key, data, ttl=ttl, match=match)

    async def delete(self, key: str, /) -> None:
        self.cache.pop(key, None)
        await super().delete(key)


STORE_FAULTS: list[type[Broken]] = Broken.__subclasses__()


@pytest.mark.parametrize("fault", STORE_FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_a_store_is_found(
    fault: type[Broken],
) -> None:
    class Machine(StoreMachine):
        def make_store(self) -> SessionStore:
            return fault(clock=self.clock)

    assert run(Machine, WITHIN, seeded=True)


# -- faults of a manager ---------------------------------------------------------------------------

REAL = {name: getattr(Committer, name) for name in ("_put", "refresh", "replace")}


async def ends_nothing(self: Committer, session: Session, origin: Origin) -> Ended | None:
    """A logout writes no tombstone."""
    return None


async def puts_anyway(self: Committer, key: str, data: bytes, **options: Any) -> object:
    """A write is made whatever is there."""
    return await REAL["_put"](self, key, data, **(options | {"match": Match.ANY}))


async def writes_anyway(self: Committer, session: Session, origin: Origin, payload: bytes) -> bool:
    """A change is saved whatever is there."""
    record, data = self._record(session, payload, self.codec.id)
    await self.store.save(origin.key, data, ttl=self._ttl(session, record))
    self._adopt(session, origin.id, record, payload)
    return True


async def keeps_the_old_id(
    self: Committer, session: Session, origin: Origin, payload: bytes, why: Ended
) -> bool:
    """A regenerate leaves the old record alone."""
    if why is not Ended.MOVED:
        return bool(await REAL["replace"](self, session, origin, payload, why))
    session_id, record = await self._create(session, payload)
    self._adopt(session, session_id, record, payload)
    return True


def loses_the_owner(merging: list[Writer], found: Record, **options: Any) -> bytes:
    """A merge forgets whose session it is."""
    payload = writers.merged(merging, found, **options)
    for writer in merging:
        writer.session._owner = None
    return payload


async def refreshes_anyway(self: Committer, session: Session, origin: Origin) -> bool:
    """A refresh brings back what has ended."""
    stored = origin.payload if origin.stored is None else origin.stored
    record, data = self._record(session, stored, origin.serializer)
    await self.store.save(origin.key, data, ttl=self._ttl(session, record))
    self._adopt(session, origin.id, record, origin.payload)
    return True


async def sends_the_cookie_anyway(self: Committer, session: Session, origin: Origin) -> bool:
    """A refresh that was refused sends the cookie."""
    await REAL["refresh"](self, session, origin)
    return True


def takes_all_along(self: Committer, session: Session, origin: Origin) -> dict[Any, Any]:
    """A login whose session has ended meanwhile keeps what was in that."""
    return dict(dict.items(session))


def keeps_what_was_deleted(base: Any, mine: Any, theirs: Any, **options: Any) -> dict[Any, Any]:
    """A merge brings back what this request deleted."""
    return theirs | THREE_WAY(base, mine, theirs, **options)


class ForgetsTheClear(Writer):
    """A merge after a `clear()` lets what others wrote stay."""

    def __init__(self, session: Session, origin: Origin, payload: bytes) -> None:
        super().__init__(session, origin, payload)
        self.cleared = False


def reads_no_successor(data: bytes) -> Record | Tombstone:
    """A logout does not follow a session to its new id."""
    item = decode(data)
    return item._replace(successor=None) if isinstance(item, Tombstone) else item


async def deletes_the_new_cookie(
    self: SessionManager, session: Session, origin: Origin, payload: bytes | None
) -> bool:
    """A request that empties a session beside a login deletes the cookie of the login."""
    await END(self, session, origin, payload)
    return True


END, THREE_WAY = SessionManager._end, merge.three_way

#: What is broken, where it is, and what does it instead.
MANAGER_FAULTS: list[tuple[object, str, Callable[..., Any]]] = [
    (Committer, "end", ends_nothing),
    (Committer, "_put", puts_anyway),
    (Committer, "update", writes_anyway),
    (Committer, "replace", keeps_the_old_id),
    (updates, "merged", loses_the_owner),
    (Committer, "refresh", refreshes_anyway),
    (Committer, "refresh", sends_the_cookie_anyway),
    (Committer, "_own", takes_all_along),
    (merge, "three_way", keeps_what_was_deleted),
    (updates, "Writer", ForgetsTheClear),
    (guarded, "decode", reads_no_successor),
    (SessionManager, "_end", deletes_the_new_cookie),
]


@pytest.mark.parametrize(
    ("where", "name", "fault"), MANAGER_FAULTS, ids=[fault.__name__ for *_, fault in MANAGER_FAULTS]
)
def test_a_fault_of_a_manager_is_found(
    where: object, name: str, fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, fault)
    assert run(ManagerMachine, WITHIN, seeded=True)


@pytest.mark.parametrize("fault", [ComparesNoVersion, ReadsStale, DeletesNothing])
def test_a_fault_of_its_store_is_found_by_the_managers_machine(fault: type[Broken]) -> None:
    class Machine(ManagerMachine):
        def make_store(self) -> SessionStore:
            return fault(clock=self.clock)

    assert run(Machine, WITHIN, seeded=True)


# -- no fault --------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", [StoreMachine, ManagerMachine])
def test_no_fault_is_found_in_ours(machine: type[RuleBasedStateMachine]) -> None:
    assert run(machine, 200) == 0


def test_two_orders_that_leave_the_same_sessions_are_told_apart() -> None:
    """A logout that is first, and a login that is answered first: the old id has ended."""
    machine = ManagerMachine()
    cookie = machine.sign_in()
    logout = machine.open(browser=0, says=[("logout",), ("count",)])
    everything = [("write", "a", 1), ("write", "b", 1)]
    login = machine.open(browser=0, says=[*everything, ("login", "ada")])
    machine.commit(request=machine.open(browser=0, says=[("write", "a", 2)]))  # now both are late
    end_it = [1, 1, 1]  # refused, read again, ended: before the login, which is answered first
    machine.commit_both(one=login, two=logout, choices=end_it)
    machine.commit(request=machine.open_old(browser=0, cookie=cookie, says=[("count",)]))
    machine.teardown()


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("machine", [StoreMachine, ManagerMachine])
def test_no_fault_is_found_in_ours_for_long(machine: type[RuleBasedStateMachine]) -> None:
    assert run(machine, 10_000, luck=True) == 0


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("machine", [StoreMachine, ManagerMachine])
def test_no_fault_is_found_on_any_store(
    machine: type[StoreMachine | ManagerMachine],
    made_store: SessionStore,
    request: pytest.FixtureRequest,
) -> None:
    """On one store object and one event loop for all examples: connecting takes its time."""
    if getattr(made_store, "deadline", None):
        made_store.deadline = 30.0  # type: ignore[attr-defined]  # how fast it is, is not asked
    with asyncio.Runner() as runner:

        class Machine(machine):  # type: ignore[misc,valid-type]
            def make_store(self) -> SessionStore:
                return made_store

            def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
                return runner.run(coroutine)

            def teardown(self) -> None:
                pass

        examples = FEWER.get(request.node.callspec.params["made_store"], 200)
        assert run(Machine, examples, luck=True) == 0
        if isinstance(made_store, SupportsClose):
            runner.run(made_store.aclose())


# -- what they need --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["StoreMachine", "ManagerMachine"])
def test_a_missing_hypothesis_is_named(name: str) -> None:
    script = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import async_session.testing\n"
        "from async_session.errors import ConfigurationError\n"
        f"try: async_session.testing.{name}\n"
        "except ConfigurationError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install hypothesis" in run.stdout
