"""Writers: sessions that are to be written, and the merge of several of them. No I/O.

Writers are merged one on top of the other. Each costs what it changed, however much there is: a
thousand of them do not decode, compare and encode the whole session a thousand times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from async_session import merge
from async_session._aio import Event
from async_session.codec import Codec
from async_session.errors import SessionConflict
from async_session.events import note
from async_session.policy import SessionPolicy
from async_session.record import Record
from async_session.session import Origin, Session

__all__ = ["Change", "Writer", "conflict", "merged"]

_NO_KEYS: frozenset[object] = frozenset()
_Data: TypeAlias = Mapping[Any, Any]
_Bases: TypeAlias = dict[tuple[int, bytes], _Data]


class Change(NamedTuple):
    """What a request did to a session: the keys that it changed, before and after."""

    keys: frozenset[Any]
    base: _Data
    mine: _Data


class Writer:
    """A session that is to be written, as it was when it was serialized."""

    __slots__ = (
        *("session", "origin", "payload", "lifetime", "cleared", "keep"),
        *("change", "turn", "done", "kept", "error"),
    )

    def __init__(self, session: Session, origin: Origin, payload: bytes) -> None:
        self.session = session
        self.origin = origin
        self.payload = payload
        #: whether this request set a lifetime, or called clear()
        self.lifetime = session._lifetime != session._extras.get("lifetime")
        self.cleared = session._cleared
        #: keys that this request assigned in a login
        self.keep = frozenset(session._assigned) if session._logged_in else _NO_KEYS
        self.change: Change | None = None
        self.turn: Event | None = None
        #: whether it is known what became of it, and that
        self.done = self.kept = False
        self.error: Exception | None = None

    def claim(self) -> Record:
        """Return what is stored, as far as this session knows."""
        session, origin = self.session, self.origin
        payload = origin.payload if origin.stored is None else origin.stored
        assert origin.version is not None
        return Record(
            session.created,
            origin.written,
            payload,
            origin.serializer,
            session._extras,
            origin.version,
        )

    def end(self, *, kept: bool = False, error: Exception | None = None) -> None:
        """Say what became of it."""
        if not self.done:
            self.kept, self.error, self.done = kept, error, True

    def result(self) -> bool:
        """Return whether it was kept, or raise."""
        if self.error is not None:
            raise self.error
        return self.kept


def merged(writers: list[Writer], found: Record, *, policy: SessionPolicy, codec: Codec) -> bytes:
    """Return the payload that has what `found` has, and what each of the writers did.

    Those who cannot be merged are `done`. The first of the others gets the header that goes with
    the payload.

    Raises:
        SerializationError: what is stored cannot be read, or together it is too much.
    """
    theirs = codec.decode(found.serializer, found.payload)
    bases: _Bases = {}
    kept: list[Writer] = []
    for writer in writers:
        try:
            if kept or writer.origin.version != found.version:
                if policy.on_conflict == "raise":
                    raise conflict(writer.session, writer.origin.key)
                note(writer.session, "conflict", writer.origin.key, reason=policy.on_conflict)
            if writer.cleared or policy.on_conflict == "overwrite":
                theirs = codec.decode(codec.id, writer.payload)
            else:
                if writer.change is None:
                    writer.change = _change(writer, bases, codec)
                _apply(writer, theirs, policy, codec)
        except Exception as error:  # a resolver's, too
            writer.end(error=error)
        else:
            kept.append(writer)
    if not kept:
        return b""
    lifetime = found.extras.get("lifetime")
    for writer in kept:
        lifetime = writer.session._lifetime if writer.lifetime else lifetime
    payload = codec.encode(theirs)
    kept[0].session._lifetime = lifetime if isinstance(lifetime, int) else None
    kept[0].session._extras = found.extras
    return payload


def conflict(session: Session, key: str) -> SessionConflict:
    """Note that a writer was refused; return the error that says so."""
    message = f"another request changed session {key} at the same time"
    error = SessionConflict(message, handle=key)
    note(session, "conflict", key, reason="raise", error=error)
    return error


def _apply(writer: Writer, theirs: dict[Any, Any], policy: SessionPolicy, codec: Codec) -> None:
    """Do to `theirs` what a writer did: `three_way`, of the keys that it changed."""
    assert writer.change is not None
    keys, base, mine = writer.change
    chosen = merge.three_way(
        base,
        mine,
        {key: theirs[key] for key in keys if key in theirs},
        encode=codec.encode_value,
        resolvers=policy.merge,
        keep=writer.keep,
    )
    for key in keys:
        if key in chosen:
            theirs[key] = chosen[key]
        else:
            theirs.pop(key, None)


def _change(writer: Writer, bases: _Bases, codec: Codec) -> Change:
    stored = writer.origin.serializer, writer.origin.payload
    if stored not in bases:  # those who wait have mostly read the same
        bases[stored] = codec.decode(*stored)
    base = bases[stored]
    # Not the session itself: the app may go on changing that.
    mine = codec.decode(codec.id, writer.payload)
    keys = merge.changed_keys(base, mine, encode=codec.encode_value)
    keys |= writer.keep & mine.keys()
    return Change(
        frozenset(keys),
        {key: base[key] for key in keys if key in base},
        {key: mine[key] for key in keys if key in mine},
    )
