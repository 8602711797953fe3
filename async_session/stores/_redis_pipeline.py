"""One Redis connection that many requests share: each writes at once and takes its answer in turn.

    send() --> unsent:  [a, b, c] --> one write per turn of the loop --> server
               waiting: [a, b, c] <-- answers, in order              <--

Redis answers in the order of the commands, so the oldest waiter owns the next answer. That is the
whole protocol, and it makes a cancelled waiter harmless: its future is done, its answer is read
and thrown away. What goes wrong on the connection itself goes wrong for everybody who waits; the
next command connects anew. One timer watches the oldest waiter, instead of one for every command.

The driver makes the connection (names, TLS, passwords, databases) and hands over its transport:
to take each answer through the driver costs three times as much as all the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from ._redis_drivers import take_over
from ._redis_errors import is_a
from ._sockets import close_socket

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ["CAN_SHARE", "Pipeline"]

# Not in an event loop, where an import would block; the driver itself can do without.
_hiredis: Any = import_module("hiredis") if find_spec("hiredis") else None
#: Whether answers can be read here.
CAN_SHARE: Final = _hiredis is not None

_NOTHING: Final = object()


class Pipeline:
    """Commands of one event loop over one connection, which is made when it is first needed.

    Args:
        make_connection: returns a connection that is not connected yet, with the client's
            settings and without a timeout of its own.
    """

    def __init__(self, make_connection: Callable[[], AbstractConnection]) -> None:
        self._make_connection = make_connection
        self._loop = asyncio.get_running_loop()
        # What works for everybody keeps nothing of the request that happened to start it.
        self._context = Context()
        #: who waits for an answer, the oldest first, and until when
        self.waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        #: commands that go out with the next write: the last ones of those who wait
        self._unsent: list[bytes] = []
        #: the connection, when it can be used
        self.link: Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._watch: asyncio.TimerHandle | None = None

    def send(self, command: bytes, until: float) -> asyncio.Future[Any]:
        """Send a command; return a future of its answer, which may be cancelled at any time.

        The command is sent nevertheless, and done before whatever is sent after it.

        Args:
            command: all of it.
            until: the loop's time by which it fails, and the connection with it. Not before that
                of an earlier command.

        Returns:
            The answer; or `TimeoutError`: none came in time; the driver's `ResponseError`: the
            server refused it; its `ConnectionError` or an `OSError`: the connection was lost.
        """
        future: asyncio.Future[Any] = asyncio.Future(loop=self._loop)
        is_idle = not self.waiting
        self.waiting.append((future, until))
        if self._watch is None:
            self._watch_at(until)
        link = self.link
        if is_idle and link is not None:
            link.transport.write(command)
            return future
        self._unsent.append(command)
        if len(self._unsent) == 1:
            # With the next turn of the loop: what is asked in this one goes along.
            if link is not None:
                self._loop.call_soon(self._flush, context=self._context)
            elif self._connecting is None:
                self._connecting = self._loop.create_task(self._connect(), context=self._context)
        return future

    async def aclose(self) -> None:
        """Close the connection; those who still wait get a `ConnectionError`, Python's own."""
        connecting, link = self._connecting, self.link
        self.drop(ConnectionError("the store was closed"))
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait([connecting])
        if link is not None:
            await link.closed

    def abandon(self) -> None:
        """Drop the connection of an event loop that was closed."""
        if self.link is not None:
            close_socket(self.link.transport)

    # Connecting and writing

    async def _connect(self) -> None:
        connection = self._make_connection()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no type
            self.link = Link(self, connection)
            self._flush()
        except Exception as error:
            self.drop(error)
        finally:
            self._connecting = None
            await connection.disconnect(nowait=True)

    def _flush(self) -> None:
        if self.link is not None:
            commands, self._unsent = self._unsent, []
            self.link.transport.write(b"".join(commands))

    # Failing

    def drop(self, error: Exception) -> None:
        """Let everybody who waits fail, and the next command connect anew."""
        link, self.link = self.link, None
        if link is not None:
            link.transport.abort()
        waiting = list(self.waiting)
        self.waiting.clear()
        self._unsent = []
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for future, _ in waiting:
            # An exception for each: a shared one collects tracebacks.
            _set_error(future, type(error)(*error.args))

    def _watch_at(self, when: float) -> None:
        self._watch = self._loop.call_at(when, self._check_oldest, context=self._context)

    def _check_oldest(self) -> None:
        """Drop the connection if the oldest waiter is out of time; look again when it will be."""
        self._watch = None
        late = TimeoutError("no answer in time")
        while self.waiting and self.waiting[0][1] <= self._loop.time():
            if self.link is not None:
                self.drop(late)
                return
            # Connecting may take longer than one command may wait: nothing was sent for it yet.
            self._unsent.pop(0)
            _set_error(self.waiting.popleft()[0], late)
        if self.waiting:
            self._watch_at(self.waiting[0][1])


class Link(asyncio.Protocol):
    """A connection that was made, and hands out what it answers."""

    def __init__(self, pipeline: Pipeline, connection: AbstractConnection) -> None:
        self._pipeline = pipeline
        self._waiting = pipeline.waiting
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport, self._holder, refusal = take_over(connection, self)
        self._reader = _hiredis.Reader(replyError=refusal, notEnoughData=_NOTHING)

    def data_received(self, data: bytes) -> None:
        waiting, reader = self._waiting, self._reader
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not _NOTHING:
                if not waiting:
                    raise ConnectionError("an answer that nobody asked for")
                future = waiting.popleft()[0]
                if isinstance(answer, Exception):
                    _set_error(future, answer)  # for this one command only
                    if is_a(answer, "ReadOnlyError"):
                        # It was the primary. The next connection finds the new one by its name.
                        raise ConnectionError("it is a replica now")
                elif not future.done():  # else the waiter was cancelled
                    future.set_result(answer)
        except Exception as error:
            self._lost(error)

    def eof_received(self) -> None:
        self._lost(ConnectionError("Redis closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc or ConnectionError("the connection was lost"))
        self.closed.set_result(None)

    def _lost(self, error: Exception) -> None:
        if self._pipeline.link is self:
            self._pipeline.drop(error)


def _set_error(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen: a waiter that was cancelled just now will not look at it
