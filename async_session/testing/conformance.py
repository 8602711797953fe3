"""The store contract, as tests: a store is right if it passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from .._aio import on_asyncio
from ..stores.base import Match, SessionStore, SupportsClose, SupportsSweep
from ._cancelling import WAYS_TO_CANCEL, cancelled_at
from ._processes import count_in_processes, counter, next_count

__all__ = ["StoreConformance", "StoreFactory"]

#: Makes one more store object on the data of the store under test. Picklable: the tests also call
#: it in other processes. A class or a function of a module, or a `functools.partial` of one.
StoreFactory = Callable[[], SessionStore]

_TTL = 60
_FOUR_HUNDRED_DAYS = 400 * 24 * 3600
# Far more than any call of a store waits.
_MANY_POINTS = 200

_random = random.Random("store conformance")  # noqa: S311 - the same values in every run


def _key() -> str:
    return _random.randbytes(32).hex()


def _value(size: int = 16) -> bytes:
    return _random.randbytes(size)


@pytest.mark.anyio
class StoreConformance:
    """Every sentence of the store contract as a test. Subclass it and give it one fixture.

    ::

        class TestMyStore(StoreConformance):
            @pytest.fixture
            def store(self):
                return MyStore(...)

    The tests run on asyncio, under anyio's pytest plugin, which comes with this package. To run
    them on trio as well, override the fixture `anyio_backend` in the class. With
    ``@pytest.mark.asyncio`` on the class they run under pytest-asyncio instead. `store` may be an
    asynchronous fixture of the plugin that is used, and should close the store afterwards. Tests
    use random keys: nothing has to be flushed.

    Override the fixture `factory` if the data can be reached through a second store object, which
    is so for everything but memory: else the tests that need one are skipped.
    """

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Return the name of the event loop to run on, or several as the fixture's `params`."""
        return "asyncio"

    @pytest.fixture
    def factory(self) -> StoreFactory | None:
        """Return a picklable callable that makes a store on the same data, or None."""
        return None

    # What is stored is what comes back.

    async def test_an_absent_key_is_none(self, store: SessionStore) -> None:
        """A key that was never written is None."""
        assert await store.open(_key()) is None

    @pytest.mark.parametrize("size", [16, 17, 4096, 1_000_000])
    async def test_a_value_comes_back(self, store: SessionStore, size: int) -> None:
        """A value comes back as it was stored, up to a megabyte."""
        key, value = _key(), _value(size)
        assert await store.save(key, value, ttl=_TTL) is True
        assert await store.open(key) == value

    @pytest.mark.parametrize(
        "value",
        [
            bytes(16),
            bytes(range(256)),
            b"\r\n" * 20,
            b"\xff\xfe" * 20,
            b"END\r\n" + bytes(16),
            b"$-1\r\n" + bytes(16),
            b"\x80" + b"123456789012345" + b"\x00tail",
        ],
        ids=["zeros", "every-byte", "line-ends", "not-utf8", "end", "nil", "record"],
    )
    async def test_any_bytes_come_back(self, store: SessionStore, value: bytes) -> None:
        """No byte or sequence of bytes means anything to the store."""
        key = _key()
        await store.save(key, value, ttl=_TTL)
        found = await store.open(key)
        assert found == value
        assert type(found) is bytes

    async def test_a_value_is_replaced_whole(self, store: SessionStore) -> None:
        """Nothing of a longer value remains under a shorter one."""
        key, short = _key(), _value(16)
        await store.save(key, _value(5000), ttl=_TTL)
        assert await store.save(key, short, ttl=_TTL) is True
        assert await store.open(key) == short

    async def test_keys_do_not_touch_each_other(self, store: SessionStore) -> None:
        """A call touches its own key only."""
        key = _key()
        other = key[:-1] + ("0" if key[-1] != "0" else "1")
        mine, theirs = _value(), _value()
        await store.save(key, mine, ttl=_TTL)
        await store.save(other, theirs, ttl=_TTL)
        assert [await store.open(key), await store.open(other)] == [mine, theirs]
        await store.delete(other)
        assert [await store.open(key), await store.open(other)] == [mine, None]

    # It is kept for at least its ttl.

    async def test_nothing_expires_early(self, store: SessionStore) -> None:
        """A value is kept for at least its ttl."""
        key, value = _key(), _value()
        began = anyio.current_time()
        await store.save(key, value, ttl=1)
        await anyio.sleep(max(0.0, began + 0.9 - anyio.current_time()))
        assert await store.open(key) == value

    async def test_a_ttl_may_be_long(self, store: SessionStore) -> None:
        """A ttl of 400 days is a ttl like any other."""
        # Some backends read what is above thirty days as a date.
        key, value = _key(), _value()
        assert await store.save(key, value, ttl=_FOUR_HUNDRED_DAYS) is True
        assert await store.open(key) == value
        assert await store.save(key, value, ttl=_FOUR_HUNDRED_DAYS, match=value) is True
        assert await store.open(key) == value

    async def test_a_write_gives_the_new_ttl(self, store: SessionStore) -> None:
        """Each write sets the ttl anew, a guarded one as well."""
        value = _value()
        matches: dict[str, Match | bytes] = {_key(): Match.ANY, _key(): value}
        began = anyio.current_time()
        for key, match in matches.items():
            await store.save(key, value, ttl=1)
            assert await store.save(key, value, ttl=_TTL, match=match) is True
        await anyio.sleep(max(0.0, began + 1.2 - anyio.current_time()))
        assert [await store.open(key) for key in matches] == [value, value]

    # The precondition.

    async def test_any_stores_over_nothing_and_over_something(self, store: SessionStore) -> None:
        """`Match.ANY` stores whatever is there."""
        key = _key()
        for value in (_value(), _value()):
            assert await store.save(key, value, ttl=_TTL, match=Match.ANY) is True
            assert await store.open(key) == value

    async def test_absent_stores_over_nothing_only(self, store: SessionStore) -> None:
        """`Match.ABSENT` creates, and replaces nothing, not even an equal value."""
        key, value = _key(), _value(100)
        assert await store.save(key, value, ttl=_TTL, match=Match.ABSENT) is True
        for late in (_value(100), value):
            assert await store.save(key, late, ttl=_TTL, match=Match.ABSENT) is False
            assert await store.open(key) == value
        await store.delete(key)
        assert await store.save(key, value, ttl=_TTL, match=Match.ABSENT) is True

    @pytest.mark.parametrize("size", [16, 17, 100_000])
    async def test_a_version_is_the_first_16_bytes(self, store: SessionStore, size: int) -> None:
        """A version matches a value that begins with it, whatever follows."""
        key, version = _key(), _value(16)
        new = _value(size)
        await store.save(key, version + _value(size - 16), ttl=_TTL)
        assert await store.save(key, new, ttl=_TTL, match=version) is True
        assert await store.open(key) == new

    async def test_another_version_is_refused(self, store: SessionStore) -> None:
        """A version that differs in one byte, or stands elsewhere, is refused."""
        key, value = _key(), _value(200)
        await store.save(key, value, ttl=_TTL)
        first, last = bytes([value[0] ^ 1]), bytes([value[15] ^ 1])
        elsewhere = value[1:17]
        for wrong in (first + value[1:16], value[:15] + last, elsewhere, bytes(16), b"*" * 16):
            assert await store.save(key, _value(), ttl=_TTL, match=wrong) is False
            assert await store.open(key) == value

    async def test_a_version_that_was_replaced_is_refused(self, store: SessionStore) -> None:
        """A version matches once: the write it allows replaces it."""
        key, first, second = _key(), _value(), _value()
        await store.save(key, first, ttl=_TTL)
        assert await store.save(key, second, ttl=_TTL, match=first) is True
        assert await store.save(key, _value(), ttl=_TTL, match=first) is False
        assert await store.open(key) == second

    async def test_no_version_matches_nothing(self, store: SessionStore) -> None:
        """A version never matches an absent key."""
        key, value = _key(), _value()
        for version in (value, bytes(16)):
            assert await store.save(key, value, ttl=_TTL, match=version) is False
            assert await store.open(key) is None
        await store.save(key, value, ttl=_TTL)
        await store.delete(key)
        assert await store.save(key, value, ttl=_TTL, match=value) is False
        assert await store.open(key) is None

    async def test_of_many_creators_one_wins(self, store: SessionStore) -> None:
        """`Match.ABSENT` is checked in one step with the write."""
        key = _key()
        won = await _race(store, key, Match.ABSENT)
        assert len(won) == 1
        assert await store.open(key) == won[0]

    async def test_of_many_writers_of_one_version_one_wins(self, store: SessionStore) -> None:
        """A version is checked in one step with the write."""
        key, value = _key(), _value(300)
        await store.save(key, value, ttl=_TTL)
        won = await _race(store, key, value[:16])
        assert len(won) == 1
        assert await store.open(key) == won[0]

    # Removing.

    async def test_delete_removes(self, store: SessionStore) -> None:
        """A deleted key is absent."""
        key = _key()
        await store.save(key, _value(), ttl=_TTL)
        await store.delete(key)
        assert await store.open(key) is None

    async def test_delete_may_be_repeated(self, store: SessionStore) -> None:
        """Deleting what is not there is no error, and hinders no later write."""
        key, value = _key(), _value()
        await store.delete(key)
        await store.save(key, value, ttl=_TTL)
        await store.delete(key)
        await store.delete(key)
        assert await store.save(key, value, ttl=_TTL) is True
        assert await store.open(key) == value

    async def test_sweep_leaves_what_lives(self, store: SessionStore) -> None:
        """A sweep removes nothing whose ttl has not passed."""
        if not isinstance(store, SupportsSweep):
            pytest.skip("this store has no sweep: its backend collects by itself")
        key, value = _key(), _value()
        await store.save(key, value, ttl=_TTL)
        assert await store.sweep() >= 0
        assert await store.open(key) == value

    async def test_sweep_removes_what_has_expired(self, store: SessionStore) -> None:
        """A sweep removes what has expired, and says how many."""
        if not isinstance(store, SupportsSweep):
            pytest.skip("this store has no sweep: its backend collects by itself")
        key = _key()
        await store.save(key, _value(), ttl=1)
        for _ in range(100):
            if await store.sweep():
                break
            await anyio.sleep(0.1)
        else:
            pytest.fail("ten seconds after its ttl a value had not been swept")
        assert await store.open(key) is None

    # Every call shows what was acknowledged before it.

    async def test_writes_are_seen_at_once(self, store: SessionStore) -> None:
        """`open` shows every acknowledged save and delete."""
        key = _key()
        for _ in range(50):
            value = _value(64)
            await store.save(key, value, ttl=_TTL)
            assert await store.open(key) == value
            await store.delete(key)
            assert await store.open(key) is None

    async def test_writes_are_seen_by_another_store_object(
        self, store: SessionStore, factory: StoreFactory | None
    ) -> None:
        """`open` shows what was acknowledged to anybody."""
        other = _needs(factory)()
        key = _key()
        try:
            for _ in range(20):
                value, newer = _value(64), _value(64)
                await store.save(key, value, ttl=_TTL)
                assert await other.open(key) == value
                assert await other.save(key, newer, ttl=_TTL, match=value[:16]) is True
                assert await store.save(key, value, ttl=_TTL, match=value[:16]) is False
                assert await store.open(key) == newer
                await other.delete(key)
                assert await store.open(key) is None
        finally:
            if isinstance(other, SupportsClose):
                await other.aclose()

    async def test_no_guarded_write_of_many_processes_is_lost(
        self, store: SessionStore, factory: StoreFactory | None
    ) -> None:
        """Four processes increment one counter, and no acknowledged write is lost."""
        make, key = _needs(factory), _key()
        await store.save(key, next_count(0), ttl=_TTL * 10)
        acknowledged = await anyio.to_thread.run_sync(count_in_processes, make, key, 4, 300)
        found = await store.open(key)
        assert found is not None
        assert (counter(found), acknowledged) == (1200, 1200)

    # A cancelled call leaves everything sound.

    @pytest.mark.parametrize("way", WAYS_TO_CANCEL)
    async def test_a_cancelled_open_leaves_the_store_sound(
        self, store: SessionStore, way: str
    ) -> None:
        """An `open` cancelled at any await point harms nothing."""
        _skip_if_impossible(way)
        key, value = _key(), _value(5000)
        await store.save(key, value, ttl=_TTL)
        await _cancel_everywhere(store, way, lambda: store.open(key), key, {value})
        assert await store.open(key) == value

    @pytest.mark.parametrize("kind", ["any", "absent", "version"])
    @pytest.mark.parametrize("way", WAYS_TO_CANCEL)
    async def test_a_cancelled_save_is_whole_or_nothing(
        self, store: SessionStore, way: str, kind: str
    ) -> None:
        """A `save` cancelled at any await point was made whole or not at all."""
        _skip_if_impossible(way)
        key, old, new = _key(), _value(5000), _value(6000)

        matches: dict[str, Match | bytes] = {
            "any": Match.ANY,
            "absent": Match.ABSENT,
            "version": old[:16],
        }
        match = matches[kind]

        async def save() -> None:
            await store.save(key, new, ttl=_TTL, match=match)

        async def prepare() -> None:
            await (store.delete(key) if kind == "absent" else store.save(key, old, ttl=_TTL))

        allowed = {new, None if kind == "absent" else old}
        await _cancel_everywhere(store, way, save, key, allowed, prepare)

    @pytest.mark.parametrize("way", WAYS_TO_CANCEL)
    async def test_a_cancelled_delete_is_whole_or_nothing(
        self, store: SessionStore, way: str
    ) -> None:
        """A `delete` cancelled at any await point was made or was not."""
        _skip_if_impossible(way)
        key, old = _key(), _value(5000)

        async def prepare() -> None:
            await store.save(key, old, ttl=_TTL)

        await _cancel_everywhere(store, way, lambda: store.delete(key), key, {old, None}, prepare)

    @pytest.mark.parametrize("way", ["native", "scope"])
    async def test_no_answer_reaches_another_caller(self, store: SessionStore, way: str) -> None:
        """With hundreds of calls cancelled in flight, each answer is its own key's."""
        # Hundreds of calls in flight together, most of them cancelled while they wait.
        _skip_if_impossible(way)
        values = {_key(): _value(64) for _ in range(20)}
        for key, value in values.items():
            await store.save(key, value, ttl=_TTL)
        answers: list[tuple[str, bytes | None]] = []

        async def live(key: str) -> None:
            answers.append((key, await store.open(key)))

        async with anyio.create_task_group() as tasks:
            for key in list(values) * 15:
                await anyio.lowlevel.checkpoint()
                chance = _random.random()
                if chance < 0.25:
                    tasks.start_soon(live, key)
                    continue
                call = store.open(key) if chance < 0.6 else store.delete(_key())
                tasks.start_soon(cancelled_at, call, _random.randrange(4), way)
        for key in values:
            await live(key)
        assert len(answers) > 50
        assert [pair for pair in answers if values[pair[0]] != pair[1]] == []


async def _race(store: SessionStore, key: str, match: Match | bytes) -> list[bytes]:
    """Let twenty save at once; return the values of those that were told they did."""
    won: list[bytes] = []

    async def save(value: bytes) -> None:
        if await store.save(key, value, ttl=_TTL, match=match):
            won.append(value)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(save, _value(100))
    return won


async def _cancel_everywhere(
    store: SessionStore,
    way: str,
    call: Callable[[], Coroutine[Any, Any, object]],
    key: str,
    allowed: set[bytes | None],
    prepare: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Cancel `call` at each of its await points in turn; after each the store must be sound."""
    other, others = _key(), _value(64)
    await store.save(other, others, ttl=_TTL)
    for point in range(_MANY_POINTS):
        if prepare is not None:
            await prepare()
        was_cancelled = await cancelled_at(call(), point, way)
        first = await store.open(key)
        assert first in allowed
        assert await store.open(other) == others
        again = _value(32)
        assert await store.save(other, again, ttl=_TTL, match=others[:16]) is True
        assert await store.open(other) == again
        others = again
        # What was cancelled does not land later, either.
        assert await store.open(key) == first
        if not was_cancelled:
            return
    pytest.fail(f"a call that waits {_MANY_POINTS} times was expected to end before")


def _needs(factory: StoreFactory | None) -> StoreFactory:
    if factory is None:
        pytest.skip("override the fixture `factory` to run this test")
    return factory


def _skip_if_impossible(way: str) -> None:
    if way != "scope" and not on_asyncio():
        pytest.skip("only asyncio has a cancellation of its own")
