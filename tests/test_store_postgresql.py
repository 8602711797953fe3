"""What the SQL store promises on PostgreSQL: outages, deadlines, cancelled calls, permissions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from servers import PostgreSQLServer, free_port

from async_session.errors import StoreError, StoreUnavailable
from async_session.stores.base import Match
from async_session.stores.sqlalchemy import SQLAlchemyStore
from async_session.testing import FaultyProxy

pytestmark = pytest.mark.anyio

KEY = "ab" + "0" * 62
OLD, NEW = b"old-version-0001" + b"o" * 500, b"new-version-0002" + b"n" * 500


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(own_postgresql_server: PostgreSQLServer) -> AsyncIterator[SQLAlchemyStore]:
    store = SQLAlchemyStore(own_postgresql_server.url, timeout=0.5)
    # The table, and a connection: the deadlines below are those of a store at work.
    await patiently(store.delete, KEY)
    yield store
    await store.aclose()


async def patiently(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call until the database is there: with a short deadline, the first call may be too early."""
    for _ in range(20):
        with contextlib.suppress(StoreUnavailable):
            return await call(*arguments)
    return await call(*arguments)


@contextlib.asynccontextmanager
async def connection(url: str) -> AsyncIterator[Any]:
    other = await asyncpg.connect(url)
    try:
        yield other
    finally:
        await other.close()


async def run_server(call: Any) -> None:
    """Stop and start a server from a thread, as somebody else would."""
    await asyncio.to_thread(call)


def calls(store: SQLAlchemyStore) -> list[Callable[[], Any]]:
    return [
        lambda: store.open(KEY),
        lambda: store.save(KEY, NEW, ttl=60),
        lambda: store.save(KEY, NEW, ttl=60, match=Match.ABSENT),
        lambda: store.save(KEY, NEW, ttl=60, match=OLD[:16]),
        lambda: store.delete(KEY),
    ]


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def port_in(url: str, port: int) -> str:
    before, _, after = url.rpartition("@")
    return f"{before}@127.0.0.1:{port}/{after.partition('/')[2]}"


# Outages.


async def test_a_dead_server_is_unavailable_at_once(
    store: SQLAlchemyStore, own_postgresql_server: PostgreSQLServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    await run_server(own_postgresql_server.kill)
    began = time.monotonic()
    for call in calls(store):
        with pytest.raises(StoreUnavailable) as caught:
            await call()
        assert isinstance(caught.value.__cause__, OSError)
        assert "s3cret" not in str(caught.value)
    assert time.monotonic() - began < 0.5
    await run_server(own_postgresql_server.start)
    assert await store.open(KEY) == OLD


@pytest.mark.parametrize("kind", range(5))
async def test_a_server_that_dies_under_a_call(
    store: SQLAlchemyStore, own_postgresql_server: PostgreSQLServer, kind: int
) -> None:
    await store.save(KEY, OLD, ttl=60)
    own_postgresql_server.freeze()
    calling = asyncio.ensure_future(calls(store)[kind]())
    await asyncio.sleep(0.05)
    await run_server(own_postgresql_server.kill)
    with pytest.raises(StoreUnavailable):
        await calling
    await run_server(own_postgresql_server.start)
    assert await store.open(KEY) == OLD


async def test_a_frozen_server_costs_no_more_than_the_deadline(
    store: SQLAlchemyStore, own_postgresql_server: PostgreSQLServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    own_postgresql_server.freeze()
    try:
        for call in calls(store):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"0\.5 s"):
                await call()
            assert 0.45 < time.monotonic() - began < 0.7
        began = time.monotonic()
        found = await asyncio.gather(*(store.open(KEY) for _ in range(50)), return_exceptions=True)
        assert time.monotonic() - began < 0.8
        assert {type(error) for error in found} == {StoreUnavailable}
    finally:
        own_postgresql_server.thaw()
    began = time.monotonic()
    await patiently(lambda: store.save(KEY, NEW, ttl=60))
    assert time.monotonic() - began < 1.5
    assert await asyncio.gather(*(store.open(KEY) for _ in range(50))) == [NEW] * 50


async def test_a_frozen_server_does_not_keep_a_store_from_closing(
    store: SQLAlchemyStore, own_postgresql_server: PostgreSQLServer
) -> None:
    await asyncio.gather(*(store.open(KEY) for _ in range(10)))
    own_postgresql_server.freeze()
    try:
        calling = asyncio.create_task(store.open(KEY))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await store.aclose()
        assert time.monotonic() - began < 3
        with pytest.raises(StoreUnavailable):
            await calling
    finally:
        own_postgresql_server.thaw()


async def test_a_port_where_nobody_listens() -> None:
    store = SQLAlchemyStore(f"postgresql://u:s3cret@127.0.0.1:{free_port()}/d?sslmode=disable")
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await store.open(KEY)
    assert time.monotonic() - began < 0.6
    assert "s3cret" not in str(caught.value)
    await store.aclose()


async def test_a_host_that_swallows_everything(postgresql_url: str) -> None:
    async with FaultyProxy(port_of(postgresql_url)) as proxy:
        proxy.freeze()
        store = SQLAlchemyStore(port_in(postgresql_url, proxy.port), timeout=0.3)
        began = time.monotonic()
        found = await asyncio.gather(*(store.open(KEY) for _ in range(50)), return_exceptions=True)
        assert time.monotonic() - began < 0.6
        assert {type(error) for error in found} == {StoreUnavailable}
        await store.aclose()


async def test_a_connection_that_takes_longer_than_a_call_serves_the_next(
    postgresql_url: str,
) -> None:
    port = int(postgresql_url.rpartition(":")[2].partition("/")[0])
    async with FaultyProxy(port, delay=0.05) as proxy:
        store = SQLAlchemyStore(port_in(postgresql_url, proxy.port), timeout=0.3)
        many = await asyncio.gather(*(store.open(KEY) for _ in range(5)), return_exceptions=True)
        assert {type(error) for error in many} == {StoreUnavailable}
        (lane,) = store._lanes.values()
        await asyncio.wait(lane._tasks, timeout=10)
        proxy.delay = 0
        store.deadline = 5
        assert await asyncio.gather(*(store.open(KEY) for _ in range(5))) == [None] * 5
        assert proxy.connections == 5
        await store.aclose()


async def test_a_standby_is_not_asked(own_postgresql_server: PostgreSQLServer) -> None:
    url = own_postgresql_server.url
    async with connection(url) as admin:
        store = SQLAlchemyStore(url, timeout=5)
        await store.save(KEY, OLD, ttl=60)
        await admin.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
        try:
            late = SQLAlchemyStore(url, timeout=5)
            with pytest.raises(StoreUnavailable, match="read-write"):
                await late.open(KEY)
            await late.aclose()
            # Asked all the same, it says that it does not write.
            asked = SQLAlchemyStore(f"{url}&target_session_attrs=any", timeout=5)
            assert await asked.open(KEY) == OLD
            with pytest.raises(StoreUnavailable, match="read-only"):
                await asked.save(KEY, NEW, ttl=60)
            await asked.aclose()
        finally:
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute("ALTER DATABASE postgres RESET default_transaction_read_only")
        await store.aclose()


async def test_connections_that_the_server_closes(
    store: SQLAlchemyStore, own_postgresql_server: PostgreSQLServer
) -> None:
    await asyncio.gather(*(store.save(KEY, OLD, ttl=60) for _ in range(15)))
    async with connection(own_postgresql_server.url) as admin:
        ended = await admin.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = 'postgres'"
        )
        assert len(ended) == 10, "as many as a store makes"
    await asyncio.sleep(0.05)
    for call in calls(store):
        await call()


async def test_a_reset_at_every_byte(postgresql_url: str) -> None:
    port = port_of(postgresql_url)
    async with FaultyProxy(port) as proxy:
        store = SQLAlchemyStore(port_in(postgresql_url, proxy.port), timeout=2)
        await store.save(KEY, OLD, ttl=600)
        refused = 0
        for size in range(0, 4000, 53):
            for direction in ("cut_requests", "cut_replies"):
                proxy.reset()
                await asyncio.sleep(0)
                setattr(proxy, direction, size)
                for wanted in (OLD, NEW):
                    try:
                        assert await store.open(KEY) in {OLD, NEW}
                        await store.save(KEY, wanted, ttl=600)
                    except StoreUnavailable:
                        refused += 1
                setattr(proxy, direction, None)
                proxy.reset()
                await asyncio.sleep(0.001)
                assert await patiently(store.open, KEY) in {OLD, NEW}
        assert refused > 20
        await store.aclose()


# Deadlines, and what was given up.


async def test_a_row_that_is_locked(
    store: SQLAlchemyStore, own_postgresql_server: PostgreSQLServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    async with connection(own_postgresql_server.url) as admin:
        async with admin.transaction():
            await admin.execute("SELECT 1 FROM sessions FOR UPDATE")
            for call in calls(store)[1:]:
                began = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    await call()
                assert 0.45 < time.monotonic() - began < 0.7
            assert await store.open(KEY) == OLD, "readers do not wait for writers"
            # The server has given up as well.
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.2)
        assert await store.open(KEY) == OLD, "what was refused does not land later"


async def test_a_cancelled_call_waits_for_its_statement(
    store: SQLAlchemyStore, own_postgresql_server: PostgreSQLServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    (lane,) = store._lanes.values()
    async with connection(own_postgresql_server.url) as admin, admin.transaction():
        await admin.execute("SELECT 1 FROM sessions FOR UPDATE")
        saving = asyncio.create_task(store.save(KEY, NEW, ttl=60))
        await asyncio.sleep(0.1)
        saving.cancel()
        await asyncio.sleep(0.1)
        assert not saving.done()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert await store.open(KEY) == NEW
    assert lane._tasks == set()


# Credentials, permissions, and what is not there.


async def test_passwords_and_databases(own_postgresql_server: PostgreSQLServer) -> None:
    server = own_postgresql_server
    for url in (
        server.url_of("app", "wr0ng"),
        server.url_of("nobody", "wr0ng"),
        server.url_of("app", server.PASSWORD, "nowhere"),
    ):
        store = SQLAlchemyStore(url, timeout=5)
        with pytest.raises(StoreError) as caught:
            await store.open(KEY)
        assert type(caught.value) is StoreError, "waiting does not help"
        assert "wr0ng" not in str(caught.value)
        assert "s3cret" not in str(caught.value)
        await store.aclose()


async def test_permissions(own_postgresql_server: PostgreSQLServer) -> None:
    server = own_postgresql_server
    async with connection(server.url) as admin:
        await admin.execute(
            "DROP TABLE IF EXISTS sessions, theirs; DROP ROLE IF EXISTS weak; "
            "CREATE ROLE weak LOGIN PASSWORD 'weak'"
        )
        weak = SQLAlchemyStore(server.url_of("weak", "weak"), timeout=5)
        with pytest.raises(StoreError, match="permission denied for schema") as caught:
            await weak.open(KEY)
        assert type(caught.value) is StoreError
        strong = SQLAlchemyStore(server.url, timeout=5)
        await strong.save(KEY, OLD, ttl=60)
        with pytest.raises(StoreError, match="permission denied for table"):
            await weak.open(KEY)
        # With the table there, nobody needs the right to make one.
        await admin.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO weak")
        assert await weak.open(KEY) == OLD
        for call in calls(weak):
            await call()
        await weak.aclose()
        await strong.aclose()
        await admin.execute("REVOKE ALL ON sessions FROM weak; DROP ROLE weak")


async def test_a_table_that_is_dropped_is_an_error(
    store: SQLAlchemyStore, own_postgresql_server: PostgreSQLServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    async with connection(own_postgresql_server.url) as admin:
        await admin.execute("DROP TABLE sessions")
    for call in calls(store):
        with pytest.raises(StoreError, match='"sessions" does not exist'):
            await call()


async def test_the_key_is_looked_up_in_its_index(
    store: SQLAlchemyStore, own_postgresql_server: PostgreSQLServer
) -> None:
    (lane,) = store._lanes.values()
    async with lane.engine.connect() as sqlalchemy:
        for statement in (store._statements.find, store._statements.replace):
            sql = str(statement.compile(dialect=lane.engine.dialect))  # type: ignore[attr-defined]
            await sqlalchemy.exec_driver_sql("SET enable_seqscan = off")
            await sqlalchemy.exec_driver_sql(f"PREPARE p AS {sql}")
            values = {"k": f"'{KEY}'", "now": "1", "match": "'\\x00'"}
            values |= {"new_version": "'\\x00'", "new_data": "'\\x00'", "new_expires": "1"}
            names = list(statement.compile(dialect=lane.engine.dialect).positiontup)  # type: ignore[attr-defined]
            arguments = ", ".join(values[name] for name in names)
            plan = await sqlalchemy.exec_driver_sql(f"EXPLAIN EXECUTE p({arguments})")
            assert "Index Cond: ((key)::text = " in " ".join(row[0] for row in plan)
            await sqlalchemy.exec_driver_sql("DEALLOCATE p")


async def test_what_the_server_is_told(store: SQLAlchemyStore) -> None:
    (lane,) = store._lanes.values()
    async with lane.engine.connect() as sqlalchemy:
        for name, value in {
            "statement_timeout": "500ms",
            "transaction_isolation": "read committed",
        }.items():
            assert (await sqlalchemy.exec_driver_sql(f"SHOW {name}")).scalar() == value
