"""The few things that differ between asyncio and trio, in one place.

On asyncio its own primitives are used: they cost a third to a fifth of anyio's. On trio the same
promises are kept with anyio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = [
    "Event",
    "deadline",
    "new_event",
    "on_asyncio",
    "pause",
    "run_to_completion",
    "this_loop",
]

T = TypeVar("T")


def on_asyncio() -> bool:
    """Tell whether the caller runs in an asyncio event loop (else it is trio)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def this_loop() -> object:
    """Return what stands for the running event loop: equal in it, and in no other."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return anyio.lowlevel.current_token()


class Event(Protocol):
    """Something that some wait for until another says that it has happened."""

    def set(self) -> object:
        """Let everybody go on who waits."""
        ...

    def is_set(self) -> bool:
        """Tell whether it has happened."""
        ...

    async def wait(self) -> object:
        """Wait until it has happened."""
        ...


def new_event() -> Event:
    """Return an event of the running loop."""
    return asyncio.Event() if on_asyncio() else anyio.Event()


async def pause() -> None:
    """Let every other task that can run do so once."""
    await (asyncio.sleep(0) if on_asyncio() else anyio.lowlevel.checkpoint())


async def run_to_completion(coroutine: Coroutine[object, object, T]) -> T:
    """Run `coroutine` to its end even while the caller is being cancelled, then let that through.

    A shielded anyio scope does not stop asyncio's own `Task.cancel`, which Quart and hypercorn
    use. A task of one's own does: whoever cancels the caller cannot reach it.
    """
    if not on_asyncio():
        return await _shielded(coroutine)
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    task = loop.create_task(_telling(coroutine, ended))
    try:
        await ended  # what `asyncio.shield` comes to, for less
    except asyncio.CancelledError:
        await _outlast(task)
        if not task.cancelled():
            task.exception()  # mark it as seen: the caller's cancellation takes precedence
        raise
    return task.result()


async def _telling(coroutine: Coroutine[object, object, T], ended: asyncio.Future[None]) -> T:
    try:
        return await coroutine
    finally:
        if not ended.done():  # else whoever waited was cancelled
            ended.set_result(None)


async def _shielded(coroutine: Coroutine[object, object, T]) -> T:
    with anyio.CancelScope(shield=True) as scope:
        result = await coroutine
        scope.shield = False
        await anyio.lowlevel.checkpoint_if_cancelled()
        return result
    raise AssertionError("unreachable: nobody cancels this scope itself")


async def _outlast(task: asyncio.Task[object]) -> None:
    """Wait for `task` whatever happens to the caller meanwhile."""
    # The scope keeps an anyio scope that was cancelled around us from trying again and again; the
    # loop is for a caller that cancels natively, as often as it likes.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue


def deadline(seconds: float | None) -> AbstractAsyncContextManager[object]:
    """Return a context that raises `TimeoutError` in its body after `seconds`; None is forever."""
    if on_asyncio():
        return asyncio.timeout(seconds)
    return _fail_after(seconds)


@asynccontextmanager
async def _fail_after(seconds: float | None) -> AsyncIterator[None]:
    with anyio.fail_after(seconds):
        yield
