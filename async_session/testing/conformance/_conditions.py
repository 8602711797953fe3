"""A precondition is checked in one step with the write."""

from __future__ import annotations

import anyio
import pytest

from ...stores.base import Match, SessionStore
from ._kit import TTL, KitTests, random_key, random_value

__all__ = ["ConditionTests"]


class ConditionTests(KitTests):
    """What the contract says of `match`."""

    async def test_any_stores_over_nothing_and_over_something(self, store: SessionStore) -> None:
        """`Match.ANY` stores whatever is there."""
        key = random_key()
        for value in (random_value(), random_value()):
            assert await store.save(key, value, ttl=TTL, match=Match.ANY) is True
            assert await store.open(key) == value

    async def test_absent_stores_over_nothing_only(self, store: SessionStore) -> None:
        """`Match.ABSENT` creates, and replaces nothing, not even an equal value."""
        key, value = random_key(), random_value(100)
        assert await store.save(key, value, ttl=TTL, match=Match.ABSENT) is True
        for late in (random_value(100), value):
            assert await store.save(key, late, ttl=TTL, match=Match.ABSENT) is False
            assert await store.open(key) == value
        await store.delete(key)
        assert await store.save(key, value, ttl=TTL, match=Match.ABSENT) is True

    @pytest.mark.parametrize("size", [16, 17, 100_000])
    async def test_a_version_is_the_first_16_bytes(self, store: SessionStore, size: int) -> None:
        """A version matches a value that begins with it, whatever follows."""
        key, version = random_key(), random_value(16)
        new = random_value(size)
        await store.save(key, version + random_value(size - 16), ttl=TTL)
        assert await store.save(key, new, ttl=TTL, match=version) is True
        assert await store.open(key) == new

    async def test_another_version_is_refused(self, store: SessionStore) -> None:
        """A version that differs in one byte, or stands elsewhere, is refused."""
        key, value = random_key(), random_value(200)
        await store.save(key, value, ttl=TTL)
        first, last = bytes([value[0] ^ 1]), bytes([value[15] ^ 1])
        elsewhere = value[1:17]
        for wrong in (first + value[1:16], value[:15] + last, elsewhere, bytes(16), b"*" * 16):
            assert await store.save(key, random_value(), ttl=TTL, match=wrong) is False
            assert await store.open(key) == value

    async def test_a_version_that_was_replaced_is_refused(self, store: SessionStore) -> None:
        """A version matches once: the write it allows replaces it."""
        key, first, second = random_key(), random_value(), random_value()
        await store.save(key, first, ttl=TTL)
        assert await store.save(key, second, ttl=TTL, match=first) is True
        assert await store.save(key, random_value(), ttl=TTL, match=first) is False
        assert await store.open(key) == second

    async def test_no_version_matches_nothing(self, store: SessionStore) -> None:
        """A version never matches an absent key."""
        key, value = random_key(), random_value()
        for version in (value, bytes(16)):
            assert await store.save(key, value, ttl=TTL, match=version) is False
            assert await store.open(key) is None
        await store.save(key, value, ttl=TTL)
        await store.delete(key)
        assert await store.save(key, value, ttl=TTL, match=value) is False
        assert await store.open(key) is None

    async def test_of_many_creators_one_wins(self, store: SessionStore) -> None:
        """`Match.ABSENT` is checked in one step with the write."""
        key = random_key()
        won = await _race(store, key, Match.ABSENT)
        assert len(won) == 1
        assert await store.open(key) == won[0]

    async def test_of_many_writers_of_one_version_one_wins(self, store: SessionStore) -> None:
        """A version is checked in one step with the write."""
        key, value = random_key(), random_value(300)
        await store.save(key, value, ttl=TTL)
        won = await _race(store, key, value[:16])
        assert len(won) == 1
        assert await store.open(key) == won[0]


async def _race(store: SessionStore, key: str, match: Match | bytes) -> list[bytes]:
    """Let twenty save at once; return the values of those that were told they did."""
    won: list[bytes] = []

    async def save(value: bytes) -> None:
        if await store.save(key, value, ttl=TTL, match=match):
            won.append(value)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(save, random_value(100))
    return won
