"""All the orders in which the store calls of requests at once can fall, one after the other.

Every store call of a job waits for its turn. A schedule gives the turns; `interleavings` yields
schedules until every order has been tried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TypeVar

import anyio
import anyio.lowlevel

from ..stores.base import Match, SessionStore

__all__ = ["Schedule", "TurnStore", "interleavings"]

T = TypeVar("T")

#: Turns of the event loop after which a job that has come to no store call will come to none until
#: somebody else moves: it waits for another job.
_PATIENCE = 100


class TurnStore:
    """Let the store calls of a schedule's jobs wait for their turn; pass all others on.

    It has the three verbs and nothing else, so a manager takes it for a store that may wait.

    Args:
        store: the store behind.
    """

    def __init__(self, store: SessionStore) -> None:
        self.store = store

    async def open(self, key: str, /) -> bytes | None:
        """Wait for the job's turn, and pass the call on."""
        return await _in_turn(lambda: self.store.open(key))

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Wait for the job's turn, and pass the call on."""
        return await _in_turn(lambda: self.store.save(key, data, ttl=ttl, match=match))

    async def delete(self, key: str, /) -> None:
        """Wait for the job's turn, and pass the call on."""
        await _in_turn(lambda: self.store.delete(key))


class Schedule:
    """One order of store calls. `repr()` of it is what to write to have the same order again.

    Args:
        choices: for each turn, which of the jobs that wait for one, in the order of their names; a
            number that is too high is the last of them. After the last choice it is the first job.

    Attributes:
        order: whose turn it was, so far.
        taken: what was chosen, and out of how many.
    """

    def __init__(self, choices: Sequence[int] = ()) -> None:
        self.order: list[str] = []
        self.taken: list[tuple[int, int]] = []
        self._choices = choices
        self._running: set[str] = set()
        self._waiting: list[tuple[str, anyio.Event]] = []
        self._calls = 0
        self._moved = anyio.Event()

    def __repr__(self) -> str:
        return f"Schedule({[choice for choice, _ in self.taken]})"

    async def run(self, jobs: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        """Run the jobs at once, one store call at a time. Raises what one of them raises.

        Between its store calls a job may wait for another job, as in a queue, but for nothing else:
        not for a thread, and not for time to pass.
        """
        async with anyio.create_task_group() as group:
            for who, job in jobs.items():  # one by one, so that the loop has nothing to decide
                self._running.add(who)
                group.start_soon(self._run_one, who, job)
                await self._settle()
            while self._running or self._waiting:
                if self._waiting:
                    self._give_a_turn()
                await self._settle()

    async def _run_one(self, who: str, job: Callable[[], Awaitable[object]]) -> None:
        _job.set((self, who))
        try:
            await job()
        finally:
            self._running.discard(who)
            self._moved.set()

    async def _settle(self) -> None:
        """Let all jobs go on until each waits for a turn, or for a job that does."""
        patience = _PATIENCE
        while patience and (self._calls or self._running - {who for who, _ in self._waiting}):
            if self._calls:
                await self._moved.wait()
            patience -= 1
            if self._moved.is_set():
                self._moved, patience = anyio.Event(), _PATIENCE
            await anyio.lowlevel.checkpoint()

    def _give_a_turn(self) -> None:
        ready = sorted({who for who, _ in self._waiting})
        step = len(self.taken)
        choice = min(self._choices[step], len(ready) - 1) if step < len(self._choices) else 0
        self.taken.append((choice, len(ready)))
        self.order.append(ready[choice])
        turn = next(turn for turn in self._waiting if turn[0] == ready[choice])
        self._waiting.remove(turn)
        self._calls += 1
        turn[1].set()

    async def _in_turn(self, who: str, call: Callable[[], Awaitable[T]]) -> T:
        turn = (who, anyio.Event())
        self._waiting.append(turn)
        self._moved.set()
        try:
            await turn[1].wait()
            return await call()
        finally:
            if turn[1].is_set():
                self._calls -= 1
            else:  # cancelled meanwhile
                self._waiting.remove(turn)
            self._moved.set()


#: The job that the current task works for.
_job: ContextVar[tuple[Schedule, str]] = ContextVar("_job")


async def _in_turn(call: Callable[[], Awaitable[T]]) -> T:
    job = _job.get(None)
    if job is None:
        return await call()
    schedule, who = job
    return await schedule._in_turn(who, call)


def interleavings() -> Iterator[Schedule]:
    """Yield schedules until every order of the store calls has been tried.

    The body of the loop prepares the same state each time, runs the same jobs with `Schedule.run`,
    and looks at what they left.

    Example:
        >>> from async_session.stores.memory import MemoryStore
        >>> store, orders = TurnStore(MemoryStore()), []
        >>> async def main():
        ...     for schedule in interleavings():
        ...         await schedule.run({name: lambda: store.open("0" * 64) for name in "ab"})
        ...         orders.append("".join(schedule.order))
        >>> anyio.run(main)
        >>> orders
        ['ab', 'ba']
    """
    choices: list[int] = []
    while True:
        schedule = Schedule(choices)
        yield schedule
        taken = list(schedule.taken)
        while taken and taken[-1][0] + 1 >= taken[-1][1]:
            taken.pop()
        if not taken:
            return
        choices = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]
