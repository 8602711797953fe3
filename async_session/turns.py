"""Turns: those who want to write one record in one event loop come one after the other.

Who finds nobody writing goes ahead at once. Who comes while somebody writes waits; when that one
is done, the *last* of those who wait writes for all of them (databases call it a group commit).
The last, because its deadline is the furthest away. An end does not wait for writers who wait: it
comes next.

    turn 1    writer 1                  writers 2 to 9 come, and an end
    turn 2    the end                   writer 10 comes
    turn 3    writer 10, for 2 to 10

A turn says who writes here, and is no lock: other processes write as well, and every write states
the version that it is based on.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from async_session._aio import Event, new_event, this_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from async_session.record import Record

__all__ = ["Line", "Turns", "Waiter"]


class Waiter(Protocol):
    """Who waits for a turn. Told apart by identity."""

    turn: Event | None


W = TypeVar("W", bound=Waiter)


class Line(Generic[W]):
    """Those who want to write one record, in one event loop.

    Attributes:
        waiting: who has come since the last turn, in this order.
        served: for whom the turn under way writes.
        ends: who is to come next, one by one.
        stored: what the last turn left in the store, as far as is known here.
    """

    __slots__ = ("ends", "name", "served", "stored", "waiting")

    def __init__(self, name: tuple[str, object], *writers: W) -> None:
        self.name = name
        self.served = [*writers]
        # Nearly always nobody comes: made when somebody does.
        self.waiting: dict[W, None] | None = None
        self.ends: deque[Event] | None = None
        self.stored: Record | None = None

    def serve_all(self) -> list[W]:
        """Take in everybody who waits; return whom."""
        came = list(self.waiting or ())
        self.waiting = None
        self.served += came
        return came


class Turns(Generic[W]):
    """The lines of all records, by key and event loop. A line is there while somebody writes."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, object], Line[W]] = {}

    def enter(self, key: str, writer: W) -> Line[W] | None:
        """Return the line to serve and then `leave`; None if it is somebody's turn: `wait`."""
        name = (key, this_loop())
        line = self._lines.get(name)
        if line is not None:
            writer.turn = new_event()
            line.waiting = line.waiting or {}
            line.waiting[writer] = None
            return None
        line = self._lines[name] = Line(name, writer)
        return line

    async def wait(self, key: str, writer: W) -> Line[W] | None:
        """Wait for one's turn; return the line to serve and `leave`, or None: one was served."""
        line = self._lines[key, this_loop()]
        assert writer.turn is not None
        try:
            await writer.turn.wait()
        except BaseException:
            if line.waiting and writer in line.waiting:
                del line.waiting[writer]
                if writer.turn.is_set():
                    self._next(line)  # it was to be the next
            raise
        if not line.waiting or writer not in line.waiting:
            return None
        line.serve_all()
        return line

    def leave(self, line: Line[W]) -> None:
        """Tell those who were served, and let the next one come."""
        served, line.served = line.served, []
        for writer in served:
            if writer.turn is not None:
                writer.turn.set()
        self._next(line)

    @asynccontextmanager
    async def first(self, key: str) -> AsyncIterator[None]:
        """Come before all who wait; the turn ends with the context."""
        name = (key, this_loop())
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = Line(name)
        else:
            turn = new_event()
            ends = line.ends = line.ends or deque()
            ends.append(turn)
            try:
                await turn.wait()
            except BaseException:
                if turn.is_set():
                    self._next(line)
                else:
                    ends.remove(turn)
                raise
        try:
            yield
        finally:
            line.stored = None
            self._next(line)

    def _next(self, line: Line[W]) -> None:
        if line.ends:
            line.ends.popleft().set()
        elif line.waiting:
            last = next(reversed(line.waiting))
            assert last.turn is not None
            last.turn.set()
        else:
            del self._lines[line.name]
