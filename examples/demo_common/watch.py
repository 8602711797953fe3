"""Who asked for what, and what that did to the store: the demo's flight recorder.

`WatchedStore` stands in front of the store and notes each call for the request that made it;
`Watch` stands in front of the app and says which request that is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from async_session import Match
from async_session.cookies import cookie_pattern, find_cookie
from async_session.record import CorruptRecord, Ended, Tombstone, decode
from async_session.testing import RecordingStore
from async_session.tokens import store_key

from .settings import COOKIE

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# Each framework has types of its own for the three arguments.
App = Callable[[Any, Any, Any], Awaitable[None]]
Watched = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]

#: What a call came to, in words.
OUTCOMES = {
    "found": "the record is there",
    "missing": "there is no such record",
    "tombstone": "a tombstone: this session has been ended",
    "created": "a new record, under an id just drawn",
    "changed": "written, on condition that nobody else wrote since",
    "ended": "a tombstone takes the record's place",
    "replaced": "a tombstone on the old id: the new one counts",
    "refused": "refused: somebody else wrote since",
    "deleted": "removed",
    "failed": "the store could not do it",
}


@dataclass(frozen=True)
class Call:
    """One call of the store."""

    verb: str
    key: str
    outcome: str

    @property
    def words(self) -> str:
        return OUTCOMES[self.outcome]


@dataclass
class Visit:
    """One request, and what it did to the store."""

    method: str
    path: str
    sent_cookie: bool
    at: float = field(default_factory=time.time)
    calls: list[Call] = field(default_factory=list)
    status: int | None = None
    #: "set" or "deleted", if the response said something about the cookie
    cookie: str | None = None

    @property
    def sentence(self) -> str:
        """What the calls come to."""
        outcomes = [call.outcome for call in self.calls]
        if not outcomes and self.sent_cookie:
            return "No store call: the cookie is not signed by us, and that shows without asking."
        return _SENTENCES.get(tuple(outcomes)) or _other_sentence(outcomes)


_SENTENCES: dict[tuple[str, ...], str] = {
    (): "No store call: there was no cookie, and nothing to remember.",
    ("found",): "One read. Nothing was changed, so nothing is written.",
    ("missing",): "One read, of a record that is not there: the visitor is anonymous.",
    ("tombstone",): "One read, of a tombstone: an ended session stays ended.",
    ("created",): "One write. There was no session, so there was nothing to read.",
    ("found", "changed"): "One read and one guarded write: with fewer, an update could be lost.",
    ("found", "ended"): "Signed out: a tombstone keeps late requests from bringing it back.",
    ("found", "created", "replaced"): "A new id for whoever signs in; the old one is dead.",
}


def _other_sentence(outcomes: list[str]) -> str:
    if "failed" in outcomes:
        return "The store could not answer. Nobody is told that something was saved."
    if "refused" in outcomes:
        return "Two requests met. The later one read again, merged, and both were kept."
    return "More than usual: look at the calls."


_current: ContextVar[Visit | None] = ContextVar("visit", default=None)


class WatchedStore(RecordingStore):
    """Notes each call, and what came of it, for the request that made it.

    `RecordingStore` is made for tests, where one list of calls is all one wants. A server has many
    requests under way at once, so a context variable tells them apart here.
    """

    async def open(self, key: str, /) -> bytes | None:
        outcome = "failed"
        try:
            data = await super().open(key)
            outcome = "missing" if data is None else _kind(data, record="found")
        finally:
            self._note("open", key, "tombstone" if outcome in ("ended", "replaced") else outcome)
        return data

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        outcome = "failed"
        try:
            saved = await super().save(key, data, ttl=ttl, match=match)
            fresh = "created" if match is Match.ABSENT else "changed"
            outcome = _kind(data, record=fresh) if saved else "refused"
        finally:
            self._note("save", key, outcome)
        return saved

    async def delete(self, key: str, /) -> None:
        outcome = "failed"
        try:
            await super().delete(key)
            outcome = "deleted"
        finally:
            self._note("delete", key, outcome)

    def _note(self, verb: str, key: str, outcome: str) -> None:
        self.calls.clear()  # a test would read them; here they would only pile up
        visit = _current.get()
        if visit is not None:
            visit.calls.append(Call(verb, key, outcome))


def _kind(data: bytes, *, record: str) -> str:
    try:
        item = decode(data)
    except CorruptRecord:
        return record
    if isinstance(item, Tombstone):
        return "ended" if item.why is Ended.ENDED else "replaced"
    return record


class Watch:
    """ASGI middleware that remembers the latest requests, whoever made them."""

    def __init__(self) -> None:
        self._visits: deque[Visit] = deque(maxlen=11)
        #: the attributes of the cookie last sent for a session, by the session's handle
        self._attributes: dict[str, str] = {}

    def around(self, app: App) -> Watched:
        """Return `app` with the recorder in front of it."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            cookie = find_cookie(scope["headers"], cookie_pattern(COOKIE))
            visit = Visit(scope["method"], scope["path"], cookie is not None)
            self._visits.append(visit)

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._answered(visit, message)
                await send(message)

            token = _current.set(visit)
            try:
                await app(scope, receive, sending)
            finally:
                _current.reset(token)

        return watched

    def now(self) -> Visit | None:
        """Return the request under way."""
        return _current.get()

    def before(self) -> list[Visit]:
        """Return the ten requests before the one under way, the latest first."""
        now = self.now()
        return [visit for visit in reversed(self._visits) if visit is not now][:10]

    def attributes(self, handle: str) -> str | None:
        """Return the attributes that a session's cookie was last sent with."""
        return self._attributes.get(handle)

    def _answered(self, visit: Visit, message: Message) -> None:
        visit.status = message["status"]
        for name, value in message.get("headers", ()):
            if name.lower() == b"set-cookie" and value.startswith(COOKIE.encode() + b"="):
                self._cookie_sent(visit, value.decode("latin-1"))

    def _cookie_sent(self, visit: Visit, line: str) -> None:
        pair, _, attributes = line.partition("; ")
        value = pair.removeprefix(f"{COOKIE}=")
        visit.cookie = "set" if value else "deleted"
        if value:
            # Only the attributes are kept: whoever has a whole cookie is its user.
            self._attributes[store_key(value.partition(".")[0])] = attributes
            while len(self._attributes) > 100:
                del self._attributes[next(iter(self._attributes))]
