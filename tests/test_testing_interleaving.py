"""The scheduler of `async_session.testing` that runs store calls in every order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from async_session import Match
from async_session.stores.filesystem import FileSystemStore
from async_session.stores.memory import MemoryStore
from async_session.testing import RecordingStore, Schedule, TurnStore, interleavings

pytestmark = pytest.mark.anyio

KEY = "a" * 64


def counting(store: TurnStore, number: int) -> Callable[[], Awaitable[None]]:
    async def job() -> None:
        for _ in range(number):
            await store.open(KEY)

    return job


async def orders(*numbers: int) -> list[str]:
    store, found = TurnStore(MemoryStore()), list[str]()
    for schedule in interleavings():
        await schedule.run({"abc"[n]: counting(store, calls) for n, calls in enumerate(numbers)})
        found.append("".join(schedule.order))
    return found


async def test_every_order_is_tried_once() -> None:
    assert await orders(2, 2) == ["aabb", "abab", "abba", "baab", "baba", "bbaa"]
    assert await orders(1, 1, 1) == ["abc", "acb", "bac", "bca", "cab", "cba"]
    assert await orders(0, 2) == ["bb"]
    assert await orders() == [""]


@pytest.mark.parametrize("choices", [[], [1, 0, 1], [0, 0, 1, 1], [9, 9, 9]])
async def test_an_order_can_be_had_again(choices: list[int]) -> None:
    store, orders, schedule = TurnStore(MemoryStore()), list[str](), Schedule(choices)
    for _ in range(2):
        await schedule.run({"a": counting(store, 3), "b": counting(store, 2)})
        orders.append("".join(schedule.order))
        schedule = eval(repr(schedule))
    assert orders[0] == orders[1]


async def test_a_write_that_is_not_guarded_is_lost_in_some_orders_only(tmp_path: Path) -> None:
    # On files each call ends in a thread: nobody has a turn before it has.
    files = FileSystemStore(tmp_path, fsync=False)
    store = TurnStore(files)
    left: dict[str, int] = {}

    async def increment() -> None:
        value = await store.open(KEY)
        assert value is not None
        await store.save(KEY, b"%020d" % (int(value) + 1), ttl=60)

    for schedule in interleavings():
        await store.save(KEY, b"%020d" % 0, ttl=60)  # no job's call waits for no turn
        await schedule.run({"a": increment, "b": increment})
        left["".join(schedule.order)] = int(await store.open(KEY) or b"")
    assert left == {"aabb": 2, "abab": 1, "abba": 1, "baab": 1, "baba": 1, "bbaa": 2}
    await files.aclose()


async def test_a_job_may_wait_for_another_one() -> None:
    """As in a queue of writers: who stands there comes to no call, and the others go on."""
    store, found = TurnStore(MemoryStore()), set[str]()

    async def job() -> None:
        async with lock:
            await store.open(KEY)
            await store.save(KEY, b"v" * 16, ttl=60, match=Match.ABSENT)

    for schedule in interleavings():
        lock = anyio.Lock()
        await schedule.run({"a": job, "b": job, "c": counting(store, 1)})
        found.add("".join(schedule.order))
    assert found == {"caabb", "acabb", "aacbb", "aabcb", "aabbc"}


async def test_a_call_that_is_given_up_before_its_turn_is_not_made() -> None:
    recording = RecordingStore(MemoryStore())
    store, scope = TurnStore(recording), anyio.CancelScope()

    async def impatient() -> None:
        with scope:
            await store.open(KEY)
        await store.delete(KEY)

    async def other() -> None:
        await store.save(KEY, b"v" * 16, ttl=60)
        scope.cancel()

    await Schedule().run({"a": other, "b": impatient})
    assert [verb for verb, _ in recording.calls] == ["save", "delete"]


async def test_what_a_job_raises_is_raised() -> None:
    async def fail() -> None:
        await store.open(KEY)
        raise KeyError("its own")

    store = TurnStore(MemoryStore())
    with pytest.raises(ExceptionGroup) as caught:
        await Schedule().run({"a": fail, "b": counting(store, 3)})
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
