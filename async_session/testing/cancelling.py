"""Cancel a coroutine at one exact await point, and at each of them in turn."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, Literal, TypeAlias, TypeVar

import anyio

from .._aio import on_asyncio

__all__ = ["Cancellation", "WayToCancel", "cancel_everywhere", "ways_to_cancel"]

T = TypeVar("T")

#: How a caller is cancelled; see `ways_to_cancel`.
WayToCancel: TypeAlias = Literal["native", "native-repeated", "scope"]


def ways_to_cancel() -> tuple[WayToCancel, ...]:
    """Return the ways in which a caller on this event loop may be cancelled.

    ``"native"`` is `asyncio.Task.cancel`, ``"native-repeated"`` the same once more at every later
    await point, and ``"scope"`` is anyio's `CancelScope`, which on trio is the only way.
    """
    return ("native", "native-repeated", "scope") if on_asyncio() else ("scope",)


class Cancellation:
    """One way to be cancelled, at one await point. `str()` of it says which, for a failing test.

    Args:
        way: how; one of `ways_to_cancel`.
        point: at which await point of the coroutine, counted from 0: where it really waits, also
            for one turn of the event loop.

    Attributes:
        reached: whether the coroutine waited that often. If not, it ran to its end.
    """

    def __init__(self, way: WayToCancel, point: int) -> None:
        self.way: WayToCancel = way
        self.point = point
        self.reached = False
        self._ran = False

    def __repr__(self) -> str:
        return f"<cancelled at point {self.point}, {self.way}>"

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        """Run a coroutine and cancel it at the point; return its result if it has one.

        Raises:
            AssertionError: it was cancelled, and kept that from its caller.
            BaseException: what the coroutine itself raises.
        """
        self._ran = True
        return await (self._by_scope if self.way == "scope" else self._natively)(coroutine)

    async def _by_scope(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        def step(count: int) -> None:
            if count == self.point:
                self.reached = True
                scope.cancel()

        with anyio.CancelScope() as scope:
            return await _stepped(coroutine, step)
        return None

    async def _natively(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        def step(count: int) -> None:
            if count == self.point or (self.way == "native-repeated" and count > self.point):
                self.reached = True
                task.cancel()

        task: asyncio.Task[T] = asyncio.ensure_future(_as_coroutine(_stepped(coroutine, step)))
        await asyncio.wait([task])
        if not self.reached:
            return task.result()
        assert task.cancelled(), f"{self!r}, and its caller was not told: {task!r}"
        return None


def cancel_everywhere(*, at_most: int = 1000) -> Iterator[Cancellation]:
    """Yield a `Cancellation` for each await point of a coroutine, in each way to be cancelled.

    The body of the loop prepares a state, gives the coroutine to `Cancellation.run`, and looks at
    what is left of the state. The last pass of each way runs to its end, uncancelled.

    Args:
        at_most: await points a coroutine may have.

    Raises:
        AssertionError: it has more, or the body of the loop ran none.

    Example:
        >>> async def main():
        ...     for cancellation in cancel_everywhere():
        ...         done = []
        ...         async def work():
        ...             await anyio.lowlevel.checkpoint()
        ...             done.append(True)
        ...         await cancellation.run(work())
        ...         assert done == ([] if cancellation.reached else [True])
        >>> anyio.run(main)
    """
    for way in ways_to_cancel():
        for point in range(at_most):
            cancellation = Cancellation(way, point)
            yield cancellation
            assert cancellation._ran, "the body of the loop is to run() a coroutine"
            if not cancellation.reached:
                break
        else:
            raise AssertionError(f"the coroutine waits more than {at_most} times")


async def _as_coroutine(awaitable: Any) -> Any:
    return await awaitable


@types.coroutine
def _stepped(
    coroutine: Coroutine[Any, Any, T], step: Callable[[int], None]
) -> Generator[Any, Any, T]:
    """Await `coroutine`, calling ``step(count)`` each time that it is about to wait."""
    count = 0
    answer: object = None
    error: BaseException | None = None
    while True:
        try:
            waits_for = coroutine.send(answer) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # typeshed has Any
        step(count)
        count += 1
        answer = error = None
        try:
            answer = yield waits_for
        except BaseException as exc:
            error = exc
