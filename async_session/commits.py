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

from contextlib import AsyncExitStack
from dataclasses import dataclass

from async_session import merge
from async_session.errors import SessionConflict
from async_session.events import note
from async_session.guarded import STORED, Found, Stored
from async_session.record import Ended, Record, Tombstone
from async_session.session import Intent, Origin, Session
from async_session.stores.base import Match
from async_session.tokens import new_id, store_key
from async_session.updates import Updates
from async_session.writers import Writer, conflict, merged

__all__ = ["Committer"]

#: How long a tombstone stands: longer than a request that may still carry the old id takes.
_TOMBSTONE_TTL = 30
#: How often a refused write is tried again; the deadline usually comes first.
_TRIES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Committer(Updates):
    """Writes sessions to a store, as one policy says. Knows nothing of cookies."""

    async def create(self, session: Session, payload: bytes, past: Origin | None = None) -> bool:
        """Store a new session; end what another request made of the id it came with. True."""
        session_id, record = await self._create(session, payload)
        if past is not None:
            await self.end(session, past)
        self._adopt(session, session_id, record, payload)
        note(session, "created", session.handle, reason="login" if session._logged_in else "")
        return True

    async def _create(self, session: Session, payload: bytes) -> tuple[str, Record]:
        """Store the session under an id of its own, which nobody knows yet."""
        session_id = new_id()
        record, data = self._record(session, payload, self.codec.id)
        found = await self._put(
            store_key(session_id), data, ttl=self._ttl(session, record), match=Match.ABSENT
        )
        if found is not STORED:
            raise SessionConflict("a new session's id was taken", handle=store_key(session_id))
        return session_id, record

    async def refresh(self, session: Session, origin: Origin) -> bool:
        """Prolong a session as it is stored; return False if another request was there first."""
        stored = origin.payload if origin.stored is None else origin.stored
        record, data = self._record(session, stored, origin.serializer)
        ttl = self._ttl(session, record)
        assert origin.version is not None
        saving = self.store.save(origin.key, data, ttl=ttl, match=origin.version)
        if not await (saving if self.prompt else self.safely(saving)):
            return False
        self._adopt(session, origin.id, record, origin.payload)
        return True

    async def end(self, session: Session, origin: Origin) -> Ended | None:
        """End a session wherever it has gone; return how it had ended before, if it had."""
        key: str | None = origin.key
        version, why = origin.version, None
        if origin.superseded:
            key, why = origin.successor, Ended.MOVED if origin.successor else Ended.REPLACED
        for _ in range(_TRIES):
            if key is None:
                return why
            found = await self._end_one(session, key, version)
            if found is STORED:
                note(session, "destroyed", key, reason=_why_ended(session))
                return why
            why = found.why if isinstance(found, Tombstone) else Ended.ENDED
            key = found.successor if isinstance(found, Tombstone) else None
            version = None
        raise conflict(session, origin.key)

    async def _end_one(
        self, session: Session, key: str, version: bytes | None
    ) -> Tombstone | Stored | None:
        """End what is there under one key, however often it changes; return what had ended it."""
        stone = Tombstone(Ended.ENDED).encode()
        async with AsyncExitStack() as turn:
            for attempt in range(_TRIES):
                found: Found | Stored
                if version is None:
                    found = await self._find(key)
                else:
                    found = await self._bury(key, stone, match=version)
                if not isinstance(found, Record):
                    return found
                if attempt == 0 and not self.instant:  # no writer of ours is to be in the way again
                    await turn.enter_async_context(self.turns.first(key))
                version = found.version
        raise conflict(session, key)

    async def _bury(self, key: str, stone: bytes, *, match: bytes) -> Found | Stored:
        return await self._put(key, stone, ttl=_TOMBSTONE_TTL, match=match, idempotent=True)

    async def replace(self, session: Session, origin: Origin, payload: bytes, why: Ended) -> bool:
        """Give a loaded session a new id; return False if the old one was ended meanwhile."""
        writer = Writer(session, origin, payload)
        whole = payload if origin.stored is None else self._on_top(writer, writer.claim())
        session_id, record = await self._create(session, whole)
        key, match = store_key(session_id), origin.version
        stone = Tombstone(why, key if why is Ended.MOVED else None).encode()
        async with AsyncExitStack() as turn:
            for attempt in range(_TRIES):
                assert match is not None
                found = await self._bury(origin.key, stone, match=match)
                if found is STORED:
                    break
                if isinstance(found, Record):
                    if attempt == 0 and not self.instant:
                        await turn.enter_async_context(self.turns.first(origin.key))
                    whole, match = self._on_top(writer, found), found.version
                elif why is Ended.REPLACED:
                    whole = self.codec.encode(self._own(session, origin))
                else:
                    await self.store.delete(key)
                    return self._dropped(session, origin, found)
                newer, data = self._record(session, whole, self.codec.id)
                ttl = self._ttl(session, newer)
                taken = await self._put(key, data, ttl=ttl, match=record.version)
                if taken is not STORED:
                    return self._dropped(session, origin, taken)
                record = newer
                if isinstance(found, Tombstone):
                    # Beside a regenerate: the client is left with one live id, the login's.
                    await self.end(
                        session, Origin("", "", superseded=True, successor=found.successor)
                    )
                if not isinstance(found, Record):
                    break
            else:
                raise conflict(session, origin.key)
        self._adopt(session, session_id, record, payload)
        how = "login" if why is Ended.REPLACED else "regenerate"
        note(session, "regenerated", key, reason=how, previous=origin.key)
        return True

    # What becomes of the data

    def _on_top(self, writer: Writer, found: Record) -> bytes:
        """Return the payload that has what `found` has, and what this request did."""
        payload = merged([writer], found, policy=self.policy, codec=self.codec)
        if writer.error is not None:
            raise writer.error
        return payload

    def _own(self, session: Session, origin: Origin) -> dict[object, object]:
        """Return what this request itself put into the session: a login keeps that, if no more."""
        base = self.codec.decode(origin.serializer, origin.payload)
        mine = dict(dict.items(session))
        changed = merge.changed_keys(base, mine, encode=self.codec.encode_value)
        return {key: mine[key] for key in mine if key in changed or key in session._assigned}


def _why_ended(session: Session) -> str:
    if session._intent is Intent.END:
        return "logout"
    if session._logged_in:
        return "login"
    return "regenerate" if session._intent is Intent.MOVE else "emptied"
