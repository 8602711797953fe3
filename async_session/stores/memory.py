"""Sessions in a dict of this process: for tests, and for an app that is one process."""

from __future__ import annotations

import heapq
import sys
import threading
import time
from collections.abc import Callable

from .._log import warn_once
from ..errors import ConfigurationError
from .base import VERSION_SIZE, Match

__all__ = ["MemoryStore"]

_ONE_PROCESS = (
    "MemoryStore keeps sessions in this process only: another worker does not see them, and a "
    "restart ends them. For one machine, "
    "async_session.stores.filesystem.FileSystemStore(directory) does neither."
)


class MemoryStore:
    """Keep sessions in this process. They end with it, and no other process sees them.

    Says so once in the log, through the logger ``async_session``, unless pytest runs.

    Args:
        max_items: the most values kept. When there would be more, expired ones go first, then the
            one whose last write is the longest ago.
        clock: seconds, as `time.monotonic` counts them.

    Works on asyncio and on trio, and may be shared by event loops in several threads.
    """

    #: Every call ends at once: nothing here ever waits.
    deadline = 0.0

    def __init__(
        self, *, max_items: int = 100_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if max_items < 1:
            raise ConfigurationError(f"max_items must be at least 1, not {max_items}")
        self._max_items = max_items
        self._clock = clock
        # In order of the last write: the first is the one to evict.
        self._items: dict[str, tuple[float, bytes]] = {}
        # (expiry, key) of every write; one whose expiry is no longer the item's is stale.
        self._expiries: list[tuple[float, str]] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MemoryStore(max_items={self._max_items})"

    async def open(self, key: str, /) -> bytes | None:
        """Return the value under `key`, or None if there is none or its ttl has passed."""
        try:
            expiry, value = self._items[key]
        except KeyError:
            return None
        return value if expiry > self._clock() else None

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Store `data` under `key` for `ttl` seconds if `match` holds; return whether it did."""
        if "pytest" not in sys.modules:
            warn_once(_ONE_PROCESS)
        if isinstance(match, bytes) and len(match) != VERSION_SIZE:
            raise ValueError(f"a version is {VERSION_SIZE} bytes, not {len(match)}")
        with self._lock:
            now = self._clock()
            self._collect(now)
            if match is not Match.ANY and not self._holds(key, match, now):
                return False
            # Taken out first, so that it goes to the end of the order.
            self._items.pop(key, None)
            self._items[key] = (now + ttl, bytes(data))
            heapq.heappush(self._expiries, (now + ttl, key))
            if len(self._items) > self._max_items:
                self._evict(now)
        return True

    async def delete(self, key: str, /) -> None:
        """Remove `key`. A key that is not there is no error."""
        with self._lock:
            self._items.pop(key, None)

    def _holds(self, key: str, match: Match | bytes, now: float) -> bool:
        item = self._items.get(key)
        stored = item[1] if item is not None and item[0] > now else None
        if match is Match.ABSENT:
            return stored is None
        return stored is not None and stored[:VERSION_SIZE] == match

    def _collect(self, now: float, batch: int = 64) -> None:
        """Drop what has expired, at most `batch` at a time so that no save is slow."""
        expiries, items = self._expiries, self._items
        while expiries and expiries[0][0] <= now and batch:
            expiry, key = heapq.heappop(expiries)
            if key in items and items[key][0] == expiry:
                del items[key]
            batch -= 1
        # A key that is written often leaves a stale entry each time.
        if len(expiries) > 2 * len(items) + 1000:
            self._expiries = [(expiry, key) for key, (expiry, _) in items.items()]
            heapq.heapify(self._expiries)

    def _evict(self, now: float) -> None:
        """Make room for one: everything that has expired, else the least recently written."""
        self._collect(now, batch=len(self._expiries))
        if len(self._items) > self._max_items:
            del self._items[next(iter(self._items))]
