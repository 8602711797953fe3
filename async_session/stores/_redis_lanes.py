"""One Redis primary: a pool of connections, and how a command goes over one of them and back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, Protocol, cast

from .._shared_timer import Deadline, SharedTimer
from ..errors import StoreUnavailable
from ._redis_commands import packed, with_script
from ._redis_drivers import Driver
from ._redis_errors import is_a, is_lasting, was_refused
from ._sockets import close_socket

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool
    from redis.asyncio.connection import AbstractConnection

__all__ = [
    "Lane",
    "Primary",
    "Request",
    "abandon",
    "may_repeat",
    "should_repeat",
]

# How much before a call's end the server is to stop waiting for replicas, in seconds: its answer
# says more than no answer.
_MARGIN: Final = 0.05


class Request:
    """One command on its way.

    Attributes:
        name: the key in Redis.
        command: all of it.
        again: whether it may be sent twice when its answer was lost.
        replicas: how many must have what it wrote before it counts as done.
        until: the loop's time at which the caller gives up.
        sent: whether a server may have read it, without having answered.
    """

    __slots__ = ("again", "command", "name", "replicas", "sent", "until")

    def __init__(self, name: bytes, command: bytes, *, again: bool, replicas: int = 0) -> None:
        self.name = name
        self.command = command
        self.again = again
        self.replicas = replicas
        self.until = 0.0
        self.sent = False


def may_repeat(exc: Exception, request: Request) -> bool:
    """Tell whether sending a request again, after `exc`, cannot do it twice."""
    if is_lasting(exc) or isinstance(exc, RuntimeError):
        return False
    if was_refused(exc):
        return True
    lost = is_a(exc, "ConnectionError", "TimeoutError", "OSError", "StoreUnavailable")
    return lost and (request.again or not request.sent)


def should_repeat(exc: Exception, request: Request) -> bool:
    """Tell whether the same server is worth being asked again at once."""
    # One that was restarted leaves dead connections behind. One that refuses will refuse again,
    # unless Sentinel or its name leads to another by now.
    if isinstance(exc, TimeoutError) or is_a(exc, "BusyLoadingError", "MasterDownError"):
        return False
    return may_repeat(exc, request)


class Lane(Protocol):
    """What a store uses on one event loop."""

    def call(self, request: Request) -> Awaitable[object]:
        """Send a request; its answer may be a `TimeoutError`: its time is over."""
        ...

    async def call_again(self, request: Request, error: Exception) -> object:
        """Do what can still be done after `error` came as an answer: mostly raise it."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...

    def abandon(self) -> None:
        """Drop all connections after the event loop was closed."""
        ...


class Primary:
    """One server, or whichever Sentinel says is the primary.

    Args:
        driver: the package that the pool is from.
        pool: its connections.
        others: pools that are closed with it.
    """

    def __init__(
        self, driver: Driver, pool: ConnectionPool, others: tuple[ConnectionPool, ...] = ()
    ) -> None:
        self._driver = driver
        self._pool = pool
        self._others = others
        # A pool raises when all its connections are in use: wait for a turn instead.
        self._turns = asyncio.Semaphore(pool.max_connections)
        self._timer = SharedTimer()
        self._doubtful = False

    def call(self, request: Request) -> Awaitable[object]:
        """Send a request, and once more where that is safe."""
        return self._call(request)

    async def call_again(self, request: Request, error: Exception) -> object:
        """Raise the error: `call` has tried again."""
        raise error

    async def _call(self, request: Request) -> object:
        try:
            with Deadline(self._timer, request.until):
                try:
                    return await self.trip(request)
                except Exception as exc:
                    if not should_repeat(exc, request):
                        raise
                return await self.trip(request)
        except TimeoutError:
            self.doubt()
            raise

    async def trip(self, request: Request, *, asking: bool = False) -> object:
        """Send one command, once, and read its answer.

        On the connection itself, because the client would send a SET NX again whose answer was
        lost, and report our own value as somebody else's. A connection on which anything goes
        wrong, a cancellation included, is closed by the driver before it goes back to the pool.
        """
        task = cast("asyncio.Task[object]", asyncio.current_task())
        cancellations = task.cancelling()
        request.sent = False
        async with self._turns:
            if self._doubtful:
                await self._drop_idle()
            connection = await self._driver.take(self._pool)
            try:
                answer = await _answer(connection, request, asking=asking)
            except Exception as exc:
                if is_a(exc, "ReadOnlyError"):
                    # It was the primary. The next connection finds the new one by its name.
                    await connection.disconnect(nowait=True)
                    self._doubtful = True
                raise
            finally:
                await self._pool.release(connection)
        if task.cancelling() > cancellations:
            # A client with a socket_timeout connects with asyncio.wait_for, which loses a
            # cancellation that arrives together with an answer (before Python 3.12).
            raise asyncio.CancelledError
        return answer

    def doubt(self) -> None:
        """Do not trust the idle connections any more: their server may be gone without a word."""
        self._doubtful = True

    async def _drop_idle(self) -> None:
        self._doubtful = False
        for connection in list(self._pool._available_connections):
            # Not the pool's disconnect: with TLS that waits for the server's goodbye.
            await connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """Close the pools."""
        for pool in (self._pool, *self._others):
            await pool.disconnect()

    def abandon(self) -> None:
        """Drop connections whose event loop was closed without closing its generators."""
        for pool in (self._pool, *self._others):
            for connection in [*pool._available_connections, *pool._in_use_connections]:
                abandon(connection)


async def _answer(connection: AbstractConnection, request: Request, *, asking: bool) -> object:
    if asking:
        await _exchange(connection, packed(b"ASKING"))
    request.sent = True
    try:
        answer = await _exchange(connection, request.command)
    except Exception as exc:
        if not is_a(exc, "NoScriptError"):
            raise
        # The server was restarted, took over, or never saw the script. EVAL leaves it there.
        if asking:
            await _exchange(connection, packed(b"ASKING"))
        answer = await _exchange(connection, with_script(request.command))
    # Nothing was written: a refused condition, a delete of nothing.
    if request.replicas and answer not in {None, 0}:
        await _await_replicas(connection, request)
    return answer


async def _await_replicas(connection: AbstractConnection, request: Request) -> None:
    """Wait, on the connection that wrote, until enough replicas have it."""
    left = request.until - asyncio.get_running_loop().time() - _MARGIN
    # A timeout of 0 would be none.
    command = packed(b"WAIT", request.replicas, max(1, int(left * 1000)))
    found = await _exchange(connection, command)
    if cast("int", found) < request.replicas:
        raise StoreUnavailable(
            f"Redis has it, but only on {found} replicas in time, and wait_replicas is "
            f"{request.replicas}"
        )


async def _exchange(connection: AbstractConnection, command: bytes) -> object:
    """Send a command and read its answer, within the caller's deadline and no other.

    A client's own `socket_timeout` would make a task of every write and a timer for every answer.
    """
    patience, connection.socket_timeout = connection.socket_timeout, None
    try:
        await connection.send_packed_command(command)
    finally:
        if connection.socket_timeout is None:  # else the driver has changed it meanwhile
            connection.socket_timeout = patience
    return await connection.read_response(timeout=math.inf)


def abandon(connection: AbstractConnection) -> None:
    """Drop a connection after its event loop was closed; it is not to complain of that."""
    writer, connection._writer, connection._reader = connection._writer, None, None
    if writer is not None:
        close_socket(writer.transport)
