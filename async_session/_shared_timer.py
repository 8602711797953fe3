"""One timer of the event loop for many calls that all have the same time to end in.

A timer for every call costs a tenth of a short call: it is made, put in order and taken out again,
and hardly one ever rings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context
from types import TracebackType

import anyio

__all__ = ["Deadline", "Deadlines", "SharedTimer"]


class SharedTimer:
    """Rings for whoever is due; made and used on one event loop."""

    def __init__(self) -> None:
        #: the event loop that it belongs to
        self.loop = asyncio.get_running_loop()
        # It outlives the request that started it, and keeps nothing of it.
        self._context = Context()
        #: what to do and when, the earliest first
        self._due: dict[object, tuple[float, Callable[[], object]]] = {}
        self._handle: asyncio.TimerHandle | None = None

    def add(self, owner: object, when: float, ring: Callable[[], object]) -> None:
        """Call `ring` at `when`, the loop's time, unless `owner` is removed before.

        `when` is not before that of anybody who was added earlier.
        """
        self._due[owner] = when, ring
        if self._handle is None:
            self._handle = self.loop.call_at(when, self._ring, context=self._context)

    def remove(self, owner: object) -> None:
        """Forget about `owner`, if it did not ring yet."""
        self._due.pop(owner, None)

    def _ring(self) -> None:
        """Call those who are due; come back for the next."""
        self._handle = None
        due, now = [], self.loop.time()
        for owner, (when, _) in self._due.items():
            if when > now:
                self._handle = self.loop.call_at(when, self._ring, context=self._context)
                break
            due.append(owner)
        for owner in due:
            _, ring = self._due.pop(owner)
            ring()


class Deadline:
    """Raise `TimeoutError` in the body of a ``with`` when its time is up: `asyncio.timeout_at`."""

    __slots__ = ("_cancelling", "_is_over", "_task", "_timer", "_until")

    def __init__(self, timer: SharedTimer, until: float) -> None:
        self._timer = timer
        self._until = until
        self._is_over = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._timer.add(self, self._until, self._ring)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None
    ) -> None:
        self._timer.remove(self)
        # As `asyncio.timeout` does it: somebody else's cancellation comes first.
        is_alone = self._is_over and self._task.uncancel() <= self._cancelling
        if is_alone and kind is asyncio.CancelledError:
            raise TimeoutError from exc

    def _ring(self) -> None:
        self._is_over = True
        self._task.cancel()


class Deadlines:
    """Deadlines of one length for many who work at the same time, in any event loop.

    Args:
        seconds: how long each may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        #: that of the loop that was here last
        self._timer: SharedTimer | None = None

    def start(self) -> AbstractContextManager[object]:
        """Return a context that raises `TimeoutError` in its body when the time is up."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # trio
            return anyio.fail_after(self._seconds)
        timer = self._timer
        if timer is None or timer.loop is not loop:
            timer = self._timer = SharedTimer()
        return Deadline(timer, loop.time() + self._seconds)
