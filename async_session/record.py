"""What is stored: the only place that reads or writes a stored value.

    session    version 16 | created 8 | written 8 | serializer 1 | n 2 | extras n | payload
    tombstone  version 16 | why 1 | successor's key 64, if moved

A *version* is a format byte and 15 random bytes, new at each write: what a conditional save
compares. Format bytes are above 0x7F, so that no stored value can pass for a line of a text
protocol. *Extras* are a JSON object of what only some sessions have (`owner`, `authenticated_at`,
`lifetime`) and of a merged record (`after`: the last few versions that it was written on top of, in
a row, as hex of their first eight random bytes); entries that this version does not know are kept.
A format byte that is not known here belongs to another version of this package: such a value is
left alone.

Times are whole UTC seconds since the epoch, integers are big-endian.
"""

from __future__ import annotations

import enum
import json
import os
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = ["CorruptRecord", "Ended", "Record", "Tombstone", "decode", "new_record", "version_of"]

_RECORD = 0x81
_TOMBSTONE = 0x91
_RECORD_BYTE, _TOMBSTONE_BYTE = bytes((_RECORD,)), bytes((_TOMBSTONE,))
_VERSION = 16
_HEADER = struct.Struct(">16sqqBH")
_KEY = 64
_NO_EXTRAS: Final[Mapping[str, object]] = MappingProxyType({})


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


class Record(NamedTuple):
    """A live or expired session, as stored.

    Attributes:
        created: when the session began; a login begins it anew.
        written: when it was last written or refreshed.
        payload: the serialized dict.
        serializer: the id of the serializer that wrote `payload`.
        extras: header entries by name: `owner`, `authenticated_at`, `lifetime`, and unknown ones.
        version: the 16 bytes that it was read with; each `encode` draws others.
    """

    created: int
    written: int
    payload: bytes
    serializer: int = 1
    extras: Mapping[str, object] = _NO_EXTRAS
    version: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes to store, which begin with a version drawn for this write."""
        return new_record(*self[:5])[1]


def new_record(
    created: int, written: int, payload: bytes, serializer: int, extras: Mapping[str, object]
) -> tuple[Record, bytes]:
    """Return a record under a version drawn for it, and the bytes to store."""
    version = _RECORD_BYTE + os.urandom(_VERSION - 1)
    header = json.dumps(dict(extras), separators=(",", ":")).encode() if extras else b""
    start = _HEADER.pack(version, created, written, serializer, len(header))
    # The quick way to make a named tuple: this is on the path of every write.
    record = tuple.__new__(Record, (created, written, payload, serializer, extras, version))
    return record, b"".join((start, header, payload))


class Tombstone(NamedTuple):
    """The mark of an ended session, so that no late write can bring it back.

    Attributes:
        why: how it ended.
        successor: the store key that the session moved to, if it did.
        version: the 16 bytes that it was read with; each `encode` draws others.
    """

    why: Ended
    successor: str | None = None
    version: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes to store, which begin with a version drawn for this write."""
        successor = (self.successor or "").encode("ascii")
        version = _TOMBSTONE_BYTE + os.urandom(_VERSION - 1)
        return b"%b%c%b" % (version, self.why, successor)


def version_of(data: bytes) -> bytes:
    """Return the version that a stored value begins with."""
    return data[:_VERSION]


def decode(data: bytes) -> Record | Tombstone:
    """Read a stored value.

    Raises:
        CorruptRecord: anything that `encode` did not write. No other exception, whatever the
            bytes are.
    """
    format_byte = data[0] if data else None
    if format_byte == _RECORD:
        try:
            version, created, written, serializer, size = _HEADER.unpack_from(data)
        except struct.error as error:
            raise CorruptRecord("a record that is cut off") from error
        start, extras = _HEADER.size, _NO_EXTRAS
        if size:
            start += size
            extras = _decode_extras(data[_HEADER.size : start])
        # The quick way to make a named tuple: this is on the path of every request.
        return tuple.__new__(Record, (created, written, data[start:], serializer, extras, version))
    if format_byte == _TOMBSTONE:
        return _decode_tombstone(data)
    raise CorruptRecord("no session record, or one of another version of async_session")


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
