"""One Redis connection that many requests share: each writes at once and takes its answer in turn.

    ask() --> unsent:  [a, b, c] --> writer, one write per turn of the loop --> server
              waiting: [a, b, c] <-- reader, always on            <-- answers, in order

Redis answers in the order of the commands, so the oldest waiter owns the next answer. That is the
whole protocol, and it makes a cancelled waiter harmless: its future is done, its answer is read
and thrown away. What goes wrong on the connection itself goes wrong for everybody who waits; the
next command connects anew. One timer watches the oldest waiter, instead of one for every command.

Only public methods of redis-py's `Connection` are used; valkey-py has the same.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ._redis_errors import is_a

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ["Command", "Pipeline", "packed"]

Command = tuple[str | bytes | int, ...]

# Bytes that an idle connection takes without making its writer wait.
_SMALL = 16_384


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
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        #: commands that go out with the next write: the last ones of those who wait
        self._unsent: list[bytes] = []
        #: the connection; it can be used once it is ready
        self.connection: AbstractConnection | None = None
        self._is_ready = False
        self._writer: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._watch: asyncio.TimerHandle | None = None

    async def ask(self, command: Command, *, until: float) -> Any:
        """Send a command, and return its answer. May be cancelled at any time.

        Args:
            command: all of it.
            until: the loop's time by which it fails, and the connection with it. Not before that
                of an earlier command.

        Raises:
            TimeoutError: no answer came in time.
            Exception: the driver's `ResponseError` for what the server refused, its
                `ConnectionError` or an `OSError` if the connection was lost.
        """
        connection = self.connection
        data = packed(command)
        # If nothing is under way the connection takes this at once, whoever is cancelled.
        at_once = self._is_ready and not self._waiting and len(data) < _SMALL
        future = self._loop.create_future()
        self._waiting.append((future, until))
        if self._watch is None:
            self._watch = self._loop.call_at(until, self._check_oldest, context=self._context)
        if at_once and connection is not None:
            try:
                await connection.send_packed_command([data], check_health=False)
            except Exception as error:
                await self._fail(connection, error)
        else:
            self._unsent.append(data)
            if self._writer is None:
                # It begins with the next turn of the loop: what is asked in this one goes along.
                self._writer = self._start(self._write())
        return await future

    async def aclose(self) -> None:
        """Close the connection; those who still wait get a `ConnectionError`, Python's own."""
        tasks = [task for task in (self._writer, self._reader) if task is not None]
        self._drop(ConnectionError("the store was closed"))
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work, context=self._context)
        # It may wait for ever, also when the loop is closed without a word: that is no complaint.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    # Writing

    async def _write(self) -> None:
        """Connect if need be, and send until nothing is left to send."""
        connection = self.connection
        if connection is None:
            connection = self.connection = self._make_connection()
        try:
            if not self._is_ready:
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no type
                self._is_ready = True
                self._reader = self._start(self._read(connection))
            while self._unsent:
                commands, self._unsent = self._unsent, []
                await connection.send_packed_command(commands, check_health=False)
            self._writer = None
        except Exception as error:
            await self._fail(connection, error)
        except asyncio.CancelledError:
            await self._fail(connection, ConnectionError("the event loop has ended"))
            raise

    # Reading

    async def _read(self, connection: AbstractConnection) -> None:
        """Hand out answers until the connection breaks or the loop ends."""
        try:
            while True:
                try:
                    answer = await connection.read_response(
                        disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                    )
                except Exception as refusal:
                    if not is_a(refusal, "ResponseError"):
                        raise
                    self._answer(refusal)  # for this one command only
                    if is_a(refusal, "ReadOnlyError"):
                        # It was the primary. The next connection finds the new one by its name.
                        raise ConnectionError("it is a replica now") from refusal
                else:
                    self._answer(answer)
        except Exception as error:
            await self._fail(connection, error)
        except asyncio.CancelledError:
            await self._fail(connection, ConnectionError("the event loop has ended"))
            raise

    def _answer(self, answer: object) -> None:
        if not self._waiting:
            raise ConnectionError("an answer that nobody asked for")
        future, _ = self._waiting.popleft()
        if future.done():
            return  # the waiter was cancelled
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    # Failing

    def _check_oldest(self) -> None:
        """Drop the connection if the oldest waiter is out of time; look again when it will be."""
        self._watch = None
        late = TimeoutError("no answer in time")
        while self._waiting and self._waiting[0][1] <= self._loop.time():
            if self._is_ready:
                self._drop(late)
                return
            # Connecting may take longer than one command may wait: nothing was sent for it yet.
            self._unsent.pop(0)
            _set_error(self._waiting.popleft()[0], late)
        if self._waiting:
            until = self._waiting[0][1]
            self._watch = self._loop.call_at(until, self._check_oldest, context=self._context)

    async def _fail(self, connection: AbstractConnection, error: Exception) -> None:
        """Drop a connection on which something went wrong, unless that was done already."""
        if connection is self.connection:
            self._drop(error)
        await connection.disconnect(nowait=True)

    def _drop(self, error: Exception) -> None:
        """Let everybody who waits fail, and the next command connect anew."""
        for task in (self._writer, self._reader):
            if task is not None and task is not asyncio.current_task(self._loop):
                task.cancel()
        self._writer = self._reader = self.connection = None
        self._is_ready = False
        waiting, self._waiting = self._waiting, deque()
        self._unsent = []
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for future, _ in waiting:
            _set_error(future, error)


def packed(command: Command) -> bytes:
    """Return a command as Redis reads it.

    The driver's own way to write it costs half as much as the rest of a read.
    """
    parts = [b"*%d\r\n" % len(command)]
    for item in command:
        data = item if type(item) is bytes else str(item).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def _set_error(future: asyncio.Future[Any], error: Exception) -> None:
    """Let a waiter fail, with an exception of its own: a shared one collects tracebacks."""
    if not future.done():
        future.set_exception(type(error)(*error.args))
        future.exception()  # seen: a waiter that was cancelled just now will not look at it
