"""What a store must do that collects expired values itself."""

from __future__ import annotations

import anyio
import pytest

from ...stores.base import SessionStore, SupportsSweep
from ._kit import TTL, KitTests, random_key, random_value

__all__ = ["SweepConformance"]


class SweepConformance(KitTests):
    """What `SupportsSweep` promises, as tests. A mixin for `StoreConformance`."""

    async def test_sweep_leaves_what_lives(self, store: SessionStore) -> None:
        """A sweep removes nothing whose ttl has not passed."""
        assert isinstance(store, SupportsSweep)
        key, value = random_key(), random_value()
        await store.save(key, value, ttl=TTL)
        assert await store.sweep() >= 0
        assert await store.open(key) == value

    async def test_sweep_removes_what_has_expired(self, store: SessionStore) -> None:
        """A sweep removes what has expired, and says how many."""
        assert isinstance(store, SupportsSweep)
        key = random_key()
        await store.save(key, random_value(), ttl=1)
        for _ in range(100):
            if await store.sweep():
                break
            await anyio.sleep(0.1)
        else:
            pytest.fail("ten seconds after its ttl a value had not been swept")
        assert await store.open(key) is None
