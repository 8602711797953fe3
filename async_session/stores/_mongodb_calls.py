"""How the MongoDB store calls the driver: in tasks, in time, and for several readers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar, cast

from .._shared_timer import SharedTimer
from ._mongodb_clients import Collection, Document
from ._mongodb_commands import read_all

__all__ = ["Calls", "Operation"]

T = TypeVar("T")
#: What to do with a collection, in how many seconds.
Operation = Callable[[Collection, float], Awaitable[T]]
#: Keys that are read together on an event loop, and what waits for each.
_Group = tuple[asyncio.AbstractEventLoop, list[str], list["asyncio.Future[Document | None]"]]

# The driver stops a little before the deadline, because it can say why.
_DRIVERS_SHARE: Final = 0.95
# Reads that go out in one command. Most of what a read costs is what a command costs.
_TOGETHER: Final = 16


class Calls:
    """The calls of one store.

    Each is made in a task of its own, which goes on when the caller is cancelled: a connection that
    pymongo is making just then would be left open. It is cancelled when its time is up. Mostly the
    driver has ended it by then, because it can say why.

    Args:
        sessions: returns the collection for the running event loop.
        deadline: returns the seconds that a call may take.
    """

    def __init__(
        self, sessions: Callable[[], Awaitable[Collection]], deadline: Callable[[], float]
    ) -> None:
        self._sessions = sessions
        self._deadline = deadline
        #: what is under way; the loop itself keeps weak references only
        self.tasks: set[asyncio.Task[None]] = set()
        # Those of the loop that was here last: the timer, and reads that others may still join.
        self._timer: SharedTimer | None = None
        self._group: _Group | None = None

    def read(self, key: str) -> asyncio.Future[Document | None]:
        """Read `key` in one command with others that are asked for in this turn of the loop."""
        loop = asyncio.get_running_loop()
        group = self._group
        if group is None or group[0] is not loop or len(group[1]) == _TOGETHER:
            keys: list[str] = []
            group = self._group = loop, keys, []
            loop.call_soon(self._close, group)
            self.start(lambda sessions, left: read_all(sessions, keys, left), group[2])
        answer: asyncio.Future[Document | None] = loop.create_future()
        group[1].append(key)
        group[2].append(answer)
        return answer

    def start(
        self,
        operation: Operation[Sequence[T | BaseException]],
        answers: list[asyncio.Future[T]],
        seconds: float | None = None,
    ) -> None:
        """Do what has a result, or an error, for each of `answers`.

        Args:
            operation: begins with the loop's next turn.
            answers: the driver's errors, or a `TimeoutError`, go there too.
            seconds: how long the driver may take, if it is not the deadline.
        """
        loop = asyncio.get_running_loop()
        timer = self._timer
        if timer is None or timer.loop is not loop:
            timer = self._timer = SharedTimer()
        deadline = self._deadline()
        left = (seconds or deadline) * _DRIVERS_SHARE
        task = loop.create_task(self._operate(operation, left, answers, timer))
        self.tasks.add(task)
        timer.add(task, loop.time() + deadline, lambda: _give_up(task, answers))

    def _close(self, group: _Group) -> None:
        """Let nobody join who comes after this turn."""
        if self._group is group:
            self._group = None

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


def _give_up(task: asyncio.Task[None], answers: Sequence[asyncio.Future[Any]]) -> None:
    _settle(answers, [TimeoutError() for _ in answers])
    task.cancel()


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
