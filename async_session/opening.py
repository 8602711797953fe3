"""Opening: from a cookie value to a session, whatever the client or the store sent.

cookie -> signature and format (bad: no store call) -> key -> store.open -> record -> alive?
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar, cast

from async_session._shared_timer import Deadlines
from async_session.codec import Codec
from async_session.cookies import cookie_value
from async_session.errors import SerializationError, StoreError
from async_session.events import EventName, Listener, as_listeners, log_event, note, tell
from async_session.outage import too_slow, unavailable_session
from async_session.plan import NOTHING, VARY, CookieAction
from async_session.policy import SessionPolicy
from async_session.record import CorruptRecord, Ended, Record, Tombstone, decode
from async_session.session import Intent, Origin, Session
from async_session.stores.base import SessionStore
from async_session.tokens import CookieSigner, Ticket

__all__ = ["Opener"]

T = TypeVar("T")

_KEEP = Intent.KEEP  # an enum's member is slow to look up, and this is asked for every request


class Opener(ABC):
    """The half of a `SessionManager` that reads."""

    def __init__(
        self,
        store: SessionStore,
        signer: CookieSigner,
        codec: Codec,
        *,
        policy: SessionPolicy,
        clock: Callable[[], float],
        on_event: Listener | Iterable[Listener] = (),
    ) -> None:
        self.store = store
        self.policy = policy
        self.clock = clock
        self.permanent = policy.permanent
        self.lifetime = policy.idle
        listeners = as_listeners(on_event)
        self._listeners = (log_event, *listeners)
        self.has_listeners = bool(listeners)
        self._signer = signer
        self._known = signer.known
        self._codec = codec
        self._loads = codec.loads
        self._deadlines = Deadlines(policy.timeout)
        # A store that ends its calls in time by itself needs no second watch.
        own: float | None = getattr(store, "deadline", None)
        in_time = own is not None and own <= policy.timeout
        self._read = store.open if in_time else self._read_in_time

    async def open(
        self, cookie: str | bytes | None, *, client: Sequence[object] | None = None
    ) -> Session:
        """Return the session of a request. Never raises; an outage is a state of the session.

        Args:
            cookie: the value of the session cookie; as bytes, the way it stands in the header
                (`find_cookie`); or None if the client sent none.
            client: where the request came from, for events: (host, port), as in an ASGI scope.
        """
        if cookie is None:
            return self.new(client=client)
        known, loads = self._known, self._loads
        ticket = (
            known[cookie]
            if isinstance(cookie, bytes) and cookie in known
            else self._signer.verify(_text(cookie))
        )
        if ticket is None:
            fault = self._signer.fault(_text(cookie))
            return await self._told(self.new(client=client), "rejected", None, reason=fault)
        try:
            data = await self._read(ticket.key)
        except StoreError as error:
            down = self._unavailable(error, client)
            return await self._told(down, "unavailable", ticket.key, reason="open", error=error)
        if data is None:
            new = self.new(client=client)
            return await self._told(new, "rejected", ticket.key, reason="unknown")
        try:
            item = decode(data)
            if type(item) is not Record:
                return await self._superseded(ticket, cast("Tombstone", item), client)
            created, written, payload, serializer, extras, version = item
            if serializer not in loads:
                raise CorruptRecord(f"it was written by serializer {serializer}, unknown here")
            content = loads[serializer](payload)
        except (CorruptRecord, SerializationError) as error:
            return await self._told(self.new(client=client), "corrupt", ticket.key, error=error)
        policy, lifetime = self.policy, self.lifetime
        if extras:
            own = _typed(extras.get("lifetime"), int)
            lifetime = lifetime if own is None else own
        now = self.clock()
        # Nearly always it is clear; where it is not, the policy has more to say.
        if not (created <= written <= now <= written + lifetime and policy.absolute is None):
            sliding = policy.refresh_each_request and content.get("_permanent", self.permanent)
            if not policy.is_alive(created, written, now, lifetime, bool(sliding)):
                return await self._told(self.new(client=client), "expired", ticket.key)
        session = Session.__new__(Session)
        dict.update(session, content)
        session._keeper = self
        session._client = client
        # As `Origin(...)`, without a call of Python's: this is the path of every request.
        session._origin = tuple.__new__(
            Origin, (*ticket, version, payload, serializer, written, False, None, None)
        )
        session.created = created
        if extras:
            _restore(session, extras)
        if self.has_listeners:
            await self._told(session, "loaded", ticket.key)
        return session

    def action_of_a_read(self, session: Session) -> CookieAction | None:
        """Return what `commit` would, if it has nothing to do: most requests read at most."""
        if (
            session.modified
            or session._handed_out
            or session._dirty
            or session._intent is not _KEEP
            or session.unavailable
            or (self.policy.refresh_each_request and self._may_be_due(session))
        ):
            return None
        session._answered = True
        return VARY if session.accessed else NOTHING

    def _may_be_due(self, session: Session) -> bool:
        """Tell whether a session that was not changed may have to be refreshed."""
        if not dict.get(session, "_permanent", self.permanent):
            return False
        origin = session._origin
        return origin is None or self.policy.refresh_due(
            written=origin.written, now=int(self.clock())
        )

    @abstractmethod
    async def save(self, session: Session, /) -> None:
        """Store a session now."""

    async def _read_in_time(self, key: str) -> bytes | None:
        try:
            with self._deadlines.start():
                return await self.store.open(key)
        except TimeoutError as error:
            raise too_slow(self.policy.timeout) from error

    def new(self, *, client: Sequence[object] | None = None) -> Session:
        """Return the session of a request that sent no cookie. Argument as for `open`."""
        session = Session.__new__(Session)
        session._keeper = self
        if client is not None:
            session._client = client
        return session

    def _unavailable(self, error: StoreError, client: Sequence[object] | None) -> Session:
        session = unavailable_session(error, readable=self.policy.on_store_error == "anonymous")
        session._keeper = self
        session._client = client
        return session

    async def _superseded(
        self, ticket: Ticket, stone: Tombstone, client: Sequence[object] | None
    ) -> Session:
        session = self.new(client=client)
        if stone.why is not Ended.ENDED:
            session._origin = Origin(*ticket, superseded=True, successor=stone.successor)
        return await self._told(session, "rejected", ticket.key, reason=stone.why.name.lower())

    async def _told(
        self,
        session: Session,
        name: EventName,
        handle: str | None,
        *,
        reason: str = "",
        error: Exception | None = None,
    ) -> Session:
        note(session, name, handle, reason=reason, error=error)
        await self._tell(session)
        return session

    async def _tell(self, session: Session) -> None:
        """Tell what was noted of a session."""
        events, session._events = session._events, ()
        await tell(self._listeners, events)


def _text(cookie: str | bytes) -> str:
    return cookie if isinstance(cookie, str) else cookie_value(cookie)


def _restore(session: Session, extras: Mapping[str, object]) -> None:
    """Give a session what stands in its record's header."""
    session._extras = extras
    session._lifetime = _typed(extras.get("lifetime"), int)
    session._owner = _typed(extras.get("owner"), str)
    session.authenticated_at = _typed(extras.get("authenticated_at"), int)


def _typed(value: object, kind: type[T]) -> T | None:
    return value if isinstance(value, kind) else None
