"""What is stored: the only place that reads or writes a stored value.

    session    version 16 | created 8 | written 8 | serializer 1 | n 2 | extras n | payload
    tombstone  version 16 | why 1 | successor's key 64, if moved

A *version* is a format byte and 15 random bytes, new at each write: what a conditional save
compares. Format bytes are above 0x7F, so that no stored value can pass for a line of a text
protocol. *Extras* are a JSON object of what only some sessions have (`owner`, `authenticated_at`,
`lifetime`); entries that this version does not know are kept. A format byte that is not known
here belongs to another version of this package: such a value is left alone.

Times are whole UTC seconds since the epoch, integers are big-endian.
"""

from __future__ import annotations

import enum
import json
import os
import struct
from dataclasses import dataclass, field

__all__ = ["CorruptRecord", "Ended", "Record", "Tombstone", "decode", "is_version_of"]

_RECORD = 0x81
_TOMBSTONE = 0x91
_VERSION = 16
_HEADER = struct.Struct(">16sqqBH")
_KEY = 64


class CorruptRecord(ValueError):
    """Bytes that are no value of this package, or of a version that it does not know."""


class Ended(enum.IntEnum):
    """Why a tombstone stands where a session was."""

    #: logged out, emptied or revoked
    ENDED = 1
    #: a login gave the client another id
    REPLACED = 2
    #: a regenerate gave the client another id; the tombstone names the successor's key
    MOVED = 3


@dataclass(slots=True)
class Record:
    """A live or expired session, as stored.

    Attributes:
        created: when the session began; a login begins it anew.
        written: when it was last written or refreshed.
        payload: the serialized dict.
        serializer: the id of the serializer that wrote `payload`.
        extras: header entries by name: `owner`, `authenticated_at`, `lifetime`, and unknown ones.
        version: 16 bytes, drawn when the record is made.
    """

    created: int
    written: int
    payload: bytes
    serializer: int = 1
    extras: dict[str, object] = field(default_factory=dict)
    version: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes to store, under a version drawn for this write."""
        self.version = _new_version(_RECORD)
        extras = json.dumps(self.extras, separators=(",", ":")).encode() if self.extras else b""
        header = _HEADER.pack(
            self.version, self.created, self.written, self.serializer, len(extras)
        )
        return b"".join((header, extras, self.payload))


@dataclass(slots=True)
class Tombstone:
    """The mark of an ended session, so that no late write can bring it back.

    Attributes:
        why: how it ended.
        successor: the store key that the session moved to, if it did.
        version: 16 bytes, drawn when the tombstone is made.
    """

    why: Ended
    successor: str | None = None
    version: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes to store, under a version drawn for this write."""
        self.version = _new_version(_TOMBSTONE)
        return b"%b%c%b" % (self.version, self.why, (self.successor or "").encode("ascii"))


def _new_version(format_byte: int) -> bytes:
    return b"%c%b" % (format_byte, os.urandom(_VERSION - 1))


def is_version_of(data: bytes, version: bytes) -> bool:
    """Tell whether a stored value is the very write that drew `version`."""
    return data[:_VERSION] == version


def decode(data: bytes) -> Record | Tombstone:
    """Read a stored value.

    Raises:
        CorruptRecord: anything that `encode` did not write. No other exception, whatever the
            bytes are.
    """
    format_byte = data[0] if data else None
    if format_byte == _RECORD:
        return _decode_record(data)
    if format_byte == _TOMBSTONE:
        return _decode_tombstone(data)
    raise CorruptRecord("no session record, or one of another version of async_session")


def _decode_record(data: bytes) -> Record:
    try:
        version, created, written, serializer, size = _HEADER.unpack_from(data)
    except struct.error as error:
        raise CorruptRecord("a record that is cut off") from error
    start = _HEADER.size + size
    if start > len(data):
        raise CorruptRecord("a record that is cut off")
    extras = _decode_extras(data[_HEADER.size : start]) if size else {}
    return Record(created, written, data[start:], serializer, extras, version)


def _decode_extras(data: bytes) -> dict[str, object]:
    try:
        extras = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptRecord("a record whose header cannot be read") from error
    if not isinstance(extras, dict):
        raise CorruptRecord("a record whose header is no object")
    return extras


def _decode_tombstone(data: bytes) -> Tombstone:
    try:
        why = Ended(data[_VERSION])
        successor = data[_VERSION + 1 : _VERSION + 1 + _KEY].decode("ascii")
    except (IndexError, ValueError) as error:
        raise CorruptRecord("a tombstone that cannot be read") from error
    return Tombstone(why, successor or None, data[:_VERSION])
