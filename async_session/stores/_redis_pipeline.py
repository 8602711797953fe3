"""One Redis connection that many requests share: each writes at once and takes its answer in turn.

    submit() --> waiting: [a, b, c] --> one write per turn of the loop --> server
                          [a, b, c] <-- reader, always on             <-- answers, in order

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
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ._redis_errors import is_a

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ["Command", "Pipeline"]

Command = tuple[str | bytes | int, ...]


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
        #: commands that go out with the next write
        self._outgoing: list[Command] = []
        #: the connection, once it is made
        self.connection: AbstractConnection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._writers: set[asyncio.Task[None]] = set()
        self._watch: asyncio.TimerHandle | None = None

    def submit(self, command: Command, *, until: float) -> asyncio.Future[Any]:
        """Send a command with this turn of the loop; return what will be its answer.

        The future raises what the driver does: its `ResponseError` for what the server refused,
        its `ConnectionError` or an `OSError` if the connection was lost; and `TimeoutError` if no
        answer came in time. Whoever awaits it may be cancelled at any time.

        Args:
            command: all of it.
            until: the loop's time by which it fails, and the connection with it. Not before that
                of an earlier command.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((future, until))
        self._outgoing.append(command)
        if len(self._outgoing) == 1:
            self._loop.call_soon(self._flush, context=self._context)
        if self._watch is None:
            self._watch = self._loop.call_at(until, self._check_oldest, context=self._context)
        return future

    async def aclose(self) -> None:
        """Close the connection; those who still wait get a `ConnectionError`, Python's own."""
        runner = self._runner
        self._drop(ConnectionError("the store was closed"))
        if runner is not None:
            await asyncio.wait([runner])

    # Writing

    def _flush(self) -> None:
        if self._runner is None:
            self._runner = self._loop.create_task(self._run(), context=self._context)
            # It always waits, also when the loop is closed without a word: that is no complaint.
            self._runner._log_destroy_pending = False  # type: ignore[attr-defined]
        elif self.connection is not None:
            self._write(self.connection)
        # else: it is connecting, and writes what has gathered when it is done

    def _write(self, connection: AbstractConnection) -> None:
        commands, self._outgoing = self._outgoing, []
        if commands:
            task = self._loop.create_task(self._send(connection, commands), context=self._context)
            self._writers.add(task)  # a loop keeps no task alive that nobody holds
            task.add_done_callback(self._writers.discard)

    async def _send(self, connection: AbstractConnection, commands: list[Command]) -> None:
        if connection is not self.connection:
            return  # dropped meanwhile; redis-py would connect it again
        try:
            packed = connection.pack_commands(commands)
            await connection.send_packed_command(packed, check_health=False)
        except Exception as error:
            if connection is self.connection:
                self._drop(error)

    # Reading

    async def _run(self) -> None:
        """Connect, then hand out answers until the connection breaks or the loop ends."""
        connection = self._make_connection()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            self.connection = connection
            self._write(connection)
            while True:
                await self._read_one(connection)
        except Exception as error:
            await self._ended(connection, error)
        except asyncio.CancelledError:
            await self._ended(connection, ConnectionError("the event loop has ended"))
            raise

    async def _ended(self, connection: AbstractConnection, error: Exception) -> None:
        if self._runner is asyncio.current_task():
            self._drop(error)
        await connection.disconnect(nowait=True)

    async def _read_one(self, connection: AbstractConnection) -> None:
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
            if self.connection is not None:
                self._drop(late)
                return
            # Connecting may take longer than one command may wait: nothing was sent for it yet.
            self._outgoing.pop(0)
            _fail(self._waiting.popleft()[0], late)
        if self._waiting:
            until = self._waiting[0][1]
            self._watch = self._loop.call_at(until, self._check_oldest, context=self._context)

    def _drop(self, error: Exception) -> None:
        """Fail everybody who waits, and let the next command connect anew."""
        runner, self._runner, self.connection = self._runner, None, None
        waiting, self._waiting = self._waiting, deque()
        self._outgoing = []
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if runner is not None and runner is not asyncio.current_task(self._loop):
            runner.cancel()
        for future, _ in waiting:
            _fail(future, error)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Let a waiter fail, with an exception of its own: a shared one collects tracebacks."""
    if not future.done():
        future.set_exception(type(error)(*error.args))
        future.exception()  # seen: a waiter that was cancelled just now will not look at it
