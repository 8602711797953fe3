"""The way to one memcached node: connects when it is needed, and anew when a connection broke."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, cast

from ..errors import StoreError, StoreUnavailable
from ._memcached_link import Link, Lost
from ._memcached_nodes import Node
from ._memcached_wire import Reply, Request, spoken

__all__ = ["Lane"]

_CONNECT_TIMEOUT: Final = 5.0


class Lane:
    """A node as one event loop uses it: one connection, made when it is needed."""

    def __init__(self, node: Node, timeout: float) -> None:
        self._node = node
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._connecting: asyncio.Task[Link | Exception] | None = None
        self._closed = False

    def ask(self, request: Request, until: float) -> Awaitable[Reply | Lost]:
        """Send `request`; return what will have its answer by the loop's time `until`."""
        link = self._link
        if link is not None and link.ready:
            return link.send(request, until)
        return self._ask_later(request, until)

    async def settle(
        self, answer: Reply | Lost, request: Request, until: float, *, again: bool
    ) -> Reply:
        """Return the reply that `answer` is, or say why it is none.

        With `again`, a request whose connection broke is sent once more, on a new one.

        Raises:
            StoreError: the node refused.
            StoreUnavailable: the node cannot be reached, or did not answer in time.
        """
        if isinstance(answer, Lost) and answer.broken and again:
            answer = await self._ask_later(request, until)
        if isinstance(answer, Lost):
            raise self._unavailable(answer.why) from answer.cause
        if answer.is_refusal:
            raise StoreError(f"memcached refused: {spoken(answer.line)}")
        return answer

    async def _ask_later(self, request: Request, until: float) -> Reply | Lost:
        return await (await self._ready_link(until)).send(request, until)

    async def _ready_link(self, until: float) -> Link:
        """Return a connection that takes more; wait until then for one."""
        try:
            async with asyncio.timeout_at(until):
                if self._link is None or self._link.lost is not None:
                    await self._connected()
                link = cast("Link", self._link)
                while not link.ready and link.lost is None:
                    await link.writable()
                return link  # if it was lost meanwhile, it says so itself
        except TimeoutError as exc:
            raise self._unavailable(f"no connection within {self._timeout:g} s") from exc

    async def _connected(self) -> None:
        # One attempt for all who wait, in a task of its own: it goes on when a caller gives up, so
        # that a network which is slow to connect is reached by a later call.
        if self._closed:
            raise self._unavailable("the store was closed")
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())
            self._connecting.add_done_callback(self._after_connecting)
        task = self._connecting
        await asyncio.wait([task])
        if task.cancelled():
            raise self._unavailable("the store was closed")
        found = task.result()
        if isinstance(found, Exception):
            why = str(found) or f"no connection within {_CONNECT_TIMEOUT:g} s"
            raise self._unavailable(why) from found

    async def _connect(self) -> Link | Exception:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                return await self._node.connect(lambda: Link(self._timeout))
        except Exception as exc:
            return exc

    def _after_connecting(self, task: asyncio.Task[Link | Exception]) -> None:
        self._connecting = None
        # Kept here: whoever waited for it may have given up.
        if not task.cancelled() and isinstance(found := task.result(), Link):
            self._link = found

    async def aclose(self) -> None:
        """Close the connection for good; calls that wait for it fail."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._link is not None:
            self._link.drop("the store was closed")
            await self._link.closed

    def abandon(self) -> None:
        """Drop the connection of an event loop that was closed."""
        if self._link is not None:
            self._link.abandon()

    def _unavailable(self, why: str) -> StoreUnavailable:
        return StoreUnavailable(f"memcached at {self._node.name} is not available: {why}")
