"""Carrying out a commit: guarded writes, tombstones, new ids, and what to do when one is refused.

Every write here depends on the version that the session was read with. A refusal says that
another request was there first; what it left decides what happens:

    found                  a plain write         a new id (regenerate / login)   an end
    a newer record         merge, write again    merge, write again              end that one
    missing, or ended      drop it               drop it / stands on its own     done
    replaced by a login    drop it               drop it / stands on its own     done
    moved to another id    drop it               drop it / stands on its own     end the successor

The tombstone on the old id is a new id's moment of truth: until it stands, the old id is the live
one and the new one was sent to nobody; from then on it is the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from async_session import merge
from async_session.codec import Codec
from async_session.errors import SessionConflict
from async_session.events import note
from async_session.policy import SessionPolicy
from async_session.record import CorruptRecord, Ended, Record, Tombstone, decode, version_of
from async_session.session import Intent, Origin, Session
from async_session.stores.base import Match, SessionStore
from async_session.tokens import new_id, store_key

__all__ = ["Committer"]

#: How long a tombstone stands: longer than a request that may still carry the old id takes.
_TOMBSTONE_TTL = 30
#: How often a refused write is tried again; the deadline usually comes first.
_TRIES = 1000
#: Header entries that a session has as attributes.
_KNOWN = frozenset(("owner", "authenticated_at", "lifetime"))

_Found = Record | Tombstone | None


class _Stored:
    """What `Committer._put` returns if the write was made."""


_STORED = _Stored()


@dataclass(frozen=True, slots=True, kw_only=True)
class Committer:
    """Writes sessions to a store, as one policy says. Knows nothing of cookies."""

    store: SessionStore
    policy: SessionPolicy
    codec: Codec
    clock: Callable[[], float]

    # What a session looks like in the store

    def _record(self, session: Session, payload: bytes, serializer: int) -> tuple[Record, bytes]:
        """Return a record of the session, and the bytes that hold it under a new version."""
        now = int(self.clock())
        session.created = session.created or now
        extras = {
            "owner": session._owner,
            "authenticated_at": session.authenticated_at,
            "lifetime": session._lifetime,
        }
        extras = {name: value for name, value in extras.items() if value is not None}
        unknown = {name: session._extras[name] for name in session._extras if name not in _KNOWN}
        record = Record(session.created, now, payload, serializer, unknown | extras)
        data = record.encode()
        return record._replace(version=version_of(data)), data

    def _ttl(self, session: Session, record: Record) -> int:
        lifetime = self.policy.idle if session._lifetime is None else session._lifetime
        left = self.policy.remaining(created=record.created, now=record.written, lifetime=lifetime)
        return self.policy.ttl(left, lifetime=lifetime)

    # One conditional write, and what stood in its way

    async def _put(
        self, key: str, data: bytes, *, ttl: int, match: Match | bytes
    ) -> _Found | _Stored:
        if await self.store.save(key, data, ttl=ttl, match=match):
            return _STORED
        found = await self.store.open(key)
        if found is not None and version_of(found) == version_of(data):
            return _STORED  # it had been made, and the answer was lost on the way
        return _decode(found)

    async def _create(self, session: Session, payload: bytes) -> tuple[str, Record]:
        """Store the session under an id of its own, which nobody knows yet."""
        session_id = new_id()
        record, data = self._record(session, payload, self.codec.id)
        found = await self._put(
            store_key(session_id), data, ttl=self._ttl(session, record), match=Match.ABSENT
        )
        if found is not _STORED:
            raise SessionConflict("a new session's id was taken", handle=store_key(session_id))
        return session_id, record

    def _adopt(self, session: Session, session_id: str, record: Record, payload: bytes) -> None:
        """Remember what is stored now, and what this session itself put into it."""
        origin = session._origin
        key = origin.key if origin and origin.id == session_id else store_key(session_id)
        session._origin = Origin(
            session_id, key, record.version, payload, record.serializer, record.written
        )
        session._extras = record.extras

    # What a commit can come down to

    async def create(self, session: Session, payload: bytes, past: Origin | None = None) -> bool:
        """Store a new session; end what another request made of the id it came with. True."""
        session_id, record = await self._create(session, payload)
        if past is not None:
            await self.end(session, past)
        self._adopt(session, session_id, record, payload)
        note(session, "created", session.handle, reason="login" if session._logged_in else "")
        return True

    async def refresh(self, session: Session, origin: Origin) -> bool:
        """Prolong a session as it is stored; return False if another request was there first."""
        record, data = self._record(session, origin.payload, origin.serializer)
        ttl = self._ttl(session, record)
        assert origin.version is not None
        if not await self.store.save(origin.key, data, ttl=ttl, match=origin.version):
            return False
        self._adopt(session, origin.id, record, origin.payload)
        return True

    async def update(self, session: Session, origin: Origin, payload: bytes) -> bool:
        """Write a loaded session; return False if it was ended meanwhile."""
        mine, match = payload, origin.version
        for _ in range(_TRIES):
            record, data = self._record(session, payload, self.codec.id)
            assert match is not None
            found = await self._put(origin.key, data, ttl=self._ttl(session, record), match=match)
            if found is _STORED:
                self._adopt(session, origin.id, record, mine)
                return True
            if not isinstance(found, Record):
                return self._dropped(session, origin, found)
            payload, match = self._merged(session, origin, found), found.version
        raise self._conflict(session, origin)

    async def end(self, session: Session, origin: Origin) -> Ended | None:
        """End a session wherever it has gone; return how it had ended before, if it had."""
        key: str | None = origin.key
        version, why = origin.version, None
        if origin.superseded:
            key, why = origin.successor, Ended.MOVED if origin.successor else Ended.REPLACED
        for _ in range(_TRIES):
            if key is None:
                return why
            found = await self._end_one(key, version)
            if found is _STORED:
                note(session, "destroyed", key, reason=_why_ended(session))
                return why
            if isinstance(found, Record):
                version = found.version
            else:
                why = found.why if isinstance(found, Tombstone) else Ended.ENDED
                key = found.successor if isinstance(found, Tombstone) else None
                version = None
        raise self._conflict(session, origin)

    async def _end_one(self, key: str, version: bytes | None) -> _Found | _Stored:
        if version is None:
            return _decode(await self.store.open(key))
        stone = Tombstone(Ended.ENDED).encode()
        return await self._put(key, stone, ttl=_TOMBSTONE_TTL, match=version)

    async def replace(self, session: Session, origin: Origin, payload: bytes, why: Ended) -> bool:
        """Give a loaded session a new id; return False if the old one was ended meanwhile."""
        session_id, record = await self._create(session, payload)
        key, match = store_key(session_id), origin.version
        stone = Tombstone(why, key if why is Ended.MOVED else None).encode()
        for _ in range(_TRIES):
            assert match is not None
            found = await self._put(origin.key, stone, ttl=_TOMBSTONE_TTL, match=match)
            if found is _STORED:
                break
            if isinstance(found, Record):
                merged, match = self._merged(session, origin, found), found.version
            elif why is Ended.REPLACED:
                merged = self.codec.encode(self._own(session, origin))
            else:
                await self.store.delete(key)
                return self._dropped(session, origin, found)
            newer, data = self._record(session, merged, self.codec.id)
            ttl = self._ttl(session, newer)
            taken = await self._put(key, data, ttl=ttl, match=record.version)
            if taken is not _STORED:
                return self._dropped(session, origin, taken)
            record = newer
            if isinstance(found, Tombstone):
                # Beside a regenerate: the client is left with one live id, the login's.
                await self.end(session, Origin("", "", superseded=True, successor=found.successor))
            if not isinstance(found, Record):
                break
        else:
            raise self._conflict(session, origin)
        self._adopt(session, session_id, record, payload)
        how = "login" if why is Ended.REPLACED else "regenerate"
        note(session, "regenerated", key, reason=how, previous=origin.key)
        return True

    # What becomes of the data

    def _merged(self, session: Session, origin: Origin, found: Record) -> bytes:
        """Return the payload that keeps what this request did and what `found` has of others."""
        mine = dict(dict.items(session))
        if self.policy.on_conflict == "raise":
            raise self._conflict(session, origin)
        note(session, "conflict", origin.key, reason=self.policy.on_conflict)
        if self.policy.on_conflict == "merge":
            mine = merge.three_way(
                self.codec.decode(origin.serializer, origin.payload),
                mine,
                self.codec.decode(found.serializer, found.payload),
                encode=self.codec.encode_value,
                resolvers=self.policy.merge,
                cleared=session._cleared,
                keep=frozenset(session._assigned) if session._logged_in else frozenset(),
            )
        if session._lifetime == session._extras.get("lifetime"):  # as it was read
            lifetime = found.extras.get("lifetime")
            session._lifetime = lifetime if isinstance(lifetime, int) else None
        session._extras = found.extras
        return self.codec.encode(mine)

    def _own(self, session: Session, origin: Origin) -> dict[object, object]:
        """Return what this request itself put into the session: a login keeps that, if no more."""
        base = self.codec.decode(origin.serializer, origin.payload)
        mine = dict(dict.items(session))
        changed = merge.changed_keys(base, mine, encode=self.codec.encode_value)
        return {key: mine[key] for key in mine if key in changed or key in session._assigned}

    def _dropped(self, session: Session, origin: Origin, found: _Found | _Stored) -> bool:
        why = found.why.name.lower() if isinstance(found, Tombstone) else "missing"
        note(session, "dropped", origin.key, reason=why)
        session._origin = Origin(origin.id, origin.key, superseded=True)
        return False

    def _conflict(self, session: Session, origin: Origin) -> SessionConflict:
        message = f"another request changed session {origin.key} at the same time"
        error = SessionConflict(message, handle=origin.key)
        note(session, "conflict", origin.key, reason="raise", error=error)
        return error


def _why_ended(session: Session) -> str:
    if session._intent is Intent.END:
        return "logout"
    if session._logged_in:
        return "login"
    return "regenerate" if session._intent is Intent.MOVE else "emptied"


def _decode(data: bytes | None) -> _Found:
    """Read what stands in the way of a write; what is not ours is as good as missing."""
    try:
        return None if data is None else decode(data)
    except CorruptRecord:
        return None
