"""What a store must do whose data several objects and processes share."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.to_thread

from ...stores.base import SessionStore, SupportsClose
from ._kit import TTL, KitTests, random_key, random_value
from ._processes import count_in_processes, counter, next_count

__all__ = ["SharedStoreConformance", "StoreFactory"]

#: Makes one more store object on the data of the store under test. Picklable: the tests also call
#: it in other processes. A class or a function of a module, or a `functools.partial` of one.
StoreFactory = Callable[[], SessionStore]


class SharedStoreConformance(KitTests):
    """What holds between store objects and between processes. A mixin for `StoreConformance`.

    It needs one more fixture, `factory`: a picklable callable without arguments that makes one more
    store object on the same data.
    """

    async def test_writes_are_seen_by_another_store_object(
        self, store: SessionStore, factory: StoreFactory
    ) -> None:
        """`open` shows what was acknowledged to anybody."""
        other, key = factory(), random_key()
        try:
            for _ in range(20):
                value, newer = random_value(64), random_value(64)
                await store.save(key, value, ttl=TTL)
                assert await other.open(key) == value
                assert await other.save(key, newer, ttl=TTL, match=value[:16]) is True
                assert await store.save(key, value, ttl=TTL, match=value[:16]) is False
                assert await store.open(key) == newer
                await other.delete(key)
                assert await store.open(key) is None
        finally:
            if isinstance(other, SupportsClose):
                await other.aclose()

    async def test_no_guarded_write_of_many_processes_is_lost(
        self, store: SessionStore, factory: StoreFactory
    ) -> None:
        """Four processes increment one counter, and no acknowledged write is lost."""
        key = random_key()
        await store.save(key, next_count(0), ttl=TTL * 10)
        acknowledged = await anyio.to_thread.run_sync(count_in_processes, factory, key, 4, 300)
        found = await store.open(key)
        assert found is not None
        assert (counter(found), acknowledged) == (1200, 1200)
