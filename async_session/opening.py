"""Opening: from a cookie value to a session, whatever the client or the store sent.

cookie -> signature and format (bad: no store call) -> key -> store.open -> record -> alive?
"""

from __future__ import annotations

from typing import TypeVar

from async_session._aio import deadline
from async_session._log import log
from async_session.codec import Codec
from async_session.errors import SerializationError, StoreError, StoreUnavailable
from async_session.outage import unavailable_session
from async_session.policy import SessionPolicy
from async_session.record import CorruptRecord, Ended, Record, Tombstone, decode
from async_session.session import Keeper, Origin, Session
from async_session.stores.base import SessionStore
from async_session.tokens import CookieSigner, store_key

__all__ = ["Opener", "too_slow"]

T = TypeVar("T")


class Opener:
    """Reads sessions from a store, as one policy says, for one keeper."""

    def __init__(
        self,
        keeper: Keeper,
        store: SessionStore,
        signer: CookieSigner,
        codec: Codec,
        *,
        policy: SessionPolicy,
    ) -> None:
        self._keeper = keeper
        self._store = store
        self._signer = signer
        self._codec = codec
        self._policy = policy
        # A store that ends its calls in time by itself needs no second watch.
        own: float | None = getattr(store, "deadline", None)
        self._timeout = None if own is not None and own <= policy.timeout else policy.timeout

    async def open(self, cookie: str | None) -> Session:
        """Return the session of a request. Never raises.

        Args:
            cookie: the value of the session cookie, or None if the client sent none.
        """
        session_id = None if cookie is None else self._signer.verify(cookie)
        if session_id is None:
            return self._new()
        key = store_key(session_id)
        try:
            data = await self._read(key)
        except StoreError as error:
            log.warning("session %s cannot be read: %s", key, error)
            return self._unavailable(error)
        return self._new() if data is None else self._load(session_id, key, data)

    async def _read(self, key: str) -> bytes | None:
        if self._timeout is None:
            return await self._store.open(key)
        try:
            async with deadline(self._timeout):
                return await self._store.open(key)
        except TimeoutError as error:
            raise too_slow(self._timeout) from error

    def _new(self) -> Session:
        session = Session.__new__(Session)
        session._keeper = self._keeper
        return session

    def _unavailable(self, error: StoreError) -> Session:
        session = unavailable_session(error, readable=self._policy.on_store_error == "anonymous")
        session._keeper = self._keeper
        return session

    def _load(self, session_id: str, key: str, data: bytes) -> Session:
        try:
            item = decode(data)
            if isinstance(item, Record):
                return self._fill(session_id, key, item)
        except (CorruptRecord, SerializationError) as error:
            log.warning("session %s cannot be used, a new one is started: %s", key, error)
            return self._new()
        return self._superseded(session_id, key, item)

    def _superseded(self, session_id: str, key: str, stone: Tombstone) -> Session:
        session = self._new()
        if stone.why is not Ended.ENDED:
            session._origin = Origin(session_id, key, superseded=True, successor=stone.successor)
        return session

    def _fill(self, session_id: str, key: str, record: Record) -> Session:
        data = self._codec.decode(record.serializer, record.payload)
        lifetime = record.extras.get("lifetime") if record.extras else None
        own = lifetime if isinstance(lifetime, int) else None
        sliding = self._policy.refresh_each_request and bool(
            data.get("_permanent", self._keeper.permanent)
        )
        if not self._policy.is_alive(
            record,
            now=int(self._keeper.clock()),
            lifetime=self._keeper.lifetime if own is None else own,
            sliding=sliding,
        ):
            return self._new()
        session = self._new()
        dict.update(session, data)
        session._lifetime = own
        session.created = record.created
        session._origin = Origin(
            session_id, key, record.version, record.payload, record.serializer, record.written
        )
        if record.extras:
            session._extras = record.extras
            session._owner = _typed(record.extras.get("owner"), str)
            session.authenticated_at = _typed(record.extras.get("authenticated_at"), int)
        return session


def too_slow(seconds: float) -> StoreUnavailable:
    """Return the error for a store that did not answer in time."""
    return StoreUnavailable(f"the session store did not answer within {seconds:g} s")


def _typed(value: object, kind: type[T]) -> T | None:
    return value if isinstance(value, kind) else None
