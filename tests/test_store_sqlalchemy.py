"""What the SQL store promises on every database: the table, engines, time, event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from harness import Clock
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from async_session._flask_session import store_from_config
from async_session.errors import ConfigurationError, StoreError
from async_session.stores.base import Match, SupportsSweep
from async_session.stores.sqlalchemy import SQLAlchemyStore
from async_session.testing.conformance._processes import counter, next_count

KEY = "ab" + "0" * 62
OLD, NEW = b"old-version-0001" + b"o" * 500, b"new-version-0002" + b"n" * 500


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def table() -> str:
    """A name that no other test uses: PostgreSQL is theirs, too."""
    return f"s_{secrets.token_hex(6)}"


@pytest.fixture
async def store(url: str, table: str) -> AsyncIterator[SQLAlchemyStore]:
    store = SQLAlchemyStore(url, table=table, timeout=5)
    yield store
    await store.aclose()


def engine_url(url: str) -> str:
    """Return what SQLAlchemy calls the database."""
    if url.startswith("sqlite:///"):
        # As a URI, because a plain path is looked up on the disk, here in the event loop.
        return f"sqlite+aiosqlite:///file:{url.removeprefix('sqlite:///')}?uri=true"
    return url.replace("postgresql", "postgresql+asyncpg").replace("sslmode", "ssl")


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of the app's own."""
    engine = create_async_engine(engine_url(url))
    yield engine
    await engine.dispose()


async def execute(engine: AsyncEngine, sql: str) -> list[tuple[Any, ...]]:
    async with engine.begin() as connection:
        result = await connection.execute(text(sql))
        return [tuple(row) for row in result] if result.returns_rows else []


# The table.


@pytest.mark.anyio
async def test_many_make_the_table_at_once(url: str) -> None:
    # PostgreSQL answers some of them with an error, for all their IF NOT EXISTS.
    for _ in range(5):
        name = f"s_{secrets.token_hex(6)}"
        stores = [SQLAlchemyStore(url, table=name, timeout=10) for _ in range(6)]
        saved = await asyncio.gather(
            *(store.save(KEY, OLD, ttl=60, match=Match.ABSENT) for store in stores)
        )
        assert sorted(saved) == [False] * 5 + [True]
        for store in stores:
            await store.aclose()


@pytest.mark.anyio
async def test_what_the_store_makes_is_what_migrations_make(
    store: SQLAlchemyStore, engine: AsyncEngine, url: str, table: str
) -> None:
    await store.open(KEY)
    metadata = MetaData()
    SQLAlchemyStore(url, table=table, metadata=metadata, create=False)

    def differences(connection: Any) -> list[Any]:
        options = {"include_name": lambda name, kind, parents: kind != "table" or name == table}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        await connection.run_sync(metadata.drop_all)
        assert await connection.run_sync(differences) != []


@pytest.mark.anyio
async def test_the_table_can_be_left_to_migrations(
    engine: AsyncEngine, url: str, table: str
) -> None:
    metadata = MetaData()
    store = SQLAlchemyStore(url, table=table, metadata=metadata, create=False, timeout=5)
    with pytest.raises(StoreError, match=f"no table '{table}'.*run your migrations"):
        await store.open(KEY)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    assert await store.save(KEY, OLD, ttl=60) is True
    assert await store.open(KEY) == OLD
    await store.aclose()


@pytest.mark.anyio
async def test_a_table_of_somebody_elses_is_left_alone(
    engine: AsyncEngine, url: str, table: str
) -> None:
    # What Flask-Session makes has the same default name.
    await execute(engine, f"CREATE TABLE {table} (id INTEGER, session_id VARCHAR, expiry INTEGER)")
    store = SQLAlchemyStore(url, table=table)
    with pytest.raises(StoreError, match="expiry, id, session_id: name another"):
        await store.save(KEY, OLD, ttl=60)
    assert await execute(engine, f"SELECT * FROM {table}") == []
    await store.aclose()


def test_a_table_of_the_apps_own_is_refused() -> None:
    metadata = MetaData()
    Table("sessions", metadata, Column("id", Integer, primary_key=True))
    with pytest.raises(ConfigurationError, match=r"table='\.\.\.'"):
        SQLAlchemyStore("sqlite:////a.db", metadata=metadata)
    for _ in range(2):  # two stores may share the definition
        SQLAlchemyStore("sqlite:////a.db", table="others", metadata=metadata)
    assert set(metadata.tables) == {"sessions", "others"}


@pytest.mark.anyio
async def test_a_schema(postgresql_url: str, table: str) -> None:
    engine = create_async_engine(engine_url(postgresql_url))
    await execute(engine, f"CREATE SCHEMA {table}")
    store = SQLAlchemyStore(postgresql_url, schema=table)
    assert repr(store).endswith(f"table='{table}.sessions')")
    await store.save(KEY, OLD, ttl=60)
    assert await execute(engine, f"SELECT data FROM {table}.sessions") == [(OLD,)]
    await store.aclose()
    await engine.dispose()


@pytest.mark.anyio
async def test_the_row(store: SQLAlchemyStore, engine: AsyncEngine, table: str) -> None:
    await store.save(KEY, OLD, ttl=60)
    rows = await execute(engine, f"SELECT key, version, data FROM {table}")
    assert rows == [(KEY, OLD[:16], OLD)]


@pytest.mark.anyio
async def test_only_a_condition_is_false(engine: AsyncEngine, url: str, table: str) -> None:
    # Another constraint of the table is an error: to be told False, a login would go on.
    await execute(
        engine,
        f"CREATE TABLE {table} (key VARCHAR(64) PRIMARY KEY, version {blob(url)}, "
        f"data {blob(url)}, expires BIGINT CHECK (expires < 0))",
    )
    store = SQLAlchemyStore(url, table=table)
    for match in (Match.ANY, Match.ABSENT):
        with pytest.raises(StoreError, match="the database refused") as caught:
            await store.save(KEY, OLD, ttl=60, match=match)
        assert "old-version" not in str(caught.value)
        assert type(caught.value.__cause__).__module__ != "sqlalchemy.exc"
    await store.aclose()


def blob(url: str) -> str:
    return "BLOB" if url.startswith("sqlite") else "BYTEA"


# Time.


@pytest.mark.anyio
async def test_expired_is_absent_before_it_is_swept(url: str, table: str) -> None:
    clock = Clock(1_900_000_000.5)
    store = SQLAlchemyStore(url, table=table, clock=clock, timeout=5)
    await store.save(KEY, OLD, ttl=10)
    clock.advance(10)
    assert await store.open(KEY) == OLD, "nothing expires early"
    assert await store.save(KEY, NEW, ttl=10, match=Match.ABSENT) is False
    clock.advance(0.5)
    assert await store.open(KEY) is None
    assert await store.save(KEY, NEW, ttl=10, match=OLD[:16]) is False
    assert await store.save(KEY, NEW, ttl=10, match=Match.ABSENT) is True
    assert await store.open(KEY) == NEW
    await store.aclose()


@pytest.mark.anyio
async def test_a_sweep_works_in_batches(engine: AsyncEngine, table: str) -> None:
    clock = Clock()
    store = SQLAlchemyStore(engine, table=table, clock=clock, timeout=5)
    assert isinstance(store, SupportsSweep)
    for number in range(25):
        await store.save(f"{number:064x}", OLD, ttl=10 if number < 23 else 1000)
    assert await store.sweep() == 0
    clock.advance(11)
    deleted: list[int] = []

    def note(_connection: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("DELETE"):
            deleted.append(cursor.rowcount)

    event.listen(engine.sync_engine, "after_cursor_execute", note)
    assert await store.sweep(batch=10) == 23
    assert deleted == [10, 10, 3]
    assert await execute(engine, f"SELECT count(*) FROM {table}") == [(2,)]
    with pytest.raises(ConfigurationError, match="batch"):
        await store.sweep(batch=0)


@pytest.mark.anyio
async def test_a_sweep_takes_nothing_that_is_renewed_meanwhile(url: str, table: str) -> None:
    clock = Clock()
    store = SQLAlchemyStore(url, table=table, clock=clock, timeout=10)
    keys = [f"{number:064x}" for number in range(60)]
    for key in keys:
        await store.save(key, OLD, ttl=10)
    clock.advance(11)
    # Written again and swept at once: a row is gone or new, and no new one is gone.
    renewed = [store.save(key, NEW, ttl=1000) for key in keys[::2]]
    await asyncio.gather(*renewed, *(store.sweep(batch=3) for _ in range(3)))
    found = [await store.open(key) for key in keys]
    assert found == [NEW, None] * 30
    await store.aclose()


# Engines.


@pytest.mark.anyio
async def test_an_engine_is_left_as_it_is(engine: AsyncEngine, table: str) -> None:
    store = SQLAlchemyStore(engine, table=table)
    await store.save(KEY, OLD, ttl=60)
    await store.aclose()
    assert engine.pool.checkedin() == 1, "its connection is open, and free"  # type: ignore[attr-defined]
    async with engine.connect() as connection:
        # Not in autocommit: what the app rolls back is undone.
        await connection.execute(text(f"DELETE FROM {table}"))
        await connection.rollback()
    assert await store.open(KEY) == OLD


@pytest.mark.anyio
@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ"])
async def test_the_isolation_of_an_engine_does_not_matter(
    postgresql_url: str, table: str, level: str
) -> None:
    engine = create_async_engine(engine_url(postgresql_url), isolation_level=level)
    # And the server's own default: at this level it refuses what READ COMMITTED lets through.
    strict = create_async_engine(
        engine_url(postgresql_url),
        connect_args={"server_settings": {"default_transaction_isolation": level.lower()}},
    )
    stores = [SQLAlchemyStore(each, table=table, timeout=10) for each in (engine, strict)]
    await stores[0].save(KEY, next_count(0), ttl=60)

    async def increment(store: SQLAlchemyStore) -> None:
        done = 0
        while done < 10:
            value = await store.open(KEY)
            assert value is not None
            new = next_count(counter(value) + 1)
            done += await store.save(KEY, new, ttl=60, match=value[:16])
            # Writers without a condition, which run into each other as well.
            await store.save("cd" * 32, OLD, ttl=60)

    await asyncio.gather(*(increment(store) for store in stores * 4))
    final = await stores[1].open(KEY)
    assert final is not None
    assert counter(final) == 80
    await engine.dispose()
    await strict.dispose()


@pytest.mark.anyio
async def test_an_engine_without_a_pool(url: str, table: str) -> None:
    engine = create_async_engine(engine_url(url), poolclass=NullPool)
    store = SQLAlchemyStore(engine, table=table, timeout=5)
    await asyncio.gather(*(store.save(f"{n:064x}", OLD, ttl=60) for n in range(20)))
    assert await asyncio.gather(*(store.open(f"{n:064x}") for n in range(20))) == [OLD] * 20
    await engine.dispose()


WRONG = {
    "none": lambda: None,
    "object": object,
    "class": lambda: AsyncEngine,
    "blocking": lambda: create_engine("sqlite://"),
    "sessions": lambda: async_sessionmaker(),
    "bytes": lambda: b"sqlite:////a.db",
    "no-scheme": lambda: "localhost/database",
    "empty": lambda: "",
    "mysql": lambda: "mysql://u:s3cret@host/db",
    "another-driver": lambda: "postgresql+psycopg://u:s3cret@host/db",
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_engine_is_refused(kind: str) -> None:
    with pytest.raises(ConfigurationError, match="create_async_engine") as caught:
        SQLAlchemyStore(WRONG[kind]())  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)


def test_a_shared_connection_is_refused() -> None:
    for engine in (
        create_async_engine("sqlite+aiosqlite://"),
        create_async_engine("sqlite+aiosqlite:////a.db", poolclass=StaticPool),
    ):
        with pytest.raises(ConfigurationError, match="MemoryStore"):
            SQLAlchemyStore(engine)


def test_options_are_checked() -> None:
    wrong: list[dict[str, Any]] = [{"timeout": 0}, {"timeout": -1}, {"table": ""}]
    for options in wrong:
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            SQLAlchemyStore("sqlite:////a.db", **options)
    assert SQLAlchemyStore("sqlite:////a.db", timeout=2).deadline == 2.0


@pytest.mark.anyio
async def test_a_version_has_16_bytes(store: SQLAlchemyStore) -> None:
    for version in (b"", b"short", bytes(17)):
        with pytest.raises(ValueError, match="16 bytes"):
            await store.save(KEY, NEW, ttl=60, match=version)


# URLs.


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://", "memory://"),
        ("sqlite:///", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://relative.db", "without a host"),
        ("sqlite:////a.db?mode=ro", "without options"),
        ("postgresql://u:s3cret@host", "no database"),
        ("postgresql://u:s3cret@host/", "no database"),
        ("postgresql:///database", "no host"),
        ("postgresql://u:s3cret@/database", "no host"),
        ("postgresql://u:s3cret@host:port/database", "percent-encode"),
        ("postgresql://u:s3/cret@host/database", "percent-encode"),
        ("postgresql://u:s3@cret@host/database", "percent-encode"),
        ("postgresql://u:s3#cret@host/database", "percent-encode"),
        ("postgresql://u:s3[cret@host/database", "percent-encode"),
        ("postgresql://u:s3cret@host/database?pool_size=3", "no option 'pool_size'"),
        ("postgresql://u:s3cret@host/database?pasword=s3cret", "no option 'pasword'"),
    ],
)
def test_urls_that_cannot_work(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        SQLAlchemyStore(url)
    assert "s3" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/a.db", "'sqlite:////var/a.db'"),
        ("sqlite+aiosqlite:////var/a.db", "'sqlite:////var/a.db'"),
        ("postgresql://u:s3cret@host:5433/db?sslmode=require", "'postgresql://host:5433/db'"),
        ("postgres://u:s3cret@host/db", "'postgresql://host/db'"),
        ("postgresql+asyncpg://u:s3cret@host/db", "'postgresql://host/db'"),
        ("postgresql://u:s3cret@h1:5432,h2:5433/db", "'postgresql://h1:5432,h2:5433/db'"),
        ("postgresql://u:s3cret@/db?host=/run/postgresql", "'postgresql:///db'"),
    ],
)
def test_no_secret_is_shown(url: str, shown: str) -> None:
    assert repr(SQLAlchemyStore(url)) == f"SQLAlchemyStore({shown}, table='sessions')"


def test_a_relative_path_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLAlchemyStore("sqlite:///relative.db")
    monkeypatch.chdir("/")
    assert repr(store) == f"SQLAlchemyStore('sqlite:///{tmp_path}/relative.db', table='sessions')"


# SESSION_TYPE.


@pytest.mark.parametrize("key", ["SESSION_SQLALCHEMY", "SESSION_URI"])
def test_session_type(key: str) -> None:
    config = {"SESSION_TYPE": "sqlalchemy", key: "postgresql://u:p@h/d"}
    for more, table in (
        ({}, "sessions"),
        ({"SESSION_SQLALCHEMY_TABLE": "t"}, "t"),
        ({"SESSION_SQLALCHEMY_SCHEMA": "s"}, "s.sessions"),
    ):
        store = store_from_config({**config, **more})
        assert repr(store) == f"SQLAlchemyStore('postgresql://h/d', table='{table}')"


def test_session_type_takes_an_engine() -> None:
    engine = create_async_engine("sqlite+aiosqlite:////a.db")
    store = store_from_config({"SESSION_TYPE": "sqlalchemy", "SESSION_SQLALCHEMY": engine})
    assert repr(store) == "SQLAlchemyStore(<sqlite engine>, table='sessions')"


def test_session_type_without_a_database() -> None:
    with pytest.raises(ConfigurationError, match="set SESSION_SQLALCHEMY"):
        store_from_config({"SESSION_TYPE": "sqlalchemy"})


# Event loops. Warnings are errors in this suite, also those of the garbage collector.


@pytest.fixture
def no_threads_left() -> Any:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)  # it has been told to end
        assert not thread.is_alive(), thread


def test_a_loop_per_call(url: str, table: str, no_threads_left: Any) -> None:
    # As Starlette's TestClient does it when it is not used in a `with`.
    store = SQLAlchemyStore(url, table=table, timeout=5)
    for number in range(5):
        value = OLD + b"%d" % number
        assert asyncio.run(store.save(KEY, value, ttl=60)) is True
        assert asyncio.run(store.open(KEY)) == value
        gc.collect()


def test_loops_that_are_closed_without_a_word(url: str, table: str, no_threads_left: Any) -> None:
    store = SQLAlchemyStore(url, table=table, timeout=5)
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.save(KEY, OLD, ttl=60))
        loop.close()
    assert asyncio.run(store.open(KEY)) == OLD
    gc.collect()


def test_a_connection_that_takes_longer_to_close_than_the_next_loop_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_threads_left: Any
) -> None:
    # The last one on a file writes its log back and waits for the disk. Nobody waits for it then,
    # and it must not answer to a loop that is closed.
    may_close = threading.Event()

    class ClosesLate(sqlite3.Connection):
        def close(self) -> None:
            may_close.wait(5)
            super().close()

    monkeypatch.setattr(sqlite3, "Connection", ClosesLate)
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/sessions.db", timeout=5)
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.save(KEY, OLD, ttl=60))
        loop.close()
    may_close.set()
    assert asyncio.run(store.open(KEY)) == OLD
    gc.collect()


def test_two_loops_at_once(url: str, table: str, no_threads_left: Any) -> None:
    store = SQLAlchemyStore(url, table=table, timeout=10)

    async def other_loop() -> list[bytes | None]:
        return list(await asyncio.gather(*(store.open(KEY) for _ in range(20))))

    async def main() -> None:
        await store.save(KEY, OLD, ttl=60)
        elsewhere = [asyncio.to_thread(asyncio.run, other_loop()) for _ in range(3)]
        for found in await asyncio.gather(*elsewhere, other_loop()):
            assert found == [OLD] * 20

    asyncio.run(main())
    gc.collect()


@pytest.mark.anyio
async def test_connections_of_its_own_are_closed(
    url: str, table: str, no_threads_left: Any
) -> None:
    store = SQLAlchemyStore(url, table=table, timeout=5)
    await asyncio.gather(*(store.save(KEY, OLD, ttl=60) for _ in range(20)))
    await store.aclose()
    await store.aclose()
    assert await store.open(KEY) == OLD, "it may be used again"
    await store.aclose()
    gc.collect()


def test_an_engine_on_a_second_loop_is_explained(postgresql_url: str, table: str) -> None:
    engine = create_async_engine(engine_url(postgresql_url))
    store = SQLAlchemyStore(engine, table=table)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.open(KEY))

    async def second() -> None:
        with pytest.raises(StoreError, match="one event loop"):
            await store.open(KEY)

    try:
        asyncio.run(second())
    finally:
        with contextlib.suppress(Exception):
            loop.run_until_complete(engine.dispose())
        loop.close()
