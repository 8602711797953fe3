"""F-9, F-10 and F-19: disks that are full or lose what they held, and a great deal to sweep."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import sqlite3
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from faults.forks import Say, forked
from faults.watch import LoopWatch
from harness import ADAPTERS, KEY, VIEWS, Client, Clock

from async_session import StoreError
from async_session.stores.filesystem import FileSystemStore
from async_session.stores.sqlalchemy import SQLAlchemyStore
from async_session.testing import make_cookie
from async_session.tokens import CookieSigner

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("quiet")]

ID = sha256(b"a session").hexdigest()
OLD, NEW = b"\x81" + b"o" * 99, b"\x81" + b"n" * 200_000


@pytest.fixture(autouse=True)
def blockbuster() -> None:
    """Let a test look at files, and a child write to its pipe."""


@pytest.mark.parametrize("fault", ["EMFILE", "EFBIG"])
def test_what_the_kernel_refuses_changes_nothing(tmp_path: Path, fault: str) -> None:
    """F-9: no descriptor is left, or no room: an error, the old file whole, no temporary one."""
    store = FileSystemStore(tmp_path / "sessions", threshold=0)
    asyncio.run(store.save(ID, OLD, ttl=600))

    async def refused(call: Any) -> str:
        try:
            await call
        except StoreError as error:
            return errno.errorcode[getattr(error.__cause__, "errno", 0) or 0]
        return "nothing"

    async def job(say: Say) -> None:
        assert await store.open(ID) == OLD  # its threads are there
        if fault == "EMFILE":
            kind, most = resource.RLIMIT_NOFILE, 0
        else:
            kind, most = resource.RLIMIT_FSIZE, 100_000
        before = resource.getrlimit(kind)
        resource.setrlimit(kind, (most, before[1]))
        said = [await refused(store.save(ID, NEW, ttl=600)), await refused(store.open(ID))]
        resource.setrlimit(kind, before)
        assert await store.open(ID) == OLD
        assert os.listdir(tmp_path / "sessions" / ID[:2]) == [ID]
        assert await store.save(ID, NEW, ttl=600, match=OLD[:16])
        say(said)

    said, code = forked(lambda say: asyncio.run(job(say)))
    assert code == 0, said
    assert said == [["EMFILE", "EMFILE"] if fault == "EMFILE" else ["EFBIG", "nothing"]]


@pytest.mark.anyio
@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
@pytest.mark.parametrize("kind", ["record", "tombstone"])
async def test_a_file_that_the_disk_cut_off(tmp_path: Path, adapter: str, kind: str) -> None:
    """F-10: cut off at any byte, or zeros from there on, it is a new session and nobody's data."""
    store = FileSystemStore(tmp_path / "sessions", fsync=False)
    app = ADAPTERS[adapter](VIEWS, store, clock=Clock())
    cookie = await make_cookie(store, {"user": "ada"}, secret_key=KEY, clock=Clock())
    other = await make_cookie(store, {"user": "bob"}, secret_key=KEY, clock=Clock())
    ticket: Any = CookieSigner([KEY.encode()]).verify(cookie)
    if kind == "tombstone":
        await Client(app, cookie).get("regenerate")
    path = tmp_path / "sessions" / ticket.key[:2] / ticket.key
    whole = path.read_bytes()
    expiry = path.stat().st_mtime
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes(len(whole) - at)):
            path.write_bytes(damaged)
            os.utime(path, (expiry, expiry))
            client = Client(app, cookie)
            answer = await client.get("read")
            assert (answer.status, answer.body) == (200, "{}")
            assert (await client.get("write")).status == 200
            if client.cookie != cookie:
                assert (await client.get("read")).body == "{'written': True}"
    assert "bob" in (await Client(app, other).get("read")).body


async def _swept(store: Any, expected: int) -> str:
    async with LoopWatch() as loop:
        began = time.monotonic()
        removed = await store.sweep()
        seconds = time.monotonic() - began
    assert removed == expected
    assert loop.worst < 1.0, "the loop was not blocked"
    await store.aclose()
    return f"{removed} removed in {seconds:.1f} s, the loop {loop.worst * 1000:.0f} ms late at most"


@pytest.mark.anyio
async def test_a_great_many_expired_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-19: swept without blocking the loop; what lives stays."""
    many = 200_000
    clock = Clock(time.time())
    store = FileSystemStore(tmp_path / "sessions", fsync=False, clock=clock)
    await store.save(ID, OLD, ttl=600)
    await asyncio.to_thread(_make_files, tmp_path / "sessions", many, clock.now - 10)
    told = await _swept(store, many)
    assert await store.open(ID) == OLD
    with capsys.disabled():
        print(f"\nfiles: {told}")


def _make_files(directory: Path, many: int, expiry: float) -> None:
    shards = [f"{number:02x}" for number in range(256)]
    for shard in shards:
        (directory / shard).mkdir(mode=0o700, exist_ok=True)
        first = directory / shard / f"{shard}{0:062x}"
        first.write_bytes(OLD)
        os.utime(first, (expiry, expiry))
    for number in range(len(shards), many):  # links are files as well, and made faster
        shard = shards[number % 256]
        os.link(directory / shard / f"{shard}{0:062x}", directory / shard / f"{shard}{number:062x}")


@pytest.mark.anyio
async def test_a_million_expired_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """F-19: the same in a database, where others write meanwhile."""
    path = tmp_path / "sessions.db"
    store = SQLAlchemyStore(f"sqlite:///{path}", timeout=30)
    await store.save(ID, OLD, ttl=600)
    await asyncio.to_thread(_make_rows, path, 1_000_000)
    others: list[float] = []

    async def write() -> None:
        while True:
            began = time.monotonic()
            await store.save(sha256(b"another").hexdigest(), OLD, ttl=600)
            others.append(time.monotonic() - began)
            await asyncio.sleep(0.01)

    writer = asyncio.create_task(write())
    async with LoopWatch() as loop:
        began = time.monotonic()
        removed = await store.sweep()
        seconds = time.monotonic() - began
    writer.cancel()
    await asyncio.wait([writer])
    assert removed == 1_000_000
    assert await store.open(ID) == OLD
    with capsys.disabled():
        print(
            f"\nSQLite: {removed} rows in {seconds:.1f} s, the loop {loop.worst * 1000:.0f} ms "
            f"late at most; {len(others)} writes meanwhile, {max(others):.2f} s at most"
        )
    assert loop.worst < 1.0
    assert max(others) < 1.0
    await store.aclose()


def _make_rows(path: Path, many: int) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        (table,) = database.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchone()
        database.execute(
            f'{numbers} INSERT INTO "{table}" (key, version, data, expires) '
            "SELECT printf('%064x', i), randomblob(16), randomblob(100), 1000 FROM n",
            (many,),
        )
