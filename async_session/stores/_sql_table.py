"""The sessions' table: its columns, its making, and the statements that a store runs on it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Column,
    Connection,
    Delete,
    Executable,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, NoSuchTableError
from sqlalchemy.schema import CreateIndex, CreateTable

from ..errors import ConfigurationError, StoreError
from .base import VERSION_SIZE

__all__ = ["Statements", "ensure", "sessions_table"]

_COLUMNS: Final = {"key", "version", "data", "expires"}


def sessions_table(name: str, metadata: MetaData | None, schema: str | None) -> Table:
    """Return the table `name` of `metadata`; put it there if it is not."""
    if metadata is None:
        metadata = MetaData()
    existing = metadata.tables.get(f"{schema}.{name}" if schema else name)
    if existing is not None:
        if set(existing.columns.keys()) != _COLUMNS:
            raise ConfigurationError(
                f"metadata has a table {name!r} of its own: name another for the sessions, with "
                "table='...'"
            )
        return existing
    return Table(
        name,
        metadata,
        # Not CHAR(64): PostgreSQL then compares it as text, and cannot use the key's index.
        Column("key", String(64), primary_key=True),
        # The value's first bytes once more: a condition then reads 16 bytes and not the value.
        Column("version", LargeBinary(VERSION_SIZE), nullable=False),
        Column("data", LargeBinary, nullable=False),
        Column("expires", BigInteger, nullable=False, index=True),
        schema=schema,
    )


def ensure(connection: Connection, table: Table, *, create: bool) -> None:
    """Check that `table` is there and ours; make it, if that is wanted and it is not there.

    Any number of processes may do this at once.
    """
    found = _columns(connection, table)
    if not found and create:
        try:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
        except DBAPIError:
            # Somebody else made it meanwhile: for all its IF NOT EXISTS, PostgreSQL says so with
            # an error from its catalogue.
            if not _columns(connection, table):
                raise
        found = _columns(connection, table)
    if not found:
        raise StoreError(
            f"there is no table {table.fullname!r} and create=False: run your migrations, or leave "
            "out create=False"
        )
    if not found >= _COLUMNS:
        raise StoreError(
            f"the table {table.fullname!r} is somebody else's, its columns are "
            f"{', '.join(sorted(found))}: name another for the sessions, with table='...' or "
            "SESSION_SQLALCHEMY_TABLE"
        )


def _columns(connection: Connection, table: Table) -> set[str]:
    # A new inspector: it remembers what it has seen.
    try:
        columns = inspect(connection).get_columns(table.name, schema=table.schema)
    except NoSuchTableError:
        return set()
    return {column["name"] for column in columns}


class Statements(NamedTuple):
    """What a store asks of the table; each is one statement, and so one atomic step.

    A row whose time has passed is treated as absent by all of them, whether it was swept or not.
    """

    find: Executable
    put: Executable
    #: Returns a row if it stored one.
    create: Executable
    #: Matches one row if it stored one.
    replace: Executable
    remove: Executable
    sweep: Executable

    @classmethod
    def on(cls, table: Table, dialect: str) -> Statements:
        """Return the statements for ``"sqlite"`` or ``"postgresql"``."""
        c = table.c
        key: BindParameter[Any] = bindparam("k")
        version: BindParameter[Any] = bindparam("match")
        now: BindParameter[Any] = bindparam("now")
        values: dict[str, BindParameter[Any]] = {
            name: bindparam(f"new_{name}") for name in ("version", "data", "expires")
        }
        insert = (postgresql if dialect == "postgresql" else sqlite).insert(table)
        insert = insert.values(key=key, **values)
        written = {name: insert.excluded[name] for name in values}
        return cls(
            find=select(c.data).where(c.key == key, c.expires > now),
            put=insert.on_conflict_do_update(index_elements=[c.key], set_=written),
            # RETURNING tells what happened; the row count of an upsert differs from driver to
            # driver.
            create=insert.on_conflict_do_update(
                index_elements=[c.key], set_=written, where=c.expires <= now
            ).returning(c.key),
            replace=update(table)
            .where(c.key == key, c.version == version, c.expires > now)
            .values(**values),
            remove=delete(table).where(c.key == key),
            sweep=_sweep(table),
        )


def _sweep(table: Table) -> Delete:
    due = table.alias("due")
    batch = (
        select(due.c.key)
        .where(due.c.expires <= bindparam("now"))
        .order_by(due.c.expires)
        .limit(bindparam("batch"))
        # Rows that a request is writing, or another sweep removes, are not waited for. SQLite has
        # no row locks, and leaves this out.
        .with_for_update(skip_locked=True)
    )
    # Asked again of the row itself: it may have been renewed since the batch was chosen.
    return delete(table).where(table.c.key.in_(batch), table.c.expires <= bindparam("now"))
