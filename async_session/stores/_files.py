"""The blocking half of the file store: one directory of records, made of plain system calls.

    directory/ab/ab34...        one record: a file named by its key, in the shard of its first
                                two digits; its mtime is the time at which it may be collected
    directory/ab/.ab34...1f.tmp a record being written; never read as one

A record is replaced by renaming a finished, synced file over it, so a reader sees the old one or
the new one, and never waits. Whatever changes a record holds `flock` on the shard's directory,
also an unconditional save: otherwise it could land between the check and the rename of a
conditional one, and be lost though it was acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Generator

from ..errors import StoreError
from .base import VERSION_SIZE, Match

__all__ = ["SHARDS", "Records"]

SHARDS = tuple(f"{number:02x}" for number in range(256))

_is_key = re.compile(r"[0-9a-f]{64}").fullmatch
_is_temporary = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]+\.tmp").fullmatch

# A writer that died leaves its temporary file. One that lives needs it for far less than this.
_STALE_AFTER = 3600.0
# How many files are removed before the lock on their shard is given back.
_BATCH = 100

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Records:
    """Read, write and remove records. Every method blocks; every failure is a `StoreError`."""

    def __init__(
        self, directory: str, *, mode: int, fsync: bool, clock: Callable[[], float]
    ) -> None:
        self.directory = directory
        self._mode = mode
        self._fsync = fsync
        self._clock = clock
        self._made = False

    def read(self, key: str) -> bytes | None:
        try:
            self._make_directory()
            try:
                fd = os.open(f"{self.directory}/{key[:2]}/{key}", _READ)
            except FileNotFoundError:
                # No shard yet, no such record: both are an absent key. A directory that has gone
                # is not: nobody knows what was in it.
                os.stat(self.directory)
                return None
            try:
                return self._contents(fd)
            finally:
                os.close(fd)
        except OSError as exc:  # without `_failures`, which would cost a quarter of this
            raise self._failure("read", key, exc) from exc

    def try_read(self, key: str) -> bytes | Exception | None:
        """Return what `read` does, or the error that it raises."""
        try:
            return self.read(key)
        except Exception as exc:
            return exc

    def write(self, key: str, data: bytes, ttl: int, match: Match | bytes) -> bool:
        with self._failures("write", key), self._shard(key[:2], create=True) as shard:
            temporary = f".{key}.{secrets.token_hex(8)}.tmp"
            try:
                self._write_file(shard, temporary, data, ttl)
                with _locked(shard):
                    if match is not Match.ANY and not self._holds(shard, key, match):
                        os.unlink(temporary, dir_fd=shard)
                        return False
                    os.replace(temporary, key, src_dir_fd=shard, dst_dir_fd=shard)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=shard)
                raise
            self._sync(shard)
            return True

    def remove(self, key: str) -> None:
        with self._failures("delete", key):
            self._make_directory()
            try:
                with self._shard(key[:2], create=False) as shard:
                    with _locked(shard):
                        os.unlink(key, dir_fd=shard)
                    self._sync(shard)
            except FileNotFoundError:
                os.stat(self.directory)  # as in `read`: gone with its directory is not gone

    def sweep(self, name: str, *, above: int = -1) -> int:
        """Remove the expired records of one shard if it has more than `above`; return how many."""
        with self._failures("sweep", name):
            try:
                with self._shard(name, create=False) as shard:
                    names = os.listdir(shard)
                    if sum(map(bool, map(_is_key, names))) <= above:
                        return 0
                    return self._sweep(shard, names)
            except FileNotFoundError:
                return 0

    def _sweep(self, shard: int, names: list[str]) -> int:
        # Looked at without the lock, which most files are not worth; looked at again with it.
        due = [name for name in names if self._is_due(shard, name)]
        removed = 0
        for start in range(0, len(due), _BATCH):
            with _locked(shard):
                for name in due[start : start + _BATCH]:
                    if self._is_due(shard, name):
                        os.unlink(name, dir_fd=shard)
                        removed += _is_key(name) is not None
        return removed

    def _is_due(self, shard: int, name: str) -> bool:
        """Tell whether `name` is a record past its time or a temporary file nobody finishes."""
        try:
            if _is_key(name):
                return os.stat(name, dir_fd=shard, follow_symlinks=False).st_mtime <= self._clock()
            if _is_temporary(name):
                # Its mtime is already the record's expiry; nobody can set a ctime.
                changed = os.stat(name, dir_fd=shard, follow_symlinks=False).st_ctime
                return changed + _STALE_AFTER <= self._clock()
        except FileNotFoundError:
            pass
        return False

    def _holds(self, shard: int, key: str, match: Match | bytes) -> bool:
        try:
            fd = os.open(key, _READ, dir_fd=shard)
        except FileNotFoundError:
            return match is Match.ABSENT
        try:
            stored = self._contents(fd, VERSION_SIZE)
        finally:
            os.close(fd)
        return stored is None if match is Match.ABSENT else stored == match

    def _contents(self, fd: int, size: int | None = None) -> bytes | None:
        """Return the record in `fd`, or its first `size` bytes; None if its time has passed."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_mtime <= self._clock():
            return None
        wanted = status.st_size if size is None else size
        content = os.read(fd, wanted)
        while len(content) < wanted and (more := os.read(fd, wanted - len(content))):
            content += more
        return content

    def _write_file(self, shard: int, name: str, data: bytes, ttl: int) -> None:
        fd = os.open(name, _WRITE, self._mode, dir_fd=shard)
        try:
            os.fchmod(fd, self._mode)  # whatever the umask says
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            expiry = math.ceil(self._clock() + ttl)
            os.utime(fd, (expiry, expiry))
            self._sync(fd)
        finally:
            os.close(fd)

    def _sync(self, fd: int) -> None:
        if self._fsync:
            os.fsync(fd)

    @contextlib.contextmanager
    def _shard(self, name: str, *, create: bool) -> Generator[int]:
        """Open a shard's directory; every path below is relative to it."""
        path = f"{self.directory}/{name}"
        if create:
            self._make_directory()
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
                self._sync_directory()
        fd = os.open(path, _DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def _sync_directory(self) -> None:
        """Make a new shard last: its records are only as safe as its own name."""
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._sync(fd)
        finally:
            os.close(fd)

    def _make_directory(self) -> None:
        # Once: a directory that disappears later is an outage, not an empty store.
        if not self._made:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            self._made = True

    @contextlib.contextmanager
    def _failures(self, verb: str, name: str) -> Generator[None]:
        try:
            yield
        except OSError as exc:
            raise self._failure(verb, name, exc) from exc

    def _failure(self, verb: str, name: str, exc: OSError) -> StoreError:
        return StoreError(f"cannot {verb} session file {name} in {self.directory}: {exc}")


@contextlib.contextmanager
def _locked(fd: int) -> Generator[None]:
    """Hold the shard, against other processes and against other threads of this one."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        # Said aloud: a process forked meanwhile has the descriptor too, and would keep the lock.
        fcntl.flock(fd, fcntl.LOCK_UN)
