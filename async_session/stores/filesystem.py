"""Sessions in files: the embedded default. Several processes of one machine may share them."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from .._aio import on_asyncio, run_to_completion
from ..errors import ConfigurationError
from .base import VERSION_SIZE, Match

__all__ = ["FileSystemStore"]

T = TypeVar("T")

#: A value, None for no value, or why it could not be read.
_Found = bytes | Exception | None
#: Keys that are read together on an event loop, each with what waits for it.
_Group = tuple[asyncio.AbstractEventLoop, list[tuple[str, "asyncio.Future[_Found]"]]]

_is_key = re.compile(r"[0-9a-f]{64}").fullmatch

# Threads at work at once. They wait for the disk more than they work.
_THREADS = 16
# Reads that go to a thread together: less than the half each. All threads together take 64 at once.
_TOGETHER = 4
# One save in so many looks whether its shard has expired records.
_LOOK_EVERY = 16

# On trio: a limiter a run. AnyIO's own is shared with the app's synchronous endpoints.
_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar(
    "async_session.stores.filesystem"
)


class FileSystemStore:
    """Keep sessions in files below `directory`, on asyncio and on trio.

    A record is written to a file of its own, synced, and renamed over the old one; directories are
    made with mode 0700, files with 0600, and a symbolic link is never followed. Every write and
    delete holds a lock on its part of the directory, so any number of processes of one machine may
    share it. Each call is one hop to a thread of the store's own; reads that are asked for at once
    share theirs.

    Args:
        directory: where. Made at the first use if it is not there. A backup of it has to keep
            modification times: a file's is the time at which it may be removed.
        mode: the permission bits of a session's file.
        threshold: about how many records there may be before saves begin to remove expired ones,
            a few at a time; 0 leaves that to `sweep`. Live sessions are never removed.
        fsync: whether a write waits for the disk. False is faster, and a power failure (not a
            crash of the process) may then undo or damage what was acknowledged.
        clock: the time in seconds since the epoch.

    Raises:
        ConfigurationError: aiofiles is not installed, or the system has no ``fcntl``.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        mode: int = 0o600,
        threshold: int = 500,
        fsync: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        try:
            from ._files import Records
        except ImportError as exc:
            raise ConfigurationError(
                "FileSystemStore needs the file locks of a POSIX system (fcntl), which this one "
                "does not have: use another store here"
            ) from exc
        try:
            from aiofiles.os import wrap
        except ImportError as exc:
            raise ConfigurationError(
                "FileSystemStore needs aiofiles: pip install 'async_session[filesystem]'"
            ) from exc
        path = os.fspath(directory)
        if not path:
            raise ConfigurationError("directory is empty: write FileSystemStore('/var/lib/...')")
        if not isinstance(threshold, int) or threshold < 0:
            raise ConfigurationError(f"threshold={threshold!r}: write a number, 0 or more")
        if not isinstance(mode, int):
            raise ConfigurationError(f"mode={mode!r} is no permission bits: write 0o600")
        if not os.path.isabs(path):  # now, not when it is used: the working directory may change
            path = os.path.abspath(path)
        self._records = Records(path, mode=mode, fsync=fsync, clock=clock)
        self._threshold = threshold
        self._saves = itertools.count(1)
        self._in_executor = wrap(_run)
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0
        # That of the loop that was here last, as long as it may grow.
        self._group: _Group | None = None
        # The loop itself keeps weak references only.
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"FileSystemStore({self._records.directory!r})"

    async def open(self, key: str, /) -> bytes | None:
        """Return the value under `key`, or None if there is none or its ttl has passed."""
        _check(key)
        if on_asyncio():
            found = await self._read_together(key)
        else:
            found = await self._in_thread(lambda: self._records.try_read(key), abandon=True)
        if isinstance(found, Exception):
            raise found
        return found

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Store `data` under `key` for `ttl` seconds if `match` holds; return whether it did.

        Cancelled, it ends only when its thread has: nothing is written afterwards.
        """
        _check(key)
        if isinstance(match, bytes) and len(match) != VERSION_SIZE:
            raise ValueError(f"a version is {VERSION_SIZE} bytes, not {len(match)}")
        return await run_to_completion(self._in_thread(lambda: self._save(key, data, ttl, match)))

    async def delete(self, key: str, /) -> None:
        """Remove `key`; a key that is not there is no error.

        Cancelled, it ends only when its thread has.
        """
        _check(key)
        await run_to_completion(self._in_thread(lambda: self._records.remove(key)))

    async def sweep(self) -> int:
        """Remove expired records and what dead writers left; return how many records.

        Needs no reading and one thread; writers of the same records wait for 100 removals at most.
        """
        from ._files import SHARDS

        removed = 0
        for shard in SHARDS:
            call = functools.partial(self._records.sweep, shard)
            removed += await run_to_completion(self._in_thread(call))
        return removed

    async def aclose(self) -> None:
        """Let the store's threads end. It may be used again; it then starts new ones."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    def _read_together(self, key: str) -> asyncio.Future[_Found]:
        """Read `key` in one hop with others that are asked for in this turn of the event loop."""
        loop = asyncio.get_running_loop()
        group = self._group
        if group is None or group[0] is not loop or len(group[1]) == _TOGETHER:
            group = self._group = loop, []
            task = loop.create_task(self._read_group(group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        future: asyncio.Future[_Found] = loop.create_future()
        group[1].append((key, future))
        return future

    async def _read_group(self, group: _Group) -> None:
        """Tell all who wait what was found; it begins with the loop's next turn."""
        if self._group is group:
            self._group = None
        found: list[_Found]
        try:
            found = await self._in_thread(
                lambda: [self._records.try_read(key) for key, _ in group[1]]
            )
        except asyncio.CancelledError:  # the event loop ends
            for _, future in group[1]:
                future.cancel()
            raise
        except Exception as exc:  # no thread can be started
            found = [exc] * len(group[1])
        for (_, future), value in zip(group[1], found, strict=True):
            if not future.done():  # else whoever waited was cancelled
                future.set_result(value)

    def _save(self, key: str, data: bytes, ttl: int, match: Match | bytes) -> bool:
        saved = self._records.write(key, data, ttl, match)
        if self._threshold and next(self._saves) % _LOOK_EVERY == 0:
            # Keys are hashes, so one shard tells how full all 256 are, and every shard has its
            # turn. No save lists more than its own.
            self._records.sweep(key[:2], above=self._threshold // 256)
        return saved

    async def _in_thread(self, call: Callable[[], T], *, abandon: bool = False) -> T:
        """Run `call` in one of the store's threads: one hop, whatever it does there."""
        if on_asyncio():
            # A forked child has the executor of its parent, and none of its threads.
            if self._executor is None or self._process != os.getpid():
                self._process = os.getpid()
                self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="async_session")
            found: T = await self._in_executor(call, executor=self._executor)
            return found
        try:
            limiter = _limiter.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(_THREADS)
            _limiter.set(limiter)
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=abandon, limiter=limiter)


def _run(call: Callable[[], T]) -> T:
    return call()


def _check(key: str) -> None:
    # The key becomes a file's name: nothing else may.
    if not _is_key(key):
        raise ValueError(f"a key is 64 lower-case hexadecimal digits, not {key!r}")
