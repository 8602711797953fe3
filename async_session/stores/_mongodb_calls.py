"""How the MongoDB store calls the driver: in tasks, in time, and for several readers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar, cast

from .._shared_timer import SharedTimer
from ._mongodb_clients import Collection, Document
from ._mongodb_commands import is_connected, read_all

__all__ = ["Calls", "Operation"]

T = TypeVar("T")
#: What to do with a collection, in how many seconds.
Operation = Callable[[Collection, float], Awaitable[T]]
#: Keys that are read together on an event loop, and what waits for each.
_Group = tuple[asyncio.AbstractEventLoop, list[str], list["asyncio.Future[Document | None]"]]

# The driver stops a little before the deadline, because it can say why.
_DRIVERS_SHARE: Final = 0.95
# Seconds after the deadline until a call is cancelled that the driver has not ended. It looks for a
# server for half of them.
_LAST_RESORT: Final = 60.0
# Reads that go out in one command. Most of what a read costs is what a command costs.
_TOGETHER: Final = 16


class Calls:
    """The calls of one store.

    Each is made in a task of its own, which goes on when the caller is cancelled: a connection that
    pymongo is making just then would be left open. When its time is up nobody waits any more. Then
    the driver ends it, or, if it is a read that was sent, it is cancelled here.

    Args:
        sessions: returns the collection for the running event loop.
        known: the same, or None if it is not there yet.
        deadline: returns the seconds that a call may take.
    """

    def __init__(
        self,
        sessions: Callable[[], Awaitable[Collection]],
        known: Callable[[], Collection | None],
        deadline: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._known = known
        self._deadline = deadline
        #: what is under way; the loop itself keeps weak references only
        self.tasks: set[asyncio.Task[None]] = set()
        # Those of the loop that was here last: the timer, and reads that others may still join.
        self._timer: SharedTimer | None = None
        self._group: _Group | None = None
        #: whether a call's time was up while the driver knew no server
        self._is_lost = False

    def read(self, key: str) -> asyncio.Future[Document | None]:
        """Read `key` in one command with others that are asked for in this turn of the loop."""
        loop = asyncio.get_running_loop()
        group = self._group
        if group is None or group[0] is not loop or len(group[1]) == _TOGETHER:
            keys: list[str] = []
            group = self._group = loop, keys, []
            loop.call_soon(self._close, group)
            self.start(
                lambda sessions, left: read_all(
                    sessions, keys, left, bounded=self._is_lost and self._still_lost(sessions)
                ),
                group[2],
                cancel=True,
            )
        answer: asyncio.Future[Document | None] = loop.create_future()
        group[1].append(key)
        group[2].append(answer)
        return answer

    def start(
        self,
        operation: Operation[Sequence[T | BaseException]],
        answers: list[asyncio.Future[T]],
        seconds: float | None = None,
        *,
        cancel: bool = False,
    ) -> None:
        """Do what has a result, or an error, for each of `answers`.

        Args:
            operation: begins with the loop's next turn.
            answers: the driver's errors, or a `TimeoutError`, go there too.
            seconds: how long the driver may take, if it is not the deadline.
            cancel: the driver may not end it, once it was sent.
        """
        loop = asyncio.get_running_loop()
        timer = self._timer
        if timer is None or timer.loop is not loop:
            timer = self._timer = SharedTimer()
        deadline = self._deadline()
        left = (seconds or deadline) * _DRIVERS_SHARE
        task = loop.create_task(self._operate(operation, left, answers, timer))
        self.tasks.add(task)
        timer.add(task, loop.time() + deadline, lambda: self._give_up(task, answers, cancel))

    def _close(self, group: _Group) -> None:
        """Let nobody join who comes after this turn."""
        if self._group is group:
            self._group = None

    def _give_up(
        self, task: asyncio.Task[None], answers: Sequence[asyncio.Future[Any]], cancel: bool
    ) -> None:
        _settle(answers, [TimeoutError() for _ in answers])
        sessions = self._known()
        self._is_lost = sessions is not None and not is_connected(sessions)
        if cancel and not self._is_lost:
            task.cancel()
        else:
            # Of a client that somebody else's cancellation broke, calls would pile up.
            task.get_loop().call_later(_LAST_RESORT, task.cancel)

    def _still_lost(self, sessions: Collection) -> bool:
        self._is_lost = not is_connected(sessions)
        return self._is_lost

    async def _operate(
        self,
        operation: Operation[Sequence[T | BaseException]],
        seconds: float,
        answers: list[asyncio.Future[T]],
        timer: SharedTimer,
    ) -> None:
        try:
            found = await operation(await self._sessions(), seconds)
        except asyncio.CancelledError:  # the time is up, or the event loop ends
            for answer in answers:
                answer.cancel()
            raise
        except Exception as exc:
            _settle(answers, [exc] * len(answers))
        else:
            _settle(answers, found)
        finally:
            task = cast("asyncio.Task[None]", asyncio.current_task())
            timer.remove(task)
            self.tasks.discard(task)


def _settle(answers: Sequence[asyncio.Future[T]], found: Sequence[T | BaseException]) -> None:
    """Tell those who still wait."""
    for answer, value in zip(answers, found, strict=True):
        if answer.done():
            continue
        if isinstance(value, BaseException):
            answer.set_exception(value)
            answer.exception()  # seen: a caller that is cancelled just now does not look
        else:
            answer.set_result(value)
