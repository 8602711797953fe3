"""A connection to memcached that many calls share.

A call writes its request at once and waits for a plain future; replies come in the order of the
requests, and each goes to the call at the head of the line. So nothing that happens to a caller
can harm the connection: a cancelled call's reply is read and thrown away when its turn comes.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Final, NamedTuple, cast

from ._memcached_wire import OutOfStep, Replies, Reply, Request, check
from ._sockets import close_socket

__all__ = ["Link", "Lost"]

# A timer may fire this much before its time.
_TICK: Final = 0.001
# Bytes that are not gathered any longer: the transport shall see whether the server takes them.
_MUCH: Final = 65536


class Lost(NamedTuple):
    """What a call gets in place of a reply; an exception nobody takes would be complained about."""

    why: str
    cause: Exception
    #: Whether the connection broke: trying again on a new one may help.
    broken: bool


#: What was asked, who waits for the reply, and until what time of the loop.
_Waiting = tuple[Request, "asyncio.Future[Reply | Lost]", float]


class Link(asyncio.Protocol):
    """One connection. Whatever is wrong with it, it is dropped, and all who wait are told."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._line: deque[_Waiting] = deque()
        self._replies = Replies()
        self._unsent: list[bytes] = []
        self._unsent_size = 0
        #: When the server was last heard, and the timer that looks whether it still lives.
        self._heard = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._watch_due = math.inf
        self._resumed: asyncio.Future[None] | None = None
        #: Whether a request may be sent now.
        self.ready = False
        #: Why it cannot be used any more; None as long as it can.
        self.lost: Lost | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def send(self, request: Request, until: float) -> asyncio.Future[Reply | Lost]:
        """Send `request`; return what will have its reply by `until`, and never an exception."""
        future: asyncio.Future[Reply | Lost] = self._loop.create_future()
        if self.lost is not None:
            future.set_result(self.lost)
            return future
        is_idle = not self._line
        self._line.append((request, future, until))
        if until < self._watch_due:
            self._watch_at(until)
        if not (is_idle or self._unsent):
            # The requests of one turn of the loop go out in one piece.
            self._loop.call_soon(self._flush)
        self._unsent += request.parts
        self._unsent_size += request.size
        if is_idle or self._unsent_size > _MUCH:
            self._flush()
        return future

    async def writable(self) -> None:
        """Wait until the server has taken what was sent, or the connection is lost."""
        if self._resumed is None:
            self._resumed = self._loop.create_future()
        await asyncio.wait([self._resumed])

    def drop(self, why: str, cause: Exception | None = None) -> None:
        """Give the connection up; nothing that was not sent yet will be."""
        if self.lost is None:
            self.lost = Lost(why, cause or ConnectionError(why), broken=True)
            self.ready = False
            if self._timer is not None:
                self._timer.cancel()
            self._unsent.clear()
            while self._line:
                _settle(self._line.popleft()[1], self.lost)
            self._resume()
            if self._transport is not None:
                self._transport.abort()

    def abandon(self) -> None:
        """Close the socket of an event loop that was closed, which only the loop itself could."""
        transport, self._transport = self._transport, None
        close_socket(transport)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.ready = True

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            for reply in self._replies.feed(data):
                if not self._line:
                    raise OutOfStep("it spoke without being asked")
                request, future, _ = self._line[0]
                check(request, reply)
                self._line.popleft()
                if not future.done():  # as in `_settle`, for every request
                    future.set_result(reply)
        except OutOfStep as exc:
            self.drop(str(exc), exc)

    def eof_received(self) -> None:
        self.drop("it closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop(str(exc or "") or "the connection was lost", exc)
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self.ready = False

    def resume_writing(self) -> None:
        self.ready = self.lost is None
        self._resume()

    # What happens later.

    def _flush(self) -> None:
        if self.lost is None and self._transport is not None:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()
            self._unsent_size = 0

    def _watch_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._watch)
        self._watch_due = when

    def _watch(self) -> None:
        """Let calls end in time; drop a connection on which nothing moves."""
        self._timer, self._watch_due = None, math.inf
        if not self._line:
            return
        now = self._loop.time() + _TICK
        late = Lost(f"no answer within {self._timeout:g} s", TimeoutError(), broken=False)
        for _, future, until in self._line:
            if until <= now:
                _settle(future, late)
        silent_until = max(self._heard + self._timeout, self._line[0][2])
        if silent_until <= now:
            self.drop(late.why, late.cause)
            return
        later = (until for _, _, until in self._line if until > now)
        self._watch_at(min(later, default=silent_until))

    def _resume(self) -> None:
        if self._resumed is not None:
            self._resumed.set_result(None)
            self._resumed = None


def _settle(future: asyncio.Future[Reply | Lost], answer: Reply | Lost) -> None:
    # A call that was cancelled, or has ended, takes no answer any more.
    if not future.done():
        future.set_result(answer)
