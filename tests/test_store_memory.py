"""What the memory store promises beyond the contract."""

from __future__ import annotations

import subprocess
import sys

import pytest

from async_session.errors import ConfigurationError
from async_session.stores.base import Match
from async_session.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def key(number: int) -> str:
    return f"{number:064x}"


def value(number: int) -> bytes:
    return b"%016d" % number


async def test_it_expires_at_its_ttl_and_not_before() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    await store.save(key(1), value(1), ttl=10)
    clock.now += 9.99
    assert await store.open(key(1)) == value(1)
    assert await store.save(key(1), value(2), ttl=10, match=Match.ABSENT) is False
    clock.now += 0.01
    assert await store.open(key(1)) is None
    assert await store.save(key(1), value(2), ttl=10, match=value(1)) is False
    assert await store.save(key(1), value(2), ttl=10, match=Match.ABSENT) is True


async def test_a_rewrite_outlives_the_first_ttl() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    await store.save(key(1), value(1), ttl=10)
    await store.save(key(1), value(2), ttl=100)
    clock.now += 50
    await store.save(key(2), value(2), ttl=1)  # collects
    assert await store.open(key(1)) == value(2)


async def test_the_least_recently_written_goes_when_it_is_full() -> None:
    store = MemoryStore(max_items=3)
    for number in (1, 2, 3):
        await store.save(key(number), value(number), ttl=100)
    await store.open(key(1))
    await store.save(key(1), value(11), ttl=100)
    await store.save(key(4), value(4), ttl=100)
    found = [await store.open(key(number)) for number in (1, 2, 3, 4)]
    assert found == [value(11), None, value(3), value(4)]


async def test_the_expired_go_before_the_living() -> None:
    clock = Clock()
    store = MemoryStore(max_items=200, clock=clock)
    await store.save(key(0), value(0), ttl=1000)  # the first to be evicted
    for number in range(1, 200):
        await store.save(key(number), value(number), ttl=5)
    clock.now += 6
    await store.save(key(500), value(500), ttl=1000)
    assert await store.open(key(0)) == value(0)
    assert await store.open(key(500)) == value(500)


async def test_the_living_stay_also_behind_many_rewrites() -> None:
    clock = Clock()
    store = MemoryStore(max_items=3, clock=clock)
    await store.save(key(0), value(0), ttl=1000)  # the first to be evicted
    await store.save(key(1), value(1), ttl=5)
    for number in range(200):
        await store.save(key(2), value(number), ttl=2)
    await store.save(key(2), value(2), ttl=1000)
    clock.now += 6
    await store.save(key(3), value(3), ttl=1000)
    found = [await store.open(key(number)) for number in range(4)]
    assert found == [value(0), None, value(2), value(3)]


async def test_what_expired_is_dropped_by_later_saves() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    for number in range(300):
        await store.save(key(number), value(number), ttl=5)
    clock.now += 6
    for number in range(300, 310):
        await store.save(key(number), value(number), ttl=5)
    assert len(store._items) == 10


async def test_many_rewrites_of_one_key_need_no_more_room() -> None:
    store = MemoryStore()
    for number in range(5000):
        await store.save(key(1), value(number), ttl=1000)
    assert len(store._expiries) < 2000


async def test_the_stored_bytes_are_its_own() -> None:
    store = MemoryStore()
    data = bytearray(value(1))
    await store.save(key(1), data, ttl=10)  # type: ignore[arg-type]
    data[0] = 0
    assert await store.open(key(1)) == value(1)


async def test_a_version_has_16_bytes() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        await MemoryStore().save(key(1), value(1), ttl=10, match=b"short")


async def test_it_never_waits() -> None:
    assert MemoryStore().deadline == 0.0
    coroutine = MemoryStore().open(key(1))
    with pytest.raises(StopIteration):
        coroutine.send(None)


def test_it_holds_something() -> None:
    with pytest.raises(ConfigurationError, match="max_items"):
        MemoryStore(max_items=0)


SCRIPT = """
import asyncio, logging
from async_session.stores.memory import MemoryStore
logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
{before}
async def main():
    for _ in range(3):
        await MemoryStore().save("0" * 64, bytes(16), ttl=1)
asyncio.run(main())
"""


@pytest.mark.parametrize(("before", "times"), [("", 1), ("import pytest", 0)])
def test_it_says_once_that_it_serves_one_process(before: str, times: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr.count("WARNING async_session MemoryStore") == times
    assert run.stderr.count("FileSystemStore") == times
