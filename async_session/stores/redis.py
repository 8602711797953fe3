"""Sessions in Redis or Valkey, by way of redis-py's or valkey-py's asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, StoreUnavailable
from . import _redis_commands as commands
from ._redis_errors import translated
from ._redis_lanes import Lane, Request
from ._redis_targets import target_of
from .base import VERSION_SIZE, Match

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster
    from valkey.asyncio import Valkey, ValkeyCluster

__all__ = ["RedisStore"]


class RedisStore:
    """Keep sessions in Redis or Valkey, one string a session. Runs on asyncio.

    Args:
        client: a `redis.asyncio.Redis`, also one that `redis.asyncio.sentinel.Sentinel.master_for`
            returned, which is used and never closed; or a `redis.asyncio.RedisCluster`, whose
            addresses and settings are used for connections of the store's own; or the same classes
            of valkey-py; or a URL:

            - ``redis://[user:password@]host[:port][/db]``; ``rediss://...`` is the same with TLS;
            - ``redis+unix:///path/to/socket[?db=0]`` or ``unix://...``;
            - ``redis+cluster://[user:password@]host:port,host:port``; ``rediss+cluster://...``;
            - ``redis+sentinel://[user:password@]host:26379,host:26379/mymaster[/db]``, where user
              and password are Redis's own; ``?sentinel_username=`` and ``?sentinel_password=`` are
              those of the Sentinels; ``rediss+sentinel://...``;
            - all of these with ``valkey`` in place of ``redis``, and ``valkeys`` of ``rediss``.

            From a URL the store makes connections of its own for every event loop it is used on,
            when it is first used there. One server has one connection that all calls share, if
            hiredis is installed.
        prefix: what the keys in Redis begin with.
        timeout: seconds. Every call ends by then, with `StoreUnavailable` if Redis has not
            answered; it takes the place of a client's ``socket_timeout``. Also readable as
            `deadline`.
        wait_replicas: how many replicas must have a write before it is acknowledged. A `save` or
            `delete` that fewer have in time is a `StoreUnavailable`, although the primary has it.
            This is for every write, because a store does not know which of them ends a session.

    Raises:
        ConfigurationError: `client` is none of these, reads from replicas, or returns text instead
            of bytes.

    A write whose answer was lost is not sent again behind the caller's back, whatever the client's
    own retry settings; one that the server refused, or that was never sent, is. Reads are sent
    again, and so are deletes unless `wait_replicas` is set. Only primaries are read from.
    """

    def __init__(
        self,
        client: Redis | RedisCluster | Valkey | ValkeyCluster | str,
        *,
        prefix: str = "session:",
        timeout: float = 1.0,
        wait_replicas: int = 0,
    ) -> None:
        if timeout <= 0:
            raise ConfigurationError(f"timeout must be more than 0 seconds, not {timeout}")
        if not isinstance(wait_replicas, int) or wait_replicas < 0:
            raise ConfigurationError(f"wait_replicas is a number of replicas, not {wait_replicas}")
        #: Every call ends within this many seconds.
        self.deadline = float(timeout)
        self._prefix = prefix.encode()
        self._replicas = int(wait_replicas)
        self._target = target_of(client)
        #: Whether a write takes place also if its caller is cancelled, before what is asked later.
        self.in_order = self._target.in_order and not wait_replicas
        #: What is used on each event loop, and, if it is the store's own, what closes it.
        self._lanes: dict[asyncio.AbstractEventLoop, Lane] = {}
        self._guards: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}

    def __repr__(self) -> str:
        return f"RedisStore({self._target.shown}, prefix={self._prefix.decode()!r})"

    async def open(self, key: str, /) -> bytes | None:
        """Return the value under `key`, or None if there is none."""
        name = self._prefix + key.encode()
        request = Request(name, commands.get(name), again=True)
        found: bytes | None
        try:
            found = await self._ask(request)
        except Exception as exc:
            found = await self._ask_again(request, exc)
        return found

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Store `data` under `key` for `ttl` seconds if `match` holds; return whether it did."""
        name = self._prefix + key.encode()
        if not isinstance(match, bytes):
            command = commands.put(name, data, ttl, only_new=match is Match.ABSENT)
        elif len(match) == VERSION_SIZE:
            command = commands.replace(name, match, data, ttl)
        else:
            raise ValueError(f"a version is {VERSION_SIZE} bytes, not {match!r}")
        request = Request(name, command, again=False, replicas=self._replicas)
        try:
            answer = await self._ask(request)
        except Exception as exc:
            answer = await self._ask_again(request, exc)
        return bool(answer)  # 1 or OK; 0 or nothing

    async def delete(self, key: str, /) -> None:
        """Remove `key`. A key that is not there is no error."""
        name = self._prefix + key.encode()
        # Sent again it would find nothing, and nothing is what no replica has to have.
        again = not self._replicas
        request = Request(name, commands.remove(name), again=again, replicas=self._replicas)
        try:
            await self._ask(request)
        except Exception as exc:
            await self._ask_again(request, exc)

    async def aclose(self) -> None:
        """Close the connections that the store made on this event loop; never a client's.

        Those of other loops are closed when their loop ends. The store may be used again.
        """
        loop = asyncio.get_running_loop()
        self._lanes.pop(loop, None)
        guard = self._guards.pop(loop, None)
        if guard is not None:
            await guard.aclose()

    def _ask(self, request: Request) -> Awaitable[Any]:
        """Send a request; return what its answer is awaited by."""
        loop = asyncio.get_running_loop()
        request.until = loop.time() + self.deadline
        lane = self._lanes.get(loop)
        return self._ask_first(loop, request) if lane is None else lane.call(request)

    async def _ask_first(self, loop: asyncio.AbstractEventLoop, request: Request) -> Any:
        return await (await self._new_lane(loop)).call(request)

    async def _ask_again(self, request: Request, error: Exception) -> Any:
        """Do what can still be done within the deadline; translate what has failed."""
        try:
            lane = self._lanes.get(asyncio.get_running_loop())
            if lane is None:
                raise error
            return await lane.call_again(request, error)
        except TimeoutError as exc:
            raise StoreUnavailable(f"Redis did not answer within {self.deadline:g} s") from exc
        except StoreUnavailable:
            raise
        except Exception as exc:
            raise translated(exc) from exc

    async def _new_lane(self, loop: asyncio.AbstractEventLoop) -> Lane:
        """Prepare for the running event loop; forget the loops that were closed."""
        for closed in [known for known in list(self._lanes) if known.is_closed()]:
            lane = self._lanes.pop(closed)
            if self._guards.pop(closed, None) is not None:
                lane.abandon()
        lane = self._lanes[loop] = self._target.open_lane()
        if self._target.is_own:
            guard = self._guards[loop] = _until_loop_ends(lane)
            await anext(guard)  # does not wait: no other caller comes in between
        return lane


async def _until_loop_ends(lane: Lane) -> AsyncGenerator[None]:
    """Close `lane` when this generator is closed.

    Every runner (`asyncio.run`, anyio, uvicorn, a TestClient that makes a loop a request) closes
    the loop's generators before the loop: it is the one moment at which connections that nobody
    closed can still be closed in their own loop.
    """
    try:
        yield
    finally:
        await lane.aclose()
