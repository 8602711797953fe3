"""What is stored is what comes back, for as long as it was to be kept."""

from __future__ import annotations

import anyio
import pytest

from ...stores.base import Match, SessionStore
from ._kit import TTL, KitTests, random_key, random_value

__all__ = ["ValueTests"]

_FOUR_HUNDRED_DAYS = 400 * 24 * 3600


class ValueTests(KitTests):
    """What the contract says of values, of their ttl, and of their removal."""

    # What is stored is what comes back.

    async def test_an_absent_key_is_none(self, store: SessionStore) -> None:
        """A key that was never written is None."""
        assert await store.open(random_key()) is None

    @pytest.mark.parametrize("size", [16, 17, 4096, 1_000_000])
    async def test_a_value_comes_back(self, store: SessionStore, size: int) -> None:
        """A value comes back as it was stored, up to a megabyte."""
        key, value = random_key(), random_value(size)
        assert await store.save(key, value, ttl=TTL) is True
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
        key = random_key()
        await store.save(key, value, ttl=TTL)
        found = await store.open(key)
        assert found == value
        assert type(found) is bytes

    async def test_a_value_is_replaced_whole(self, store: SessionStore) -> None:
        """Nothing of a longer value remains under a shorter one."""
        key, short = random_key(), random_value(16)
        await store.save(key, random_value(5000), ttl=TTL)
        assert await store.save(key, short, ttl=TTL) is True
        assert await store.open(key) == short

    async def test_keys_do_not_touch_each_other(self, store: SessionStore) -> None:
        """A call touches its own key only."""
        key = random_key()
        other = key[:-1] + ("0" if key[-1] != "0" else "1")
        mine, theirs = random_value(), random_value()
        await store.save(key, mine, ttl=TTL)
        await store.save(other, theirs, ttl=TTL)
        assert [await store.open(key), await store.open(other)] == [mine, theirs]
        await store.delete(other)
        assert [await store.open(key), await store.open(other)] == [mine, None]

    # It is kept for at least its ttl.

    async def test_nothing_expires_early(self, store: SessionStore) -> None:
        """A value is kept for at least its ttl."""
        for ttl in (1, 3, 10):
            key, value = random_key(), random_value()
            began = anyio.current_time()
            await store.save(key, value, ttl=ttl)
            await anyio.sleep(max(0.0, began + ttl - 0.1 - anyio.current_time()))
            found = await store.open(key)
            if anyio.current_time() - began < ttl:
                assert found == value
                return
            # The machine stood still meanwhile, so that nothing is said: once more, with more time.
        raise AssertionError("this store takes longer for an answer than ten seconds")

    async def test_a_ttl_may_be_long(self, store: SessionStore) -> None:
        """A ttl of 400 days is a ttl like any other."""
        # Some backends read what is above thirty days as a date.
        key, value = random_key(), random_value()
        assert await store.save(key, value, ttl=_FOUR_HUNDRED_DAYS) is True
        assert await store.open(key) == value
        assert await store.save(key, value, ttl=_FOUR_HUNDRED_DAYS, match=value) is True
        assert await store.open(key) == value

    async def test_a_write_gives_the_new_ttl(self, store: SessionStore) -> None:
        """Each write sets the ttl anew, a guarded one as well."""
        value = random_value()
        matches: dict[str, Match | bytes] = {random_key(): Match.ANY, random_key(): value}
        began = anyio.current_time()
        for key, match in matches.items():
            await store.save(key, value, ttl=1)
            assert await store.save(key, value, ttl=TTL, match=match) is True
        await anyio.sleep(max(0.0, began + 1.2 - anyio.current_time()))
        assert [await store.open(key) for key in matches] == [value, value]

    # Removing.

    async def test_delete_removes(self, store: SessionStore) -> None:
        """A deleted key is absent."""
        key = random_key()
        await store.save(key, random_value(), ttl=TTL)
        await store.delete(key)
        assert await store.open(key) is None

    async def test_delete_may_be_repeated(self, store: SessionStore) -> None:
        """Deleting what is not there is no error, and hinders no later write."""
        key, value = random_key(), random_value()
        await store.delete(key)
        await store.save(key, value, ttl=TTL)
        await store.delete(key)
        await store.delete(key)
        assert await store.save(key, value, ttl=TTL) is True
        assert await store.open(key) == value

    # Every call shows what was acknowledged before it.

    async def test_writes_are_seen_at_once(self, store: SessionStore) -> None:
        """`open` shows every acknowledged save and delete."""
        key = random_key()
        for _ in range(50):
            value = random_value(64)
            await store.save(key, value, ttl=TTL)
            assert await store.open(key) == value
            await store.delete(key)
            assert await store.open(key) is None
