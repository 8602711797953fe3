"""Sessions in memcached, one node or several, over connections that many requests share."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Final

from ..errors import ConfigurationError, StoreError, StoreUnavailable
from . import _memcached_wire as wire
from .base import VERSION_SIZE, Match

try:
    from ._memcached_lane import Lane
    from ._memcached_nodes import Node, Nodes, node_of, parse_nodes
except ImportError as exc:
    raise ConfigurationError(
        "MemcachedStore needs aiomcache: pip install 'async_session[memcached]'"
    ) from exc

__all__ = ["MemcachedStore"]

# Above thirty days memcached reads a lifetime as a date.
_LONGEST_RELATIVE: Final = 30 * 24 * 3600
# memcached's clock ticks once a second, so a lifetime of n ends up to a second too early.
_ROUNDING: Final = 1
# A date is the app's, and the server's clock may be ahead of it.
_CLOCK_SKEW: Final = 60
# How often somebody may write between our read and our write. Each time the version is compared
# anew, so this is reached only if others keep writing the very version that is asked for.
_TRIES: Final = 20

_KEY_SIZE: Final = 64
_DIGITS: Final = b"0123456789abcdef"
# memcached takes 250 bytes of key; spaces and control characters would end it.
_is_prefix = re.compile(r"[!-~]{0,186}").fullmatch


class MemcachedStore:
    """Keep sessions in memcached, one item a session. Runs on asyncio.

    Args:
        nodes: ``"127.0.0.1:11211"``; a list of such; the path of a unix socket;
            ``"memcached://a:11211,b:11211"``; or an `aiomcache.Client`, or a list of them. A
            client's address and `conn_args` are taken, and nothing else: the store always makes
            connections of its own, one for each node and event loop, when it is first used there.
        prefix: what the keys in memcached begin with. At most 186 visible ASCII characters.
        timeout: seconds. Every call ends by then, with `StoreUnavailable` if the node has not
            answered. Also readable as `deadline`.
        max_value: bytes. A longer value is a `StoreError`, and nothing is sent. Raise it together
            with memcached's own limit, ``-I``.
        clock: the time in seconds since the epoch, for lifetimes of more than 30 days.

    Raises:
        ConfigurationError: a node or the prefix cannot be; aiomcache is not installed.

    A key belongs to one node, by the names of the nodes: every process has to write them alike.
    While that node is down its sessions are `StoreUnavailable`; no other node takes them over,
    which would show old sessions again when it comes back.

    Writes go out once. Reads and deletes are sent again, once, if their connection breaks.
    """

    def __init__(
        self,
        nodes: Nodes,
        *,
        prefix: str = "session:",
        timeout: float = 1.0,
        max_value: int = 1_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if timeout <= 0:
            raise ConfigurationError(f"timeout must be more than 0 seconds, not {timeout}")
        if max_value < VERSION_SIZE:
            raise ConfigurationError(f"max_value must be {VERSION_SIZE} or more, not {max_value}")
        if not _is_prefix(prefix):
            raise ConfigurationError(
                "prefix must be at most 186 visible ASCII characters without spaces, as in "
                f"'session:', not {prefix!r}"
            )
        #: Every call ends within this many seconds.
        self.deadline = float(timeout)
        self._nodes = parse_nodes(nodes)
        self._prefix = prefix.encode()
        self._max_value = max_value
        self._clock = clock
        self._loops: dict[asyncio.AbstractEventLoop, _Lanes] = {}

    def __repr__(self) -> str:
        names = ",".join(node.name for node in self._nodes)
        return f"MemcachedStore('memcached://{names}', prefix={self._prefix.decode()!r})"

    async def open(self, key: str, /) -> bytes | None:
        """Return the value under `key`, or None if there is none."""
        request, until = wire.reading(self._name(key)), self._until()
        lane = self._lane(key) or await self._new_lane(key)
        answer = await lane.ask(request, until)
        if type(answer) is wire.Reply and answer.status == b"VALUE":
            return answer.data  # most requests end here
        reply = await lane.settle(answer, request, until, again=True)
        return reply.data if reply.status == b"VALUE" else None

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Store `data` under `key` for `ttl` seconds if `match` holds; return whether it did."""
        name, exptime, until = self._name(key), self._exptime(ttl), self._until()
        if len(data) > self._max_value:
            raise StoreError(
                f"the value has {len(data)} bytes and max_value is {self._max_value}: raise it, "
                "and memcached's own limit with its option -I"
            )
        if isinstance(match, bytes):
            return await self._replace(key, data, match, exptime, until)
        verb = b"set" if match is Match.ANY else b"add"
        reply = await self._ask(key, wire.writing(verb, name, data, exptime=exptime), until)
        return reply.status == b"STORED"

    async def delete(self, key: str, /) -> None:
        """Remove `key`. A key that is not there is no error."""
        await self._ask(key, wire.deletion(self._name(key)), self._until(), again=True)

    async def aclose(self) -> None:
        """Close the connections that the store made on this event loop.

        Those of other loops are closed when their loop ends. The store may be used again.
        """
        lanes = self._loops.pop(asyncio.get_running_loop(), None)
        if lanes is not None:
            await lanes.guard.aclose()

    async def _replace(
        self, key: str, data: bytes, version: bytes, exptime: int, until: float
    ) -> bool:
        """Read what is there; write only over the very item whose version was compared."""
        if len(version) != VERSION_SIZE:
            raise ValueError(f"a version is {VERSION_SIZE} bytes, not {version!r}")
        name = self._name(key)
        for _ in range(_TRIES):
            found = await self._ask(key, wire.reading(name, with_cas=True), until, again=True)
            if found.data[:VERSION_SIZE] != version:
                return False
            write = wire.writing(b"cas", name, data, exptime=exptime, cas=found.cas)
            status = (await self._ask(key, write, until)).status
            if status != b"EXISTS":  # NOT_FOUND: ended, expired or evicted in between
                return status == b"STORED"
        raise StoreUnavailable(f"{_TRIES} times somebody wrote that version again in between")

    async def _ask(
        self, key: str, request: wire.Request, until: float, *, again: bool = False
    ) -> wire.Reply:
        """Ask the node that keeps `key`; raise what is no reply."""
        lane = self._lane(key) or await self._new_lane(key)
        return await lane.settle(await lane.ask(request, until), request, until, again=again)

    def _lane(self, key: str) -> Lane | None:
        """Return the way to the node that keeps `key`, if this event loop has one already."""
        lanes = self._loops.get(asyncio.get_running_loop())
        if lanes is None:
            return None
        return lanes.only or lanes.of_node[node_of(self._nodes, key)]

    async def _new_lane(self, key: str) -> Lane:
        """Prepare for the running event loop; forget the loops that were closed."""
        for loop in list(self._loops):
            if loop.is_closed():
                for lane in self._loops.pop(loop).of_node.values():
                    lane.abandon()
        lanes = _Lanes(self._nodes, self.deadline)
        self._loops[asyncio.get_running_loop()] = lanes
        await anext(lanes.guard)  # does not wait: no other caller comes in between
        return lanes.of_node[node_of(self._nodes, key)]

    def _until(self) -> float:
        """Return the loop's time at which a call that begins now has to end."""
        try:
            return asyncio.get_running_loop().time() + self.deadline
        except RuntimeError as exc:
            raise StoreError("MemcachedStore runs on asyncio only: use another store here") from exc

    def _name(self, key: str) -> bytes:
        name = key.encode()
        # Anything else might end the command and begin another.
        if len(name) != _KEY_SIZE or name.translate(None, _DIGITS):
            raise ValueError(f"a key is 64 lower-case hexadecimal digits, not {key!r}")
        return self._prefix + name

    def _exptime(self, ttl: int) -> int:
        if ttl + _ROUNDING <= _LONGEST_RELATIVE:
            return ttl + _ROUNDING
        return math.ceil(self._clock()) + ttl + _ROUNDING + _CLOCK_SKEW


class _Lanes:
    """What the store uses on one event loop."""

    __slots__ = ("guard", "of_node", "only")

    def __init__(self, nodes: tuple[Node, ...], timeout: float) -> None:
        self.of_node = {node: Lane(node, timeout) for node in nodes}
        self.only = self.of_node[nodes[0]] if len(nodes) == 1 else None
        #: Closes them.
        self.guard = _until_loop_ends(self.of_node.values())


async def _until_loop_ends(lanes: Iterable[Lane]) -> AsyncGenerator[None]:
    """Close `lanes` when this generator is closed, which every runner does before its loop."""
    try:
        yield
    finally:
        for lane in lanes:
            await lane.aclose()
