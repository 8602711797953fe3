"""One timer for many deadlines: each is told apart from a cancellation, in time and in order."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from async_session._shared_timer import Deadline, SharedTimer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def _after(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def _wait(timer: SharedTimer, seconds: float) -> str:
    """Return how a wait without end came to its end."""
    try:
        with Deadline(timer, _after(seconds)):
            await asyncio.Event().wait()
    except TimeoutError:
        return "late"
    except asyncio.CancelledError:
        return "cancelled"
    raise AssertionError("unreachable: nobody sets the event")


async def test_all_are_told_when_their_time_is_up() -> None:
    timer, began = SharedTimer(), _after(0)
    ends: list[float] = []

    async def wait(seconds: float) -> None:
        assert await _wait(timer, seconds) == "late"
        ends.append(_after(0) - began)

    await asyncio.gather(wait(0.02), wait(0.02), wait(0.04))
    assert 0.02 <= ends[0] <= ends[1] < 0.04 <= ends[2]
    assert await _wait(timer, 0.02) == "late", "it may be used again"


async def test_a_body_that_ends_in_time_hears_nothing_later() -> None:
    timer = SharedTimer()
    with Deadline(timer, _after(0.01)):
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_comes_first() -> None:
    timer = SharedTimer()
    early, late = (asyncio.ensure_future(_wait(timer, 0.01)) for _ in range(2))
    await asyncio.sleep(0)
    early.cancel()
    assert await early == "cancelled"
    assert await late == "late"

    both = asyncio.ensure_future(_wait(timer, 0.01))
    await asyncio.sleep(0)
    ((when, _),) = timer._due.values()
    timer.add(timer, when, both.cancel)  # in one turn of the loop
    assert await both == "cancelled"


async def test_a_body_that_swallows_the_end_goes_on_uncancelled() -> None:
    timer = SharedTimer()
    with Deadline(timer, _after(0.01)), contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_there_is_one_timer_of_the_loop_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, made = asyncio.get_running_loop(), 0
    call_at = loop.call_at

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal made
        made += 1
        return call_at(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_at", counted)
    timer = SharedTimer()
    for _ in range(100):
        with Deadline(timer, _after(60)):
            pass
    assert made == 1
