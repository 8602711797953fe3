"""One Redis server whose connection is shared: the quick way for what needs no connection alone."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from ._redis_commands import with_script
from ._redis_drivers import Driver
from ._redis_errors import is_a
from ._redis_lanes import Primary, Request, should_repeat
from ._redis_pipeline import Pipeline

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

__all__ = ["Shared"]


class Shared(Primary):
    """A primary whose commands go over one connection, as many as there are requests.

    What waits for replicas has a connection of its own: nobody else shall wait with it.
    """

    def __init__(self, driver: Driver, pool: ConnectionPool) -> None:
        super().__init__(driver, pool)
        self._pipeline = Pipeline(pool.make_connection)

    def call(self, request: Request) -> Awaitable[object]:
        """Send a request; the pipeline keeps the time."""
        if request.replicas:
            return super().call(request)
        request.sent = True
        return self._pipeline.send(request.command, request.until)

    async def call_again(self, request: Request, error: Exception) -> object:
        """Send a request once more, where that is safe."""
        if request.replicas:
            raise error  # tried again already
        if is_a(error, "NoScriptError"):
            request.command = with_script(request.command)
        elif not should_repeat(error, request):
            raise error
        return await self._pipeline.send(request.command, request.until)

    async def aclose(self) -> None:
        """Close the connection, and the pool."""
        await self._pipeline.aclose()
        await super().aclose()

    def abandon(self) -> None:
        """Drop connections whose event loop was closed without closing its generators."""
        super().abandon()
        self._pipeline.abandon()
