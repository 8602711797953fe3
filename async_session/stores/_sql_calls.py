"""One statement on a database: within a deadline, whole whatever happens to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final, Generic, TypeVar, cast

from sqlalchemy import Connection, CursorResult, Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from .._aio import run_to_completion
from ..errors import StoreError, StoreUnavailable
from . import _sql_engines as engines

__all__ = ["Call", "Lane", "translated"]

T = TypeVar("T")

# Another writer was quicker, at an isolation level above READ COMMITTED. Nothing was written.
_AGAIN: Final = {"40001", "40P01"}
# A server that says so answers again without anybody changing anything: connections lost or
# refused, shutting down or starting, read-only after a failover, cancelled, locked.
_PASSING: Final = ("08", "40", "57", "53300", "25006", "55P03")
_SQLITE_PASSING: Final = {5, 6, 9, 15}  # BUSY, LOCKED, INTERRUPT, PROTOCOL
# The store's callers at once on an app's own engine; its pool may let in fewer.
_CALLERS: Final = 100
_GOODBYE: Final = 1.0


class Call(Generic[T]):
    """A statement, its values, and what becomes of its result."""

    def __init__(
        self,
        statement: Executable,
        values: Mapping[str, object],
        take: Callable[[CursorResult[Any]], T],
        *,
        writes: bool = True,
        again: bool = False,
    ) -> None:
        self.statement = statement
        self.values = values
        self.take = take
        self.writes = writes
        #: Whether it may be sent twice, if the connection broke.
        self.again = again
        self.given_up = False
        self.connection: AsyncConnection | None = None

    def give_up(self) -> None:
        """Let nobody wait for it. What was not sent is not sent any more.

        A connection of asyncpg's that waits for an answer is torn down; to close it in good order
        would take an answer as well. SQLite's threads end by themselves.
        """
        self.given_up = True
        if self.connection is not None:
            engines.abort(engines.driver_connection(self.connection))


class Lane:
    """What the store uses on one event loop.

    A call runs in a task of its own: a caller that is cancelled waits until it is done, and a
    caller whose time is up goes, while the task finds out that nobody waits, and cleans up. So a
    connection that takes longer than one call may still be made, for the next one.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        prepare: Callable[[Connection], None],
        *,
        owned: bool,
    ) -> None:
        self.engine = engine
        self.guard = self._until_loop_ends() if owned else None
        self._connect = (
            engine if owned else engine.execution_options(isolation_level="AUTOCOMMIT")
        ).connect
        self._prepare: Callable[[Connection], None] | None = prepare
        self._preparing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        # An app's pool has other users, and a queue of its own.
        connections = cast("QueuePool", engine.pool).size() if owned else _CALLERS
        self._reads = self._writes = asyncio.Semaphore(connections)
        if engine.dialect.name == "sqlite":
            # One writes at a time anyway. Here they are served in turn and at once; in SQLite they
            # would poll for its lock, at growing intervals.
            self._reads = asyncio.Semaphore(connections - 1)
            self._writes = asyncio.Semaphore(1)

    async def run(self, call: Call[T], seconds: float) -> T:
        """Run `call` and return its result, or raise `TimeoutError` after `seconds`."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        turns = self._writes if call.writes else self._reads
        if turns.locked():
            async with asyncio.timeout_at(ends):
                await turns.acquire()
        else:
            await turns.acquire()  # does not wait
        task = loop.create_task(self._attempt(call))
        self._tasks.add(task)

        def done(_task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            turns.release()
            if not task.cancelled():
                task.exception()  # mark it as seen: there may be no caller any more

        task.add_done_callback(done)
        return await run_to_completion(_result(call, task, ends - loop.time()))

    async def aclose(self) -> None:
        """Close the engine, if the store made it. A server that is frozen is not waited for."""
        if self.guard is not None:
            await self.guard.aclose()

    async def _until_loop_ends(self) -> AsyncGenerator[None]:
        """Close the engine when this generator is closed.

        Every runner closes the loop's generators before the loop: it is the one moment at which
        connections that nobody closed can still be closed in their own loop.
        """
        try:
            yield
        finally:
            if self._tasks:
                _, late = await asyncio.wait(self._tasks, timeout=_GOODBYE)
                for task in late:
                    task.cancel()
            closing = asyncio.ensure_future(self.engine.dispose())
            await asyncio.wait([closing], timeout=_GOODBYE)
            for connection in engines.connections_of(self.engine):
                engines.abort(connection)
            await closing

    async def _attempt(self, call: Call[T]) -> T:
        """Run the statement; again, if that can do no harm and may help."""
        again = call.again
        while True:
            try:
                return await self._once(call)
            except DBAPIError as exc:
                if call.given_up:
                    raise
                if exc.connection_invalidated and again:
                    again = False
                elif _state(exc) not in _AGAIN:
                    raise

    async def _once(self, call: Call[T]) -> T:
        connection = await self._live_connection()
        try:
            if self._prepare is not None:
                await self._prepare_on(connection)
            if call.given_up:
                raise TimeoutError
            call.connection = connection
            return call.take(await connection.execute(call.statement, call.values))
        finally:
            call.connection = None
            await connection.close()

    async def _live_connection(self) -> AsyncConnection:
        """Return a connection that its server has not closed, as far as anybody knows."""
        while True:
            connection = await self._connect()
            if not engines.is_closed(connection):
                return connection
            await connection.invalidate()
            await connection.close()

    async def _prepare_on(self, connection: AsyncConnection) -> None:
        async with self._preparing:
            if self._prepare is not None:
                await connection.run_sync(self._prepare)
                self._prepare = None


async def _result(call: Call[T], task: asyncio.Task[T], seconds: float) -> T:
    await asyncio.wait([task], timeout=seconds)
    if not task.done():
        call.give_up()
        raise TimeoutError
    return task.result()


def _state(exc: DBAPIError) -> str:
    return getattr(exc.orig, "sqlstate", None) or ""


def translated(exc: Exception) -> StoreError:
    """Return what a store says instead of `exc`; it never quotes what was to be stored."""
    if isinstance(exc, StoreError):
        return exc
    if isinstance(exc, RuntimeError):
        return StoreError(
            f"{exc}. An AsyncEngine serves one event loop, and asyncio only: write "
            "SQLAlchemyStore('postgresql://...') to have an engine per event loop"
        )
    cause = (exc.orig if isinstance(exc, DBAPIError) else None) or exc
    # The first line only: PostgreSQL's others show the row.
    said = (str(cause).splitlines() or [type(cause).__name__])[0]
    passing = isinstance(exc, (OSError, PoolTimeout))
    if isinstance(exc, DBAPIError):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        passing = exc.connection_invalidated or _state(exc).startswith(_PASSING)
        passing = passing or code in _SQLITE_PASSING
        # asyncpg's own word for "no host that I know writes": there will be one after the failover.
        passing = passing or "target attribute" in said
    kind, verb = (StoreUnavailable, "is not available") if passing else (StoreError, "refused")
    error = kind(f"the database {verb}: {said}")
    error.__cause__ = cause
    return error
