"""Sessions in SQLite or PostgreSQL, by way of SQLAlchemy's asyncio engine."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ..errors import ConfigurationError, StoreUnavailable
from .base import VERSION_SIZE, Match

try:
    from sqlalchemy import CursorResult, MetaData
    from sqlalchemy.ext.asyncio import AsyncEngine

    from . import _sql_engines as engines
    from ._sql_calls import Call, Lane, translated
    from ._sql_table import Statements, ensure, sessions_table
    from ._sql_urls import read_url
except ImportError as exc:
    raise ConfigurationError(
        "SQLAlchemyStore needs SQLAlchemy: pip install 'async_session[sqlalchemy]'"
    ) from exc

__all__ = ["SQLAlchemyStore"]

T = TypeVar("T")


class SQLAlchemyStore:
    """Keep sessions in a table of SQLite or PostgreSQL, one row a session. Runs on asyncio.

    Every call is one statement, committed by itself, whatever the engine's isolation level. A call
    that is cancelled ends when its statement has, and nothing is written afterwards.

    Args:
        engine: an `AsyncEngine` with aiosqlite or asyncpg, which is used as it is and never
            disposed of; or a URL, ``sqlite:///relative.db``, ``sqlite:////absolute/path.db`` or
            ``postgresql://user:password@host[:port]/database[?sslmode=...]``. From a URL the store
            makes an engine of its own for every event loop it is used on, when it is first used
            there.
        table: its name. It is made when it is first used and not there.
        schema: the schema that the table is in; None for the connection's own.
        metadata: where to put the table's definition, for a migration tool to find it.
        create: False leaves the making of the table to migrations.
        timeout: seconds. Every call ends by then, with `StoreUnavailable` if the database has not
            answered. Also readable as `deadline`.
        clock: the time in seconds since the epoch.

    Raises:
        ConfigurationError: `engine` is neither, or the driver is not installed.

    Expired rows stay until `sweep` is called, and are treated as absent.
    """

    def __init__(
        self,
        engine: AsyncEngine | str,
        *,
        table: str = "sessions",
        schema: str | None = None,
        metadata: MetaData | None = None,
        create: bool = True,
        timeout: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if timeout <= 0:
            raise ConfigurationError(f"timeout must be more than 0 seconds, not {timeout}")
        if not table or not isinstance(table, str):
            raise ConfigurationError(
                f"table is the table's name, such as 'sessions', not {table!r}"
            )
        #: Every call ends within this many seconds.
        self.deadline = float(timeout)
        self._clock = clock
        self._engine: AsyncEngine | None = None
        if isinstance(engine, str):
            source = read_url(engine, timeout=self.deadline)
            dialect, self._make, self._shown = source.dialect, source.make, repr(source.shown)
        else:
            self._engine = engines.check_engine(engine)
            dialect, self._shown = (
                self._engine.dialect.name,
                f"<{self._engine.dialect.name} engine>",
            )
        self._table = sessions_table(table, metadata, schema)
        self._statements = Statements.on(self._table, dialect)
        self._ensure = partial(ensure, table=self._table, create=create)
        self._lanes: dict[asyncio.AbstractEventLoop, Lane] = {}

    def __repr__(self) -> str:
        return f"SQLAlchemyStore({self._shown}, table={self._table.fullname!r})"

    async def open(self, key: str, /) -> bytes | None:
        """Return the value under `key`, or None if there is none or its ttl has passed."""
        values = {"k": key, "now": self._now()}
        return await self._run(
            Call(self._statements.find, values, _first_value, writes=False, again=True)
        )

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Store `data` under `key` for `ttl` seconds if `match` holds; return whether it did."""
        values: dict[str, object] = {
            "k": key,
            "new_version": data[:VERSION_SIZE],
            "new_data": data,
            "new_expires": math.ceil(self._clock() + ttl),
        }
        if match is Match.ANY:
            return await self._run(Call(self._statements.put, values, _stored))
        values["now"] = self._now()
        if match is Match.ABSENT:
            return await self._run(Call(self._statements.create, values, _has_row))
        if not isinstance(match, bytes) or len(match) != VERSION_SIZE:
            raise ValueError(f"a version is {VERSION_SIZE} bytes, not {match!r}")
        values["match"] = match
        return await self._run(Call(self._statements.replace, values, _has_matched))

    async def delete(self, key: str, /) -> None:
        """Remove `key`. A key that is not there is no error."""
        await self._run(Call(self._statements.remove, {"k": key}, _matches, again=True))

    async def sweep(self, *, batch: int = 1000) -> int:
        """Remove expired rows, at most `batch` in one statement; return how many.

        Between two statements it rests for as long as the last one took, and others may write.
        """
        if batch < 1:
            raise ConfigurationError(f"batch must be 1 or more, not {batch}")
        removed = 0
        while True:
            began = time.monotonic()
            values = {"now": self._now(), "batch": batch}
            count = await self._run(Call(self._statements.sweep, values, _matches, again=True))
            removed += count
            if count < batch:
                return removed
            await asyncio.sleep(time.monotonic() - began)

    async def aclose(self) -> None:
        """Close the connections that the store made on this event loop; never an engine's.

        Those of other loops are closed when their loop ends. The store may be used again.
        """
        lane = self._lanes.pop(asyncio.get_running_loop(), None)
        if lane is not None:
            await lane.aclose()

    def _now(self) -> int:
        return math.floor(self._clock())

    async def _run(self, call: Call[T]) -> T:
        """Run one statement within the deadline; translate what fails."""
        try:
            lane = self._lanes.get(asyncio.get_running_loop()) or await self._new_lane()
            return await lane.run(call, self.deadline)
        except TimeoutError as exc:
            raise StoreUnavailable(
                f"the database did not answer within {self.deadline:g} s"
            ) from exc
        except Exception as exc:
            error = translated(exc)
            raise error from error.__cause__

    async def _new_lane(self) -> Lane:
        """Prepare for the running event loop; forget the loops that were closed."""
        for loop in list(self._lanes):
            if loop.is_closed():
                lane = self._lanes.pop(loop)
                if lane.guard is not None:
                    engines.abandon(lane.engine)
        if self._engine is not None:
            lane = Lane(self._engine, self._ensure, owned=False)
        else:
            lane = Lane(self._make(), self._ensure, owned=True)
        self._lanes[asyncio.get_running_loop()] = lane
        if lane.guard is not None:
            await anext(lane.guard)  # does not wait: no other caller comes in between
        return lane


def _first_value(result: CursorResult[Any]) -> bytes | None:
    row = result.first()
    return None if row is None else bytes(row[0])


def _stored(result: CursorResult[Any]) -> bool:
    return True


def _has_row(result: CursorResult[Any]) -> bool:
    return result.first() is not None


def _has_matched(result: CursorResult[Any]) -> bool:
    return result.rowcount == 1


def _matches(result: CursorResult[Any]) -> int:
    return result.rowcount
