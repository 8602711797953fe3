"""What a DynamoDB store uses on one event loop: a client, and the work that makes it ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from aiobotocore.client import AioBaseClient

from ..errors import StoreUnavailable
from ._dynamodb_client import abandon
from ._dynamodb_errors import translated

__all__ = ["Lane"]

Ready = asyncio.Task[AioBaseClient]


class Lane:
    """A client on one event loop, made ready by a task of its own.

    Making a client, finding credentials and creating a table may take longer than a call may. So
    a caller waits as long as it can; the work goes on, and later callers find it done.

    Args:
        client: the client, or what makes it and closes it again.
        prepare: called with the client before it is used.
    """

    def __init__(
        self,
        client: AioBaseClient | Callable[[], AsyncGenerator[AioBaseClient]],
        prepare: Callable[[AioBaseClient], Awaitable[None]],
    ) -> None:
        self._make = None if isinstance(client, AioBaseClient) else client
        self._client = client if isinstance(client, AioBaseClient) else None
        self._prepare = prepare
        self._guard: AsyncGenerator[AioBaseClient] | None = None
        self._ready: Ready | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a call that takes too long has not waited for the preparations."""
        return self._ready is not None and self._ready.done()

    def ready(self, *, instead_of: Ready | None = None) -> Ready:
        """Return the task that makes the client ready, for `client`.

        With `instead_of`, what that one did has to be done again.
        """
        task = self._ready
        if task is None or task is instead_of or _is_worth_another_try(task):
            task = self._ready = asyncio.ensure_future(self._make_ready())
            task.add_done_callback(_see_error)
        return task

    async def client(self, ready: Ready) -> AioBaseClient:
        """Wait for the client. A caller that is cancelled does not stop the work."""
        if not ready.done():
            await asyncio.wait([ready])
        if ready.cancelled():
            raise StoreUnavailable("the store was closed")
        if ready.exception() is not None and self._ready is ready:
            self._ready = None  # it was told: the next caller begins anew
        return ready.result()

    async def close(self) -> None:
        """Close the client if it was made here."""
        if self._ready is not None and not self._ready.done():
            self._ready.cancel()
            await asyncio.wait([self._ready])
        if self._guard is not None:
            await self._guard.aclose()

    def abandon(self) -> None:
        """Drop the client: its loop was closed. If the loop's runner closed it, nothing is left."""
        if self._make is not None and self._client is not None:
            abandon(self._client)

    async def _make_ready(self) -> AioBaseClient:
        if self._client is None:
            assert self._make is not None
            self._guard = self._make()
            self._client = await anext(self._guard)
        await self._prepare(self._client)
        return self._client


def _see_error(task: Ready) -> None:
    # Everybody may have given up before it failed. The next caller is told.
    if not task.cancelled():
        task.exception()


def _is_worth_another_try(task: Ready) -> bool:
    """Tell whether `task` failed, while nobody waited, in a way that may have passed since."""
    if not task.done() or task.cancelled():
        return task.done()
    error = task.exception()
    if error is None:
        return False
    return not isinstance(error, Exception) or isinstance(
        translated(error, table="", owned=True), StoreUnavailable
    )
