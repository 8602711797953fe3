"""Engines of SQLAlchemy: made for a URL, taken from an app, closed or dropped with their loop."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sqlite3
import threading
import time
import weakref
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from ..errors import ConfigurationError

__all__ = [
    "DRIVERS",
    "HOW_TO",
    "abandon",
    "abort",
    "check_engine",
    "connections_of",
    "driver_connection",
    "is_closed",
    "need_driver",
    "server_engine",
    "sqlite_engine",
]

#: What we are tested with, by dialect, and the extra that brings it.
DRIVERS: Final = {"sqlite": "aiosqlite", "postgresql": "asyncpg"}
_EXTRAS: Final = {"sqlite": "sqlalchemy", "postgresql": "postgresql"}
#: What to write instead of what cannot work.
HOW_TO: Final = (
    "SQLAlchemyStore('sqlite:////var/lib/app/sessions.db'), "
    "SQLAlchemyStore('postgresql://user:password@host/database') or "
    "SQLAlchemyStore(create_async_engine('postgresql+asyncpg://...'))"
)
_CONNECT_TIMEOUT: Final = 5.0
# Connections per event loop, when the store makes them. More callers wait for one.
_READERS: Final = 4
_SERVER_CONNECTIONS: Final = 10


def check_engine(engine: object) -> AsyncEngine:
    """Return an engine that somebody else owns; refuse what cannot work."""
    if not isinstance(engine, AsyncEngine):
        kind = f"{type(engine).__module__}.{type(engine).__qualname__}"
        if isinstance(engine, type):
            kind = f"the class {engine.__qualname__}"
        if isinstance(engine, Engine):
            kind += ", which blocks the event loop"
        raise ConfigurationError(
            f"SQLAlchemyStore takes an AsyncEngine or a URL, not {kind}: write {HOW_TO}"
        )
    dialect, driver = engine.dialect.name, engine.dialect.driver
    if DRIVERS.get(dialect) != driver:
        known = " and ".join(f"{dialect}+{driver}" for dialect, driver in DRIVERS.items())
        raise ConfigurationError(
            f"SQLAlchemyStore knows {known}, not {dialect}+{driver}: give it an engine of its own, "
            "or use another store"
        )
    if isinstance(engine.pool, (StaticPool, SingletonThreadPool)):
        raise ConfigurationError(
            "all users of this engine share one connection, and so one transaction: write "
            "SQLAlchemyStore('sqlite:////path/to/a/file.db'), or MemoryStore() in tests"
        )
    need_driver(dialect)
    return engine


def need_driver(dialect: str) -> None:
    """Refuse a dialect whose driver is not here."""
    try:
        importlib.import_module(DRIVERS[dialect])
    except ImportError as exc:
        raise ConfigurationError(
            f"SQLAlchemyStore needs {DRIVERS[dialect]} for this: "
            f"pip install 'async_session[{_EXTRAS[dialect]}]'"
        ) from exc
    if dialect == "sqlite" and sqlite3.sqlite_version_info < (3, 35):
        raise ConfigurationError(
            f"SQLAlchemyStore needs SQLite 3.35, and this Python has {sqlite3.sqlite_version}"
        )


def sqlite_engine(path: str, timeout: float) -> AsyncEngine:
    """Make an engine on the file `path`, which is made with it."""
    return _own_engine(
        # As a URI, because SQLAlchemy looks a plain path up on the disk, in the event loop.
        URL.create("sqlite+aiosqlite", database="file:" + quote(path), query={"uri": "true"}),
        connections=_READERS + 1,
        arguments={
            "factory": functools.partial(_open_file, path),
            # A little less than a call has: then it is SQLite that says what was the matter.
            "timeout": timeout * 0.9,
            "isolation_level": None,
        },
    )


_making = threading.Lock()


def _open_file(path: str, *arguments: Any, **options: Any) -> sqlite3.Connection:
    """Open the database, in a thread of aiosqlite's."""
    # Its owner's only, as are the files that SQLite puts beside it. Nobody else in this process
    # may open it meanwhile: to close a file gives up all locks that the process has on it.
    try:
        with _making, contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        raise sqlite3.OperationalError(f"unable to open {path}: {exc.strerror}") from exc
    connection = sqlite3.Connection(*arguments, **options)
    try:
        ends = time.monotonic() + float(options["timeout"])
        while not _begin_wal(connection):
            if time.monotonic() > ends:
                raise sqlite3.OperationalError("database is locked")
            time.sleep(0.01)
        # Safe against a crash of the process, and in WAL mode never corrupt.
        connection.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _begin_wal(connection: sqlite3.Connection) -> bool:
    """Turn the log on; False if others are just doing so, for which SQLite does not wait."""
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def server_engine(dsn: str, timeout: float, *, target: str | None) -> AsyncEngine:
    """Make an engine on PostgreSQL; asyncpg reads `dsn`, and connects to a `target` server only."""
    arguments: dict[str, object] = {
        "dsn": dsn,
        "timeout": _CONNECT_TIMEOUT,
        "server_settings": {
            # The server gives up when we do: what was refused as too late does not land later.
            "statement_timeout": str(max(1, int(timeout * 1000))),
            "default_transaction_isolation": "read committed",
        },
    }
    if target is not None:
        arguments["target_session_attrs"] = target
    return _own_engine(
        "postgresql+asyncpg://", connections=_SERVER_CONNECTIONS, arguments=arguments
    )


_opened: weakref.WeakKeyDictionary[Engine, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()


def _own_engine(url: URL | str, *, connections: int, arguments: dict[str, object]) -> AsyncEngine:
    engine = create_async_engine(
        url,
        connect_args=arguments,
        pool_size=connections,
        max_overflow=0,
        # Every call is one statement: nothing to begin, to commit or to roll back.
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
    )
    opened = _opened[engine.sync_engine] = weakref.WeakSet()

    def note(connection: Any, _record: object) -> None:
        opened.add(connection.driver_connection)

    event.listen(engine.sync_engine, "connect", note)
    return engine


def connections_of(engine: AsyncEngine) -> list[Any]:
    """Return the driver's connections that an engine of ours has opened and not yet lost."""
    return list(_opened.get(engine.sync_engine, ()))


def driver_connection(connection: AsyncConnection) -> Any:
    """Return the driver's connection behind one of SQLAlchemy's; None if it is gone."""
    sync = connection.sync_connection
    return None if sync is None or sync.invalidated else sync.connection.driver_connection


def is_closed(connection: AsyncConnection) -> bool:
    """Tell whether the server is known to have closed `connection`."""
    closed = getattr(driver_connection(connection), "is_closed", None)
    return closed is not None and closed()


def abort(connection: Any) -> None:
    """Tear a driver's connection down without a word to the server; SQLite's cannot be."""
    terminate = getattr(connection, "terminate", None)
    if terminate is not None:
        terminate()


def abandon(engine: AsyncEngine) -> None:
    """Drop connections whose event loop was closed without closing its generators.

    aiosqlite's have a thread, which is told to end. asyncpg's have a stream, which can be closed
    only by its loop: so its socket is closed here, and taken away from the objects that would
    otherwise warn that nobody did.
    """
    for connection in connections_of(engine):
        if hasattr(connection, "stop"):
            # From a thread that runs no event loop, or it would answer to the one that runs here,
            # which may have ended as well by then.
            threading.Thread(target=connection.stop).start()
            continue
        transport = connection._transport
        with contextlib.suppress(RuntimeError):  # marks it as closing, then misses its loop
            connection.terminate()
        connection._protocol = None
        raw: Any = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
        if getattr(raw, "_sock", None) is not None:
            raw._sock.close()
            raw._sock = None
    engine.sync_engine.dispose(close=False)
