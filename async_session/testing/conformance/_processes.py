"""Count in one record from several processes at once, each write guarded by a version."""

from __future__ import annotations

import multiprocessing
import secrets
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import anyio

from ...stores.base import VERSION_SIZE, SessionStore, SupportsClose

__all__ = ["count_in_processes", "counter", "next_count"]


def next_count(count: int) -> bytes:
    """Return a value that holds `count`, under a new version."""
    return secrets.token_bytes(VERSION_SIZE) + b"%d" % count


def counter(value: bytes) -> int:
    """Return the count that a value holds."""
    return int(value[VERSION_SIZE:])


def count_in_processes(
    factory: Callable[[], SessionStore], key: str, processes: int, times: int
) -> int:
    """Let each process increment `times` times; return how many increments were acknowledged."""
    # Spawned, not forked: a fork would copy this process's connections, locks and event loop.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        runs = [pool.submit(_count, factory, key, times) for _ in range(processes)]
        return sum(run.result() for run in runs)


def _count(factory: Callable[[], SessionStore], key: str, times: int) -> int:
    return anyio.run(_increment, factory, key, times, backend="asyncio")


async def _increment(factory: Callable[[], SessionStore], key: str, times: int) -> int:
    store = factory()
    acknowledged = 0
    while acknowledged < times:
        value = await store.open(key)
        assert value is not None
        acknowledged += await store.save(
            key, next_count(counter(value) + 1), ttl=600, match=value[:VERSION_SIZE]
        )
    if isinstance(store, SupportsClose):
        await store.aclose()
    return acknowledged
