"""One conditional write: a session as a record, saved only on top of what it is based on."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from async_session._aio import deadline, run_to_completion
from async_session._shared_timer import Deadlines
from async_session.codec import Codec
from async_session.errors import StoreError, StoreUnavailable
from async_session.events import note
from async_session.outage import too_slow
from async_session.policy import SessionPolicy
from async_session.record import CorruptRecord, Record, Tombstone, decode, new_record, version_of
from async_session.session import Origin, Session
from async_session.stores.base import Match, SessionStore
from async_session.tokens import store_key

__all__ = ["STORED", "Found", "GuardedWrites", "Stored", "came_after"]

T = TypeVar("T")

#: Header entries that a session has as attributes, or that each write decides anew.
_KNOWN = frozenset(("owner", "authenticated_at", "lifetime", "after"))
#: How many writes a merged record names that it came after.
_REMEMBERED = 8

Found = Record | Tombstone | None


class Stored:
    """What `_put` returns if the write was made."""


STORED = Stored()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedWrites:
    """What every write of a session has in common."""

    store: SessionStore
    policy: SessionPolicy
    codec: Codec
    clock: Callable[[], float]

    #: whether the store never waits: its deadline is 0. Nothing can interrupt its calls
    instant: bool = field(init=False)
    #: whether one call of the store needs no care: it ends in time, and goes on for the cancelled
    prompt: bool = field(init=False)
    _deadlines: Deadlines = field(init=False)

    def __post_init__(self) -> None:
        own: float | None = getattr(self.store, "deadline", None)
        in_time = own is not None and own <= self.policy.timeout
        in_order = own == 0 or getattr(self.store, "in_order", False) is True
        object.__setattr__(self, "instant", own == 0)
        object.__setattr__(self, "prompt", in_time and in_order)
        object.__setattr__(self, "_deadlines", Deadlines(self.policy.timeout))

    # Whole, and in time

    async def safely(self, work: Coroutine[object, object, T], *, began: float | None = None) -> T:
        """Carry out `work` whole, whoever is cancelled meanwhile, within the policy's timeout.

        Args:
            work: what is to be done.
            began: since when the time counts, by `time.monotonic`; None for now.

        Raises:
            StoreUnavailable: it was not done in time.
        """
        if self.instant:  # nothing can interrupt it
            return await work
        return await run_to_completion(self._in_time(work, began))

    async def _in_time(self, work: Coroutine[object, object, T], began: float | None) -> T:
        try:
            if began is None:
                with self._deadlines.start():
                    return await work
            async with deadline(self.policy.timeout - (time.monotonic() - began)):
                return await work
        except TimeoutError as error:
            raise too_slow(self.policy.timeout) from error

    # What a session looks like in the store

    def _record(
        self, session: Session, payload: bytes, serializer: int, *, after: Sequence[str] = ()
    ) -> tuple[Record, bytes]:
        """Return a record of the session, and the bytes that hold it under a new version."""
        now = int(self.clock())
        session.created = session.created or now
        extras = session._extras
        if extras or session._owner is not None or session._lifetime is not None:
            extras = self._header(session)
        if after:
            extras = {**extras, "after": after}
        return new_record(session.created, now, payload, serializer, extras)

    def _header(self, session: Session) -> Mapping[str, object]:
        own = {
            "owner": session._owner,
            "authenticated_at": session.authenticated_at,
            "lifetime": session._lifetime,
        }
        kept = {name: session._extras[name] for name in session._extras if name not in _KNOWN}
        return kept | {name: value for name, value in own.items() if value is not None}

    def _ttl(self, session: Session, record: Record) -> int:
        lifetime, policy = session._lifetime, self.policy
        if lifetime is None:
            if policy.absolute is None:
                return policy.usual_ttl
            lifetime = policy.idle
        left = policy.remaining(created=record.created, now=record.written, lifetime=lifetime)
        return policy.ttl(left, lifetime=lifetime)

    # The write, and what stood in its way

    async def _put(
        self, key: str, data: bytes, *, ttl: int, match: Match | bytes, idempotent: bool = False
    ) -> Found | Stored:
        """Save `data` if `match` holds; return `STORED`, or what is there instead.

        A write whose answer was lost is looked for: the version tells. Where it is found, what is
        there is written over itself: only a write that is acknowledged outlives a failover.

        Args:
            key: where.
            data: a record or a tombstone.
            ttl: seconds.
            match: the precondition.
            idempotent: writing it on top of whatever is there, once more, does no harm.

        Raises:
            StoreUnavailable: no answer, and the write was not made; or others have written since,
                and nobody can tell whether they did so on top of it.
        """
        lost: StoreUnavailable | None = None
        try:
            if await self.store.save(key, data, ttl=ttl, match=match):
                return STORED
        except StoreUnavailable as error:
            lost = error
        return await self._look(key, data, ttl=ttl, match=match, idempotent=idempotent, lost=lost)

    async def _look(
        self,
        key: str,
        data: bytes,
        *,
        ttl: int,
        match: Match | bytes,
        idempotent: bool = False,
        lost: StoreUnavailable | None,
    ) -> Found | Stored:
        """Do the rest of `_put`: a save was refused, or its answer was `lost`."""
        version = version_of(data)
        while True:
            found = await self._read_again(key, lost)
            item = _decode(found)
            # Where others have merged, their record names the writes before it, in a row.
            before = _named(item) if isinstance(item, Record) else []
            if found is None or not (version_of(found) == version or _name(version) in before):
                break
            if await self._write_over(key, found, item, ttl=ttl, lost=lost):
                return STORED
        if lost is None:
            return item
        if match == (Match.ABSENT if found is None else version_of(found)):
            raise lost
        if isinstance(item, Record):
            refused = isinstance(match, bytes) and _name(match) in before
            # A store that never waits lets nobody write between the save and this.
            if not (refused or idempotent or self.instant):
                raise lost
        return item

    async def _write_over(
        self, key: str, found: bytes, item: Found, *, ttl: int, lost: StoreUnavailable | None
    ) -> bool:
        """Write what is there over itself; return whether it was still there."""
        lifetime = item.extras.get("lifetime") if isinstance(item, Record) else None
        if isinstance(lifetime, int):  # perhaps another one than that of `ttl`
            ttl = max(ttl, self.policy.ttl(lifetime, lifetime=lifetime))
        try:
            return await self.store.save(key, found, ttl=ttl, match=version_of(found))
        except StoreUnavailable:
            if lost is None:
                raise
            raise lost from lost.__cause__

    async def _find(self, key: str) -> Found:
        return _decode(await self.store.open(key))

    async def _read_again(self, key: str, lost: StoreUnavailable | None) -> bytes | None:
        try:
            return await self.store.open(key)
        except StoreError:
            if lost is None:
                raise
            raise lost from lost.__cause__

    def _adopt(self, session: Session, session_id: str, record: Record, payload: bytes) -> None:
        """Remember what is stored now, and what this session itself put into it."""
        origin = session._origin
        key = origin.key if origin and origin.id == session_id else store_key(session_id)
        _, written, whole, serializer, extras, version = record
        stored = None if whole == payload else whole
        # As `Origin(...)`, without a call of Python's: this is on the path of every write.
        session._origin = tuple.__new__(
            Origin,
            (session_id, key, version, payload, serializer, written, False, None, stored),
        )
        session._extras = extras
        session._cleared = False

    def _dropped(self, session: Session, origin: Origin, found: Found | Stored) -> bool:
        why = found.why.name.lower() if isinstance(found, Tombstone) else "missing"
        note(session, "dropped", origin.key, reason=why)
        session._origin = Origin(origin.id, origin.key, superseded=True)
        return False


def came_after(found: Record) -> list[str]:
    """Return what a record that is merged on top of `found` names: the writes that are in it."""
    return [*_named(found), _name(found.version)][-_REMEMBERED:]


def _named(record: Record) -> list[str]:
    names = record.extras.get("after")
    return names if isinstance(names, list) else []


def _name(version: bytes) -> str:
    return version[1:9].hex()


def _decode(data: bytes | None) -> Found:
    """Read what stands in the way of a write; what is not ours is as good as missing."""
    try:
        return None if data is None else decode(data)
    except CorruptRecord:
        return None
