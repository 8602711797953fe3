"""A Redis Cluster: which primary has which key, and what to do when that changes.

The driver's own cluster client sends a write again whose answer was lost, and so would tell the
winner of a condition that it lost. Routing is a table of 16384 slots and two redirections:

    MOVED        the slot is elsewhere for good    note it, go there
    ASK          this key is elsewhere by now      go there once, saying ASKING
    CLUSTERDOWN, READONLY, LOADING, TRYAGAIN       not done; look at the map again, and try again
    no connection                                  not done if it was not sent; as above
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from .._aio import deadline
from .._shared_timer import Deadline, SharedTimer
from ..errors import StoreUnavailable
from ._redis_commands import packed
from ._redis_drivers import Driver
from ._redis_errors import is_a
from ._redis_lanes import Primary, Request, may_repeat

__all__ = ["Address", "Cluster"]

Address = tuple[str, int]

_SLOTS: Final = 16384
_TRIES: Final = 5
# Seconds between two tries while the cluster changes, and between two looks at its map.
_PAUSE: Final = 0.05
# Seconds that one node may take to send the map, before the next is asked.
_MAP_TIMEOUT: Final = 0.25


class Cluster:
    """All primaries of a cluster, on one event loop; it learns the map when it is first used.

    Args:
        driver: the package that makes the connections.
        nodes: where to ask for the map at first.
        settings: of every connection, without its address.
        remap: turns an address that the cluster tells into one that can be reached.
    """

    def __init__(
        self,
        driver: Driver,
        nodes: Iterable[Address],
        settings: dict[str, Any],
        remap: Callable[[Address], Address] | None = None,
    ) -> None:
        self._driver = driver
        self._seeds = list(nodes)
        self._known = list(self._seeds)
        self._settings = settings
        self._remap = remap
        self._primaries: dict[Address, Primary] = {}
        self._owners: list[Address | None] = [None] * _SLOTS
        #: Nodes that did not answer, to be asked for the map last.
        self._suspects: set[Address] = set()
        self._map_is_old = True
        self._looked = float("-inf")
        self._looking = asyncio.Lock()
        self._timer = SharedTimer()

    async def call(self, request: Request) -> object:
        """Send a request to where its key is, following the cluster's changes."""
        try:
            with Deadline(self._timer, request.until):
                return await self._follow(request)
        except TimeoutError:
            self._doubt(request)
            raise

    async def call_again(self, request: Request, error: Exception) -> object:
        """Raise the error: `call` has tried again."""
        raise error

    async def _follow(self, request: Request) -> object:
        slot = self._slot(request)
        ask_at: Address | None = None
        for left in reversed(range(_TRIES)):
            request.sent = False
            address = None
            try:
                address = ask_at or await self._owner(slot)
                return await self._primary(address).trip(request, asking=ask_at is not None)
            except Exception as exc:
                ask_at = None
                if is_a(exc, "MovedError", "AskError") and address is not None:
                    if not left:
                        raise StoreUnavailable(f"the cluster moves slot {slot} about") from exc
                    there = self._redirection(exc, address)
                    if is_a(exc, "MovedError"):
                        self._owners[slot] = there
                        self._map_is_old = True
                    else:
                        ask_at = there
                    continue
                self._note(exc, address)
                if not left or not may_repeat(exc, request):
                    raise
            await asyncio.sleep(_PAUSE)
        raise AssertionError("unreachable: the last try returns or raises")

    def _doubt(self, request: Request) -> None:
        """Look at the map again before the next request: a node may be gone without a word."""
        address = self._owners[self._slot(request)]
        self._map_is_old = True
        if address is not None:
            self._suspects.add(address)
            self._primary(address).doubt()

    async def aclose(self) -> None:
        """Close all connections."""
        for primary in self._primaries.values():
            await primary.aclose()

    def abandon(self) -> None:
        """Drop all connections after the event loop was closed."""
        for primary in self._primaries.values():
            primary.abandon()

    def _slot(self, request: Request) -> int:
        return int(self._driver.crc.key_slot(request.name))

    def _primary(self, address: Address) -> Primary:
        primary = self._primaries.get(address)
        if primary is None:
            pool = self._driver.connection.ConnectionPool(
                host=address[0], port=address[1], **self._settings
            )
            primary = self._primaries[address] = Primary(self._driver, pool)
        return primary

    def _redirection(self, exc: Exception, asked: Address) -> Address:
        # No host means: the one that you asked.
        told: Any = exc
        return self._reachable(str(told.host or asked[0]), int(told.port))

    def _reachable(self, host: str, port: int) -> Address:
        return self._remap((host, port)) if self._remap else (host, port)

    def _note(self, exc: Exception, address: Address | None) -> None:
        """Remember what an error says about the map."""
        if is_a(exc, "ResponseError") and not is_a(exc, "ClusterDownError", "ReadOnlyError"):
            return
        self._map_is_old = True
        if address is not None and is_a(exc, "ConnectionError", "TimeoutError", "OSError"):
            self._suspects.add(address)

    async def _owner(self, slot: int) -> Address:
        if self._map_is_old:
            await self._look()
        owner = self._owners[slot]
        if owner is None:
            self._map_is_old = True
            raise StoreUnavailable(f"no node of the cluster serves slot {slot}")
        return owner

    async def _look(self) -> None:
        """Ask for the map, unless somebody else just did."""
        async with self._looking:
            loop = asyncio.get_running_loop()
            if not self._map_is_old or loop.time() - self._looked < _PAUSE:
                return
            await self._ask_for_map()
            self._looked = loop.time()
            self._map_is_old = False

    async def _ask_for_map(self) -> None:
        candidates = dict.fromkeys([*self._known, *self._seeds])
        last: Exception = StoreUnavailable("no node of the cluster is known")
        for address in sorted(candidates, key=self._suspects.__contains__):
            request = Request(b"", packed(b"CLUSTER", b"SLOTS"), again=True)
            try:
                async with deadline(_MAP_TIMEOUT):
                    answer = await self._primary(address).trip(request)
            except Exception as exc:
                self._suspects.add(address)
                self._primary(address).doubt()
                last = exc
                continue
            self._suspects.discard(address)
            self._learn(cast("list[Any]", answer), address)
            return
        if isinstance(last, TimeoutError):
            raise StoreUnavailable("no node of the cluster tells who serves what") from last
        raise last

    def _learn(self, answer: list[Any], asked: Address) -> None:
        """Take over an answer to CLUSTER SLOTS: first slot, last slot, primary, its replicas."""
        owners: list[Address | None] = [None] * _SLOTS
        known: dict[Address, None] = {}
        for first, last, *nodes in answer:
            addresses = [self._told(node, asked) for node in nodes]
            known.update(dict.fromkeys(addresses))
            owners[first : last + 1] = [addresses[0]] * (last + 1 - first)
        self._owners = owners
        self._known = list(known)
        for address in self._primaries.keys() - known.keys():
            self._primaries[address].doubt()  # its idle connections are closed if it comes back

    def _told(self, node: list[Any], asked: Address) -> Address:
        host = node[0].decode() if isinstance(node[0], bytes) else node[0]
        return self._reachable(host or asked[0], int(node[1]))
