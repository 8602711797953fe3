"""What the file store promises beyond the contract: its files, its errors, its collecting."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from async_session.errors import ConfigurationError, StoreError
from async_session.stores import _files
from async_session.stores.base import Match
from async_session.stores.filesystem import FileSystemStore
from async_session.testing import Cancellation, ways_to_cancel

pytestmark = pytest.mark.anyio

KEY = "ab" + "0" * 62
OLD, NEW = b"old-version-0001" + b"o" * 5000, b"new-version-0002" + b"n" * 5000


class Clock:
    """The real time, and as much later as the test says."""

    def __init__(self) -> None:
        self.later = 0.0

    def __call__(self) -> float:
        return time.time() + self.later


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "var" / "sessions"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(directory: Path, clock: Clock) -> AsyncIterator[FileSystemStore]:
    store = FileSystemStore(directory, clock=clock)
    yield store
    await store.aclose()


def off_loop(call: Callable[..., Any], *args: Any) -> Any:
    """Look at the disk from a thread: in the loop it would be a blocking call."""
    return anyio.to_thread.run_sync(call, *args)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if not path.is_dir())


async def test_modes_whatever_the_umask(store: FileSystemStore, directory: Path) -> None:
    before = os.umask(0)
    try:
        await store.save(KEY, OLD, ttl=60)
    finally:
        os.umask(before)

    def modes() -> list[int]:
        paths = (directory, directory / "ab", directory / "ab" / KEY)
        return [stat.S_IMODE(path.stat().st_mode) for path in paths]

    assert await off_loop(modes) == [0o700, 0o700, 0o600]


async def test_a_mode_of_ones_own(directory: Path) -> None:
    store = FileSystemStore(directory, mode=0o640)
    before = os.umask(0o077)
    try:
        await store.save(KEY, OLD, ttl=60)
    finally:
        os.umask(before)
    status = await off_loop((directory / "ab" / KEY).stat)
    assert stat.S_IMODE(status.st_mode) == 0o640
    await store.aclose()


async def test_the_mtime_is_the_expiry_rounded_up(directory: Path) -> None:
    store = FileSystemStore(directory, clock=lambda: 4_000_000_000.25)
    await store.save(KEY, OLD, ttl=10)
    status = await off_loop((directory / "ab" / KEY).stat)
    assert status.st_mtime == 4_000_000_011
    await store.aclose()


async def test_it_expires_after_its_ttl(store: FileSystemStore, clock: Clock) -> None:
    await store.save(KEY, OLD, ttl=10)
    clock.later = 9.9
    assert await store.open(KEY) == OLD
    assert await store.save(KEY, NEW, ttl=10, match=Match.ABSENT) is False
    clock.later = 12
    assert await store.open(KEY) is None
    assert await store.save(KEY, NEW, ttl=10, match=OLD[:16]) is False
    assert await store.save(KEY, NEW, ttl=10, match=Match.ABSENT) is True


async def test_a_symbolic_link_is_not_followed(
    store: FileSystemStore, directory: Path, tmp_path: Path
) -> None:
    await store.save(KEY, OLD, ttl=60)
    secret = tmp_path / "secret"

    def plant() -> None:
        secret.write_bytes(NEW)
        os.utime(secret, (4e9, 4e9))
        (directory / "ab" / KEY).unlink()
        (directory / "ab" / KEY).symlink_to(secret)

    await off_loop(plant)
    with pytest.raises(StoreError):
        await store.open(KEY)
    with pytest.raises(StoreError):
        await store.save(KEY, OLD, ttl=60, match=NEW[:16])
    # A write replaces the link, and a delete removes it; neither touches what it points to.
    assert await store.save(KEY, OLD, ttl=60) is True
    assert await store.open(KEY) == OLD
    await off_loop(plant)
    await store.delete(KEY)
    assert await store.open(KEY) is None
    assert await off_loop(secret.read_bytes) == NEW


async def test_a_link_instead_of_a_shard_is_not_followed(
    store: FileSystemStore, directory: Path, tmp_path: Path
) -> None:
    await store.save("cd" + KEY[2:], OLD, ttl=60)
    await off_loop((directory / "ab").symlink_to, tmp_path)
    with pytest.raises(StoreError):
        await store.save(KEY, OLD, ttl=60)
    assert await off_loop(names, tmp_path) == ["cd" + KEY[2:]]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "directory"])
async def test_what_is_no_file_is_an_error(
    store: FileSystemStore, directory: Path, make: Callable[[Path], None]
) -> None:
    await store.save(KEY, OLD, ttl=60)
    await store.delete(KEY)
    await off_loop(make, directory / "ab" / KEY)
    with anyio.fail_after(5), pytest.raises(StoreError):
        await store.open(KEY)


@pytest.mark.parametrize("size", [0, 7, 20])
async def test_a_truncated_file_is_returned_as_it_is_and_can_be_replaced(
    store: FileSystemStore, directory: Path, size: int
) -> None:
    # Not as an absent key and not as an error: what it holds is for the record to judge.
    await store.save(KEY, OLD, ttl=60)

    def truncate() -> None:
        path = directory / "ab" / KEY
        expiry = path.stat().st_mtime
        os.truncate(path, size)
        os.utime(path, (expiry, expiry))

    await off_loop(truncate)
    assert await store.open(KEY) == OLD[:size]
    assert await store.save(KEY, NEW, ttl=60, match=Match.ABSENT) is False
    assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is (size >= 16)
    assert await store.save(KEY, NEW, ttl=60) is True
    assert await store.open(KEY) == NEW


@pytest.mark.parametrize(
    "key",
    ["", "ab", "../" + "a" * 61, "AB" + "0" * 62, KEY + "\n", "ab/" + "0" * 61, f".{KEY}.0f.tmp"],
)
async def test_only_a_key_becomes_a_path(store: FileSystemStore, key: str) -> None:
    for call in (store.open(key), store.save(key, OLD, ttl=1), store.delete(key)):
        with pytest.raises(ValueError, match="64 lower-case"):
            await call


async def test_a_temporary_file_is_no_session(store: FileSystemStore, directory: Path) -> None:
    await store.save(KEY, OLD, ttl=60)
    temporary = directory / "ab" / f".{KEY}.00ff.tmp"
    await off_loop(temporary.write_bytes, NEW)
    assert await store.open(KEY) == OLD
    assert await store.sweep() == 0
    assert await off_loop(temporary.exists), "it may be being written"


class Broken:
    """Let one system call of the store fail."""

    def __init__(self, real: Callable[..., Any], number: int, *, short: bool = False) -> None:
        self.real = real
        self.number = number
        self.short = short
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.short and self.calls == 1:  # a disk that fills up takes a part first
            return self.real(args[0], args[1][:100])
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("function", "number", "short"),
    [
        ("write", errno.ENOSPC, False),
        ("write", errno.ENOSPC, True),
        ("write", errno.EIO, True),
        ("fsync", errno.EIO, False),
        ("fsync", errno.ENOSPC, False),
        ("open", errno.EMFILE, False),
        ("open", errno.EACCES, False),
        ("replace", errno.EIO, False),
        ("replace", errno.EROFS, False),
        ("utime", errno.EPERM, False),
    ],
)
@pytest.mark.parametrize("match", [Match.ANY, OLD[:16]], ids=["any", "version"])
async def test_a_failed_write_leaves_the_old_file_whole(
    store: FileSystemStore,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    number: int,
    short: bool,
    match: Match | bytes,
) -> None:
    await store.save(KEY, OLD, ttl=60)
    broken = Broken(getattr(os, function), number, short=short)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, broken)
        with pytest.raises(StoreError, match=str(directory)) as caught:
            await store.save(KEY, NEW, ttl=60, match=match)
    assert broken.calls
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == number
    assert await off_loop(names, directory) == [KEY]
    assert await store.open(KEY) == OLD
    assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is True
    assert await store.open(KEY) == NEW


async def test_a_refused_write_leaves_no_temporary_file(
    store: FileSystemStore, directory: Path
) -> None:
    await store.save(KEY, OLD, ttl=60)
    assert await store.save(KEY, NEW, ttl=60, match=NEW[:16]) is False
    assert await off_loop(names, directory) == [KEY]


async def test_a_failed_read_is_not_an_absent_key(
    store: FileSystemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save(KEY, OLD, ttl=60)
    for number in (errno.EMFILE, errno.EIO, errno.EACCES):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", Broken(os.open, number))
            with pytest.raises(StoreError):
                await store.open(KEY)
    assert await store.open(KEY) == OLD


async def test_a_directory_that_disappears_is_not_an_empty_store(
    store: FileSystemStore, directory: Path
) -> None:
    await store.save(KEY, OLD, ttl=60)
    await off_loop(directory.rename, directory.parent / "elsewhere")
    for call in (store.open(KEY), store.delete(KEY), store.save(KEY, NEW, ttl=60)):
        with pytest.raises(StoreError, match=str(directory)):
            await call
    await off_loop((directory.parent / "elsewhere").rename, directory)
    assert await store.open(KEY) == OLD


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    await off_loop((tmp_path / "file").write_bytes, b"")
    store = FileSystemStore(tmp_path / "file" / "sessions")
    for call in (store.open(KEY), store.save(KEY, OLD, ttl=60), store.delete(KEY)):
        with pytest.raises(StoreError, match="file/sessions"):
            await call
    await store.aclose()


async def test_a_write_waits_for_the_disk_unless_told_otherwise(
    store: FileSystemStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        kinds.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        real(fd)

    await store.save(KEY, OLD, ttl=60)
    monkeypatch.setattr(os, "fsync", fsync)
    await store.save(KEY, NEW, ttl=60)
    assert kinds == ["file", "directory"]
    await store.delete(KEY)
    assert kinds == ["file", "directory", "directory"]
    kinds.clear()
    careless = FileSystemStore(directory, fsync=False)
    await careless.save(KEY, NEW, ttl=60)
    await careless.delete(KEY)
    assert kinds == []
    await careless.aclose()


@pytest.mark.parametrize("verb", ["write", "remove"])
async def test_a_cancelled_change_ends_with_its_thread(
    store: FileSystemStore, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    # A thread cannot be stopped: a change that landed later could undo somebody's logout.
    real = getattr(store._records, verb)
    ended: list[str] = []

    def slow(*args: Any) -> Any:
        time.sleep(0.05)
        ended.append(verb)
        return real(*args)

    monkeypatch.setattr(store._records, verb, slow)
    for way in ways_to_cancel():
        with monkeypatch.context() as patch:
            patch.setattr(store._records, verb, real)
            await store.save(KEY, OLD, ttl=60)
        ended.clear()
        call = store.save(KEY, NEW, ttl=60) if verb == "write" else store.delete(KEY)
        cancellation = Cancellation(way, 0)
        await cancellation.run(call)
        assert cancellation.reached
        assert ended == [verb]
        assert await store.open(KEY) == (NEW if verb == "write" else None)


async def test_one_hop_a_call(store: FileSystemStore, monkeypatch: pytest.MonkeyPatch) -> None:
    hops: list[str] = []
    real = store._in_thread

    async def in_thread(*args: Any, **kwargs: Any) -> Any:
        hops.append("hop")
        return await real(*args, **kwargs)

    monkeypatch.setattr(store, "_in_thread", in_thread)
    await store.save(KEY, OLD, ttl=60)
    await store.open(KEY)
    await store.delete(KEY)
    assert len(hops) == 3


async def test_reads_at_once_share_their_hops_and_nothing_else(
    store: FileSystemStore,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    anyio_backend_name: str,
) -> None:
    keys = [f"{number:064x}" for number in range(10)]
    for key in keys[2:]:
        await store.save(key, OLD + key.encode(), ttl=60)
    await off_loop(os.mkdir, directory / "00" / keys[1])
    read, hop, may_read, hops = store._records.read, store._in_thread, threading.Event(), 0
    found: dict[str, object] = {}

    def wait_and_read(key: str) -> bytes | None:
        assert may_read.wait(5)
        return read(key)

    async def in_thread(*args: Any, **kwargs: Any) -> Any:
        nonlocal hops
        hops += 1
        return await hop(*args, **kwargs)

    async def open_it(key: str, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                found[key] = await store.open(key)
            except StoreError:
                found[key] = StoreError

    monkeypatch.setattr(store._records, "read", wait_and_read)
    monkeypatch.setattr(store, "_in_thread", in_thread)
    scopes = [anyio.CancelScope() for _ in keys]
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for key, scope in zip(keys, scopes, strict=True):
                tasks.start_soon(open_it, key, scope)
            await anyio.wait_all_tasks_blocked()
            scopes[2].cancel()
            await anyio.wait_all_tasks_blocked()
            may_read.set()
    others = {key: OLD + key.encode() for key in keys[3:]}
    assert found == {keys[0]: None, keys[1]: StoreError, **others}
    assert hops == {"asyncio": 3, "trio": 10}[anyio_backend_name]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_readers_are_told_when_their_thread_does_not_come(
    store: FileSystemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("can't start new thread")

    async def never(*args: Any, **kwargs: Any) -> None:
        await anyio.sleep_forever()

    async def read_both() -> list[object]:
        reads = asyncio.gather(store.open(KEY), store.open(KEY), return_exceptions=True)
        await anyio.wait_all_tasks_blocked()
        for task in store._tasks:  # as when the event loop ends
            task.cancel()
        with anyio.fail_after(5):
            return [type(error) for error in await reads]

    monkeypatch.setattr(store, "_in_thread", full)
    assert await read_both() == [RuntimeError] * 2
    monkeypatch.setattr(store, "_in_thread", never)
    assert await read_both() == [asyncio.CancelledError] * 2


async def test_it_takes_no_thread_from_the_app(store: FileSystemStore) -> None:
    # AnyIO's default limiter is what the app's synchronous endpoints wait for.
    limiter = anyio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    try:
        await limiter.acquire_on_behalf_of(object())
        with anyio.fail_after(5):
            await store.save(KEY, OLD, ttl=60)
            assert await store.open(KEY) == OLD
    finally:
        limiter.total_tokens = before


async def test_sweep_removes_the_expired_only(
    store: FileSystemStore, directory: Path, clock: Clock
) -> None:
    keys = [f"{number % 3:02x}{number:062x}" for number in range(400)]
    for number, key in enumerate(keys):
        await store.save(key, OLD, ttl=10 if number % 2 else 100)
    clock.later = 50
    assert await store.sweep() == 200
    assert await store.sweep() == 0
    assert await off_loop(names, directory) == sorted(keys[::2])


async def test_sweep_removes_what_dead_writers_left(
    store: FileSystemStore, directory: Path, clock: Clock
) -> None:
    await store.save(KEY, OLD, ttl=100_000)
    await off_loop((directory / "ab" / f".{KEY}.00ff.tmp").write_bytes, NEW)
    await off_loop((directory / "ab" / "README").write_bytes, b"not ours")
    clock.later = 3500
    await store.sweep()
    assert len(await off_loop(names, directory)) == 3
    clock.later = 3700
    assert await store.sweep() == 0, "a temporary file is no record"
    assert await off_loop(names, directory) == sorted([KEY, "README"])


async def test_sweep_looks_again_under_the_lock(
    store: FileSystemStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The record is renewed after the sweep saw that it had expired, and before it has the lock.
    await store.save(KEY, OLD, ttl=1)
    clock.later = 10
    locked = _files._locked
    renewed: list[bool] = []

    def renew_then_lock(fd: int) -> Any:
        if not renewed:
            renewed.append(True)
            renewed.append(store._records.write(KEY, NEW, 100, Match.ANY))
        return locked(fd)

    monkeypatch.setattr(_files, "_locked", renew_then_lock)
    assert await store.sweep() == 0
    assert renewed == [True, True]
    assert await store.open(KEY) == NEW


async def test_sweeps_and_saves_at_once(
    store: FileSystemStore, directory: Path, clock: Clock
) -> None:
    keys = [f"00{number:062x}" for number in range(10)]
    lost: list[str] = []
    done = anyio.Event()

    async def write(key: str) -> None:
        for round_ in range(15):
            await store.save(key, OLD, ttl=1)
            clock.later += 0.5  # others' records expire all the time
            await store.save(key, b"%016d" % round_, ttl=10_000)
            if await store.open(key) != b"%016d" % round_:
                lost.append(key)

    async def sweep() -> None:
        while not done.is_set():
            await anyio.to_thread.run_sync(store._records.sweep, "00")

    async with anyio.create_task_group() as sweeper:
        sweeper.start_soon(sweep)
        async with anyio.create_task_group() as writers:
            for key in keys:
                writers.start_soon(write, key)
        done.set()
    assert lost == []
    assert await off_loop(names, directory) == sorted(keys)


@pytest.mark.parametrize(("threshold", "left"), [(256, 0), (0, 60), (256 * 200, 60)])
async def test_saves_remove_the_expired_above_the_threshold(
    directory: Path, clock: Clock, threshold: int, left: int
) -> None:
    store = FileSystemStore(directory, threshold=threshold, fsync=False, clock=clock)
    for number in range(60):
        await store.save(f"ab{number:062x}", OLD, ttl=10)
    clock.later = 20
    live = [f"ab{number:062x}" for number in range(100, 132)]
    for key in live:
        await store.save(key, NEW, ttl=1000)
    found = await off_loop(names, directory)
    assert set(live) <= set(found), "the living stay, however many they are"
    assert len(found) - len(live) == left
    await store.aclose()


async def test_it_can_be_used_after_aclose(store: FileSystemStore) -> None:
    await store.save(KEY, OLD, ttl=60)
    await store.aclose()
    await store.aclose()
    assert await store.open(KEY) == OLD


def test_what_it_needs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "aiofiles.os", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'async_session\[filesystem\]'"):
            FileSystemStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "async_session.stores._files")
        patch.setitem(sys.modules, "fcntl", None)
        with pytest.raises(ConfigurationError, match="fcntl"):
            FileSystemStore(tmp_path)


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="directory"):
        FileSystemStore("")
    for wrong in (-1, "500"):
        with pytest.raises(ConfigurationError, match="threshold"):
            FileSystemStore(tmp_path, threshold=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="write 0o600"):
        FileSystemStore(tmp_path, mode="0600")  # type: ignore[arg-type]


def test_it_shows_its_directory(tmp_path: Path) -> None:
    assert repr(FileSystemStore(tmp_path)) == f"FileSystemStore({str(tmp_path)!r})"
