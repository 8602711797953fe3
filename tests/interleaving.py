"""All the ways in which the store calls of two requests can fall between each other.

Every store call of a request waits for its turn. A schedule is the order in which turns are given;
`interleavings` runs two requests again and again until it has tried every order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar

import anyio

from async_session import Match, SessionStore

_me: ContextVar[str] = ContextVar("_me")


class TurnStore:
    """A store whose calls wait for their turn, once a schedule runs."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self.schedule: Schedule | None = None

    async def _turn(self) -> None:
        if self.schedule is not None and _me.get(None) is not None:
            await self.schedule.turn(_me.get())

    async def open(self, key: str, /) -> bytes | None:
        await self._turn()
        return await self._store.open(key)

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        await self._turn()
        return await self._store.save(key, data, ttl=ttl, match=match)

    async def delete(self, key: str, /) -> None:
        await self._turn()
        await self._store.delete(key)


class Schedule:
    """Gives turns by a list of choices, and notes where it had a choice that the list left open."""

    def __init__(self, choices: list[int]) -> None:
        self._choices = choices
        self.taken: list[tuple[int, int]] = []  # what was chosen, out of how many
        self._waiting: dict[str, anyio.Event] = {}
        self._moved = anyio.Event()

    async def turn(self, who: str) -> None:
        event = self._waiting[who] = anyio.Event()
        self._moved.set()
        await event.wait()

    async def run(self, jobs: dict[str, Callable[[], Awaitable[None]]]) -> None:
        running = set(jobs)

        async def run_one(who: str) -> None:
            _me.set(who)
            try:
                await jobs[who]()
            finally:
                running.discard(who)
                self._moved.set()

        async with anyio.create_task_group() as group:
            for who in jobs:
                group.start_soon(run_one, who)
            while running:
                # Everybody who still runs stands at a store call, or is on the way to one.
                while set(self._waiting) != running:
                    self._moved = anyio.Event()
                    await self._moved.wait()
                if running:
                    who = self._choose(sorted(running))
                    self._moved = anyio.Event()
                    self._waiting.pop(who).set()

    def _choose(self, ready: list[str]) -> str:
        step = len(self.taken)
        choice = self._choices[step] if step < len(self._choices) else 0
        self.taken.append((choice, len(ready)))
        return ready[choice]


async def interleavings() -> AsyncIterator[Schedule]:
    """Yield schedules until every order has been tried."""
    choices: list[int] = []
    while True:
        schedule = Schedule(choices)
        yield schedule
        taken = schedule.taken
        while taken and taken[-1][0] + 1 >= taken[-1][1]:
            taken.pop()
        if not taken:
            return
        choices = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]
