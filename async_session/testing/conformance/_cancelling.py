"""Cancel a coroutine at one exact await point, and count how many it has."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

import anyio

from ..._aio import on_asyncio

__all__ = ["cancelled_at", "ways_to_cancel"]

T = TypeVar("T")

Step = Callable[[int], None]


def ways_to_cancel() -> tuple[str, ...]:
    """Return the ways in which a caller on this event loop may be cancelled.

    By `asyncio.Task.cancel`, by that once more at every later await point, or by a scope of anyio,
    which is how trio does it.
    """
    return ("native", "native-repeated", "scope") if on_asyncio() else ("scope",)


async def cancelled_at(coroutine: Coroutine[Any, Any, T], point: int, way: str) -> bool:
    """Run `coroutine` and cancel it where it waits for the `point`-th time (from 0).

    Returns:
        Whether it waited that often. If not, it ran to its end, and a larger `point` is of no use.
        An error of the coroutine's own is raised.
    """
    run = _cancel_scope if way == "scope" else _cancel_natively
    return await run(coroutine, point, way == "native-repeated")


async def _cancel_scope(coroutine: Coroutine[Any, Any, T], point: int, repeated: bool) -> bool:
    reached = False

    def step(count: int) -> None:
        nonlocal reached
        if count == point:
            reached = True
            scope.cancel()

    with anyio.CancelScope() as scope:
        await _stepped(coroutine, step)
    return reached


async def _cancel_natively(coroutine: Coroutine[Any, Any, T], point: int, repeated: bool) -> bool:
    reached = False

    def step(count: int) -> None:
        nonlocal reached
        if count == point or (repeated and count > point):
            reached = True
            task.cancel()

    task = asyncio.ensure_future(_as_coroutine(_stepped(coroutine, step)))
    await asyncio.wait([task])
    if reached:
        assert task.cancelled(), "the call was cancelled, and its caller was not told"
    else:
        task.result()
    return reached


async def _as_coroutine(awaitable: Any) -> object:
    return await awaitable


@types.coroutine
def _stepped(coroutine: Coroutine[Any, Any, T], step: Step) -> Generator[Any, Any, T]:
    """Await `coroutine`, calling ``step(count)`` each time that it is about to wait."""
    count = 0
    answer: object = None
    error: BaseException | None = None
    while True:
        try:
            waits_for = coroutine.send(answer) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        step(count)
        count += 1
        answer = error = None
        try:
            answer = yield waits_for
        except BaseException as exc:
            error = exc
