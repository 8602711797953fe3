"""One Redis server whose connection is shared: the quick way for what needs no connection alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._redis_drivers import Driver
from ._redis_errors import is_a
from ._redis_lanes import SCRIPT, Primary, Request, abandon, should_repeat
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

    async def call(self, request: Request) -> object:
        """Send a request, and once more where that is safe; the pipeline keeps the time."""
        if request.replicas:
            return await super().call(request)
        request.sent = True
        try:
            return await self._pipeline.ask(request.command, until=request.until)
        except Exception as exc:
            if is_a(exc, "NoScriptError"):
                command = ("EVAL", SCRIPT, *request.command[2:])
            elif should_repeat(exc, request):
                command = request.command
            else:
                raise
        return await self._pipeline.ask(command, until=request.until)

    async def aclose(self) -> None:
        """Close the connection, and the pool."""
        await self._pipeline.aclose()
        await super().aclose()

    def abandon(self) -> None:
        """Drop connections whose event loop was closed without closing its generators."""
        super().abandon()
        connection = self._pipeline.connection
        if connection is not None:
            abandon(connection)
