"""What the SQL store promises on SQLite: a file that is locked, full, read-only or broken."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from async_session.errors import StoreError, StoreUnavailable
from async_session.stores.base import Match
from async_session.stores.sqlalchemy import SQLAlchemyStore

KEY = "ab" + "0" * 62
OLD, NEW = b"old-version-0001" + b"o" * 500, b"new-version-0002" + b"n" * 500


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLAlchemyStore]:
    store = SQLAlchemyStore(f"sqlite:///{path}", timeout=0.5)
    yield store
    await store.aclose()


def calls(store: SQLAlchemyStore) -> Any:
    """Yield one write of each kind, to be awaited one after the other."""
    yield store.save(KEY, NEW, ttl=60)
    yield store.save(KEY, NEW, ttl=60, match=Match.ABSENT)
    yield store.save(KEY, NEW, ttl=60, match=OLD[:16])
    yield store.delete(KEY)


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold SQLite's one write lock, as a backup or a migration does."""
    other = await asyncio.to_thread(
        sqlite3.connect, path, isolation_level=None, check_same_thread=False
    )
    await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
    try:
        yield
    finally:
        await asyncio.to_thread(other.execute, "ROLLBACK")
        await asyncio.to_thread(other.close)


def engine_on(path: Path, *, options: str = "", pragma: str = "") -> AsyncEngine:
    """Return an app's engine; as a URI, because a plain path is looked up in the event loop."""
    engine = create_async_engine(f"sqlite+aiosqlite:///file:{path}?uri=true{options}")

    def prepare(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA {pragma}") if pragma else None

    event.listen(engine.sync_engine, "connect", prepare)
    return engine


# Locked.


@pytest.mark.anyio
async def test_a_locked_database_is_unavailable_for_writers(
    store: SQLAlchemyStore, path: Path
) -> None:
    await store.save(KEY, OLD, ttl=60)
    async with locked(path):
        for call in calls(store):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="database is locked") as caught:
                await call
            assert 0.4 < time.monotonic() - began < 0.6
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            assert await store.open(KEY) == OLD, "readers do not wait for writers"
    assert await store.open(KEY) == OLD, "what was refused does not land later"
    assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is True


@pytest.mark.anyio
async def test_writers_in_a_queue_end_by_the_deadline(store: SQLAlchemyStore, path: Path) -> None:
    await store.save(KEY, OLD, ttl=60)
    async with locked(path):
        began = time.monotonic()
        found = await asyncio.gather(
            *(store.save(KEY, NEW, ttl=60) for _ in range(30)), return_exceptions=True
        )
        assert time.monotonic() - began < 0.7
        assert {type(error) for error in found} == {StoreUnavailable}
    # The one that was in SQLite when the others gave up may still be there.
    await asyncio.sleep(0.5)
    assert await store.save(KEY, OLD, ttl=60) is True
    assert await store.open(KEY) == OLD


@pytest.mark.anyio
async def test_a_writer_waits_for_a_short_lock(store: SQLAlchemyStore, path: Path) -> None:
    await store.save(KEY, OLD, ttl=60)
    async with locked(path):
        saving = asyncio.create_task(store.save(KEY, NEW, ttl=60, match=OLD[:16]))
        await asyncio.sleep(0.1)
        assert not saving.done()
    assert await saving is True


@pytest.mark.anyio
async def test_a_writer_that_is_cancelled_waits_for_its_statement(
    store: SQLAlchemyStore, path: Path
) -> None:
    await store.save(KEY, OLD, ttl=60)
    async with locked(path):
        saving = asyncio.create_task(store.save(KEY, NEW, ttl=60))
        await asyncio.sleep(0.1)
        saving.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await saving
        assert 0.2 < time.monotonic() - began < 0.6
    await asyncio.sleep(0.1)
    assert await store.open(KEY) == OLD


@pytest.mark.anyio
async def test_an_engine_with_a_longer_busy_timeout_does_not_prolong_a_call(path: Path) -> None:
    engine = engine_on(path, options="&timeout=3")
    store = SQLAlchemyStore(engine, timeout=0.3)
    await store.save(KEY, OLD, ttl=60)
    async with locked(path):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"0\.3 s"):
            await store.save(KEY, NEW, ttl=60)
        assert time.monotonic() - began < 0.5
    await asyncio.sleep(0.3)
    assert await store.save(KEY, OLD, ttl=60) is True
    await engine.dispose()


# Broken.


@pytest.mark.anyio
async def test_a_missing_directory(tmp_path: Path) -> None:
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/not/there/a.db")
    for call in (store.open(KEY), *calls(store)):
        with pytest.raises(StoreError, match=r"a\.db: No such file or directory") as caught:
            await call
        assert type(caught.value) is StoreError, "waiting does not help"
    await asyncio.to_thread((tmp_path / "not" / "there").mkdir, parents=True)
    assert await store.save(KEY, OLD, ttl=60) is True
    await store.aclose()


@pytest.mark.anyio
async def test_a_file_that_is_no_database(path: Path) -> None:
    await asyncio.to_thread(path.write_bytes, b"<html>not a database</html>" * 100)
    store = SQLAlchemyStore(f"sqlite:///{path}")
    with pytest.raises(StoreError, match="not a database") as caught:
        await store.open(KEY)
    assert type(caught.value) is StoreError
    await store.aclose()


@pytest.mark.anyio
async def test_a_read_only_file(store: SQLAlchemyStore, path: Path) -> None:
    await store.save(KEY, OLD, ttl=60)
    engine = engine_on(path, options="&mode=ro")
    reader = SQLAlchemyStore(engine)
    assert await reader.open(KEY) == OLD
    for call in calls(reader):
        with pytest.raises(StoreError, match="readonly") as caught:
            await call
        assert type(caught.value) is StoreError
    assert await reader.open(KEY) == OLD
    await engine.dispose()


@pytest.mark.anyio
async def test_a_full_disk_changes_nothing(path: Path) -> None:
    engine = engine_on(path)
    store = SQLAlchemyStore(engine, timeout=5)
    await store.save(KEY, OLD, ttl=60)
    await engine.dispose()
    engine = engine_on(path, pragma="max_page_count=20")
    store = SQLAlchemyStore(engine, timeout=5)
    for match in (Match.ANY, OLD[:16]):
        with pytest.raises(StoreError, match="full") as caught:
            await store.save(KEY, NEW + bytes(200_000), ttl=60, match=match)
        assert type(caught.value) is StoreError
        assert await store.open(KEY) == OLD, "the old record is whole"
    assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is True, "a small one fits"
    await engine.dispose()


@pytest.mark.anyio
async def test_a_value_above_the_limit(path: Path) -> None:
    engine = engine_on(path)

    def limit(connection: Any, _record: Any) -> None:
        raw = connection.driver_connection._conn
        raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)

    event.listen(engine.sync_engine, "connect", limit)
    store = SQLAlchemyStore(engine)
    await store.save(KEY, OLD, ttl=60)
    with pytest.raises(StoreError, match="too big"):
        await store.save(KEY, bytes(20_000), ttl=60)
    assert await store.open(KEY) == OLD
    await engine.dispose()


# The file that the store makes.


@pytest.mark.anyio
async def test_its_files_are_its_owners_only(store: SQLAlchemyStore, path: Path) -> None:
    await store.save(KEY, OLD, ttl=60)
    modes = await asyncio.to_thread(
        lambda: {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    )
    assert modes == {
        "sessions.db": 0o600,
        "sessions.db-wal": 0o600,
        "sessions.db-shm": 0o600,
    }


@pytest.mark.anyio
async def test_its_settings(store: SQLAlchemyStore) -> None:
    await store.save(KEY, OLD, ttl=60)
    (lane,) = store._lanes.values()
    async with lane.engine.connect() as connection:
        found = {
            pragma: (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar()
            for pragma in ("journal_mode", "synchronous", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 450}


def test_many_open_a_new_file_at_once(path: Path) -> None:
    # Each turns the log on, for which SQLite does not wait; none may be refused.
    def use(_number: int) -> bool:
        store = SQLAlchemyStore(f"sqlite:///{path}", timeout=10)

        async def once() -> bool:
            try:
                return await store.save(KEY, OLD, ttl=60, match=Match.ABSENT)
            finally:
                await store.aclose()

        return asyncio.run(once())

    saved: list[bool] = []
    threads = [threading.Thread(target=lambda n=n: saved.append(use(n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(saved) == [False] * 7 + [True]


# Cancelled calls.


@pytest.mark.anyio
async def test_a_storm_of_cancelled_calls(path: Path) -> None:
    store = SQLAlchemyStore(f"sqlite:///{path}", timeout=30)
    values = {f"{n:064x}": b"%016d" % n + b"v" * 100 for n in range(20)}
    for key, value in values.items():
        await store.save(key, value, ttl=600)
    wrong: list[object] = []
    live: list[asyncio.Task[None]] = []

    async def check(key: str) -> None:
        found = await store.open(key)
        if found != values[key]:
            wrong.append((key, found))

    kinds: list[Callable[[str], Any]] = [
        store.open,
        lambda key: store.save(key, values[key], ttl=600, match=values[key][:16]),
        lambda key: store.delete("f" + key[1:]),
    ]
    for number in range(3000):
        key = f"{number % 20:064x}"
        if number % 10 == 0:
            live.append(asyncio.create_task(check(key)))
        task = asyncio.create_task(kinds[number % 3](key))
        asyncio.get_running_loop().call_later(number % 7 * 0.0005, task.cancel)
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    await asyncio.gather(*live)
    assert wrong == []
    await asyncio.gather(*(check(key) for key in values))
    assert wrong == []
    await store.aclose()


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    gc.collect()
    mine = [t for t in set(threading.enumerate()) - before if "worker_thread" in t.name]
    for thread in mine:
        thread.join(5)
        assert not thread.is_alive(), thread
