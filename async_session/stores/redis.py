"""Sessions in Redis, by way of redis-py's asyncio client."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import Final, cast

from .._aio import deadline
from ..errors import ConfigurationError, StoreError, StoreUnavailable
from .base import VERSION_SIZE, Match

try:
    from redis import exceptions
    from redis.asyncio import ConnectionPool, Redis

    from . import _redis_pools as pools
except ImportError as exc:
    raise ConfigurationError("RedisStore needs redis-py: pip install async_session[redis]") from exc

__all__ = ["RedisStore"]

# The only thing Redis cannot do in one command: replace a value that begins with a version.
_REPLACE: Final = b"""
if redis.call('GETRANGE', KEYS[1], 0, 15) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""
_REPLACE_SHA: Final = hashlib.sha1(_REPLACE, usedforsecurity=False).hexdigest()

# A server that says one of these answers again without anybody changing anything.
_PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    OSError,
)
_PASSING_CODES = frozenset({"BUSY", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY"})
# These are connection errors to redis-py, and stay until somebody changes the configuration.
_LASTING = (exceptions.AuthenticationError, exceptions.AuthorizationError)

_Command = tuple[str | bytes | int, ...]


class RedisStore:
    """Keep sessions in Redis, one string a session. Runs on asyncio.

    Args:
        client: a `redis.asyncio.Redis`, which is used and never closed; or a URL,
            ``redis://[user:password@]host[:port][/db]``, ``rediss://...``,
            ``redis+unix:///path/to/socket[?db=0]`` or ``unix://...``. From a URL the store makes
            connections of its own for every event loop it is used on, when it is first used there.
        prefix: what the keys in Redis begin with.
        timeout: seconds. Every call ends by then, with `StoreUnavailable` if Redis has not
            answered. Also readable as `deadline`.

    Raises:
        ConfigurationError: `client` is neither, or returns text instead of bytes.

    Commands go out once: a write whose answer was lost is not sent again behind the caller's back,
    whatever the client's own retry settings. Reads and deletes are, once, on a new connection.
    """

    def __init__(
        self, client: Redis | str, *, prefix: str = "session:", timeout: float = 1.0
    ) -> None:
        if timeout <= 0:
            raise ConfigurationError(f"timeout must be more than 0 seconds, not {timeout}")
        #: Every call ends within this many seconds.
        self.deadline = float(timeout)
        self._prefix = prefix
        self._url: str | None = None
        self._pool: ConnectionPool | None = None
        if isinstance(client, str):
            self._url = client
            pools.make_pool(client)
            self._shown = repr(pools.without_secrets(client))
        else:
            self._pool = pools.pool_of(client)
            self._shown = f"<{type(client).__module__.partition('.')[0]} client>"
        self._lanes: dict[asyncio.AbstractEventLoop, _Lane] = {}

    def __repr__(self) -> str:
        return f"RedisStore({self._shown}, prefix={self._prefix!r})"

    async def open(self, key: str, /) -> bytes | None:
        """Return the value under `key`, or None if there is none."""
        return cast("bytes | None", await self._call("GET", self._prefix + key, again=True))

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Store `data` under `key` for `ttl` seconds if `match` holds; return whether it did."""
        name = self._prefix + key
        if match is Match.ANY:
            return await self._call("SET", name, data, "EX", ttl) is not None
        if match is Match.ABSENT:
            return await self._call("SET", name, data, "EX", ttl, "NX") is not None
        if not isinstance(match, bytes) or len(match) != VERSION_SIZE:
            raise ValueError(f"a version is {VERSION_SIZE} bytes, not {match!r}")
        return await self._call("EVALSHA", _REPLACE_SHA, 1, name, match, data, ttl) == 1

    async def delete(self, key: str, /) -> None:
        """Remove `key`. A key that is not there is no error."""
        await self._call("DEL", self._prefix + key, again=True)

    async def aclose(self) -> None:
        """Close the connections that the store made on this event loop; never a client's.

        Those of other loops are closed when their loop ends. The store may be used again.
        """
        lane = self._lanes.pop(asyncio.get_running_loop(), None)
        if lane is not None and lane.guard is not None:
            await lane.guard.aclose()

    async def _call(self, *command: str | bytes | int, again: bool = False) -> object:
        """Send one command and return its answer, within the deadline; translate what fails."""
        try:
            lane = self._lanes.get(asyncio.get_running_loop()) or await self._new_lane()
            async with deadline(self.deadline), lane.turns:
                return await _attempt(lane.pool, command, again=again)
        except TimeoutError as exc:
            raise StoreUnavailable(f"Redis did not answer within {self.deadline:g} s") from exc
        except Exception as exc:
            raise _translated(exc) from exc

    async def _new_lane(self) -> _Lane:
        """Prepare for the running event loop; forget the loops that were closed."""
        for loop in list(self._lanes):
            if loop.is_closed():
                lane = self._lanes.pop(loop)
                if lane.guard is not None:
                    pools.abandon(lane.pool)
        if self._pool is not None:
            lane = _Lane(self._pool, None)
        else:
            pool = pools.make_pool(cast("str", self._url))
            lane = _Lane(pool, _until_loop_ends(pool))
        self._lanes[asyncio.get_running_loop()] = lane
        if lane.guard is not None:
            await anext(lane.guard)  # does not wait: no other caller comes in between
        return lane


class _Lane:
    """What the store uses on one event loop."""

    __slots__ = ("guard", "pool", "turns")

    def __init__(self, pool: ConnectionPool, guard: AsyncGenerator[None] | None) -> None:
        self.pool = pool
        #: Closes the pool; None if the pool is the client's.
        self.guard = guard
        #: A pool raises when all its connections are in use: wait for a turn instead.
        self.turns = asyncio.Semaphore(pool.max_connections)


async def _until_loop_ends(pool: ConnectionPool) -> AsyncGenerator[None]:
    """Close `pool` when this generator is closed.

    Every runner (`asyncio.run`, anyio, uvicorn, a TestClient that makes a loop a request) closes
    the loop's generators before the loop: it is the one moment at which connections that nobody
    closed can still be closed in their own loop.
    """
    try:
        yield
    finally:
        await pool.disconnect()


async def _attempt(pool: ConnectionPool, command: _Command, *, again: bool) -> object:
    try:
        return await _trip(pool, command)
    except exceptions.NoScriptError:
        # The server was restarted, or never saw the script. EVAL leaves it there.
        return await _trip(pool, ("EVAL", _REPLACE, *command[2:]))
    except exceptions.ConnectionError:
        # A server that was restarted leaves dead connections in the pool.
        if not again:
            raise
        return await _trip(pool, command)


async def _trip(pool: ConnectionPool, command: _Command) -> object:
    """Send one command, once, and read its answer.

    On the connection itself, because the client would send a SET NX again whose answer was lost,
    and report our own value as somebody else's. A connection on which anything goes wrong, a
    cancellation included, is closed by redis-py before it goes back to the pool.
    """
    task = cast("asyncio.Task[object]", asyncio.current_task())
    cancellations = task.cancelling()
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.send_command(*command)
        answer = await connection.read_response()
    finally:
        await pool.release(connection)
    if task.cancelling() > cancellations:
        # A client with a socket_timeout waits with asyncio.wait_for, which loses a cancellation
        # that arrives together with the answer (before Python 3.12).
        raise asyncio.CancelledError
    return answer


def _translated(exc: Exception) -> StoreError:
    code = str(exc).partition(" ")[0]
    passing = isinstance(exc, _PASSING) and not isinstance(exc, _LASTING)
    if passing or code in _PASSING_CODES:
        return StoreUnavailable(f"Redis is not available: {exc}")
    if isinstance(exc, RuntimeError):
        return StoreError(
            f"{exc}. A redis client serves one event loop, and asyncio only: write "
            "RedisStore('redis://...') to have a client per event loop"
        )
    return StoreError(f"Redis refused: {exc}")
