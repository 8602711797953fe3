"""The sweep of `async_session.testing` that cancels a coroutine at each of its await points."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine

import anyio
import anyio.lowlevel
import pytest

from async_session.testing import Cancellation, cancel_everywhere, ways_to_cancel

pytestmark = pytest.mark.anyio


async def steps(done: list[int], number: int = 3) -> str:
    for step in range(number):
        await anyio.lowlevel.checkpoint()
        done.append(step)
    return "ended"


async def test_each_await_point_in_each_way_and_once_uncancelled(anyio_backend: str) -> None:
    seen: list[tuple[str, int, bool, int]] = []
    points = 0
    for cancellation in cancel_everywhere():
        done: list[int] = []
        result = await cancellation.run(steps(done))
        assert result == (None if cancellation.reached else "ended")
        seen.append((cancellation.way, cancellation.point, cancellation.reached, len(done)))
        points = max(points, cancellation.point)
    # A checkpoint waits twice on some loops; each of the three is cut somewhere.
    assert points >= 3
    for way in ways_to_cancel():
        mine = [entry for entry in seen if entry[0] == way]
        assert [entry[1] for entry in mine] == list(range(points + 1))
        assert [entry[2] for entry in mine] == [True] * points + [False]
        assert {entry[3] for entry in mine} == {0, 1, 2, 3}
    assert ways_to_cancel() == (
        ("scope",) if anyio_backend == "trio" else ("native", "native-repeated", "scope")
    )


async def sweep(coroutine_function: Callable[[], Coroutine[object, object, object]]) -> None:
    for cancellation in cancel_everywhere(at_most=10):
        await cancellation.run(coroutine_function())


async def test_what_waits_forever_is_an_error() -> None:
    with pytest.raises(AssertionError, match="more than 10 times"):
        await sweep(lambda: steps([], 100))


async def test_an_error_of_its_own_comes_out() -> None:
    async def fail() -> None:
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        await sweep(fail)


async def test_a_loop_that_runs_nothing_is_an_error() -> None:
    passes = cancel_everywhere()
    next(passes)
    with pytest.raises(AssertionError, match="run"):
        next(passes)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_that_is_swallowed_is_an_error() -> None:
    async def swallow() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)

    with pytest.raises(AssertionError, match="its caller was not told"):
        await Cancellation("native", 0).run(swallow())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_once_is_not_twice() -> None:
    """Who waits for its work through one cancellation only is found out by the second."""

    async def once_patient() -> None:
        work = asyncio.ensure_future(steps(done, 5))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await work
            raise

    left = set()
    for way in ways_to_cancel():
        done: list[int] = []
        await Cancellation(way, 0).run(once_patient())
        if len(done) < 5:
            left.add(way)
    assert left == {"native-repeated", "scope"}
