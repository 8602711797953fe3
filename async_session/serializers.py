"""From a session's data to bytes and back, without loss and without pickle.

`TaggedJSONSerializer` writes compact JSON with Flask's tags and some of our own; the table is in
`_tags.py`. `MsgpackSerializer` writes the same values as MessagePack. With both of them, what goes
in comes out, equal and of the same type, or `dumps` says which key cannot.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from itertools import accumulate
from typing import Any, Final, Protocol
from uuid import UUID

from async_session._json import encode, scanner
from async_session._packing import (
    MAX_DEPTH,
    MAX_KEYS,
    check_keys,
    is_plain,
    pack_session,
    plain_dict,
)
from async_session._tags import (
    BY_KIND,
    BY_NAME,
    CONTAINERS,
    SCALARS,
    a_value,
    as_it_is,
    read,
    scan_tagged,
)
from async_session.errors import ConfigurationError, SerializationError

__all__ = ["OUR_IDS", "MsgpackSerializer", "Serializer", "TaggedJSONSerializer"]

#: Serializers of other packages have ids from here on.
OUR_IDS = 64

# What corrupt bytes provoke in the decoders. MemoryError is not among them: it says nothing about
# the bytes, and whoever is told that they are corrupt starts a new session.
_CORRUPT = (
    StopIteration,  # nothing that the scanner knows
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    OSError,
    ImportError,
    AttributeError,
    RecursionError,
)


class Serializer(Protocol):
    """Turns a session's data into bytes and back.

    `id` is written in the header of each record, so that a record is always read by the serializer
    that wrote it: `OUR_IDS` (64) to 255 for serializers of your own. Equal data in the same order
    has to give equal bytes: by them it is told whether anything changed.
    """

    id: int

    def dumps(self, data: Mapping[object, object], /) -> bytes:
        """Return `data` as bytes, or raise `SerializationError` naming the key that cannot be."""
        ...

    def loads(self, payload: bytes, /) -> dict[object, object]:
        """Return what `dumps` was given, or raise `SerializationError`, whatever the bytes are."""
        ...


def _no_session(data: object) -> SerializationError:
    return SerializationError(f"the stored bytes are {a_value(type(data))}, not a session")


def _corrupt(error: Exception) -> SerializationError:
    return SerializationError(f"the stored bytes are not a session ({type(error).__name__})")


# -- JSON ------------------------------------------------------------------------------------------

_JSON_CONTAINERS, _JSON_KEYS = frozenset({dict, list}), frozenset({str})
_scan_plain = scanner()
# An object that begins like a tag: without one, nothing is tagged and nothing has to be. In a text
# the quote is escaped.
_LIKE_A_TAG = re.compile(r'\{" ')
# How half a character (or, mostly, an emoji) begins in ASCII JSON.
_SURROGATE = re.compile(r"\\ud[89ab]")

# A container is at most three brackets deep (`{" p": [[`), the value in it three more.
_MAX_BRACKETS = 3 * MAX_DEPTH + 3
_SHORT = 2 * _MAX_BRACKETS  # no text up to here is deeper: what opens has to close
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1, "": 0}
# A text is matched also without its closing quote: no input makes the scan start over.
_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|([][{}])', re.DOTALL)


class TaggedJSONSerializer:
    """Write sessions as Flask does in its cookie: compact ASCII JSON with tags for other types.

    Stored as they are: None, bool, int, float (also nan and inf), str, bytes, list, tuple, dict
    with any of these as keys, set, frozenset, datetime, date, time, timedelta, Decimal, UUID and
    `markupsafe.Markup`. A datetime comes back with its `zoneinfo` zone, or with the offset that
    any other zone had at that time. Subclasses are stored as their base type, as in Flask. A dict
    keeps its order; equal sets give equal bytes.
    """

    id: int = 1

    def dumps(self, data: Mapping[object, object], /) -> bytes:
        """Return `data` as JSON.

        A dict subclass at the top is read below its own methods, so a session does not count this
        as an access.

        Raises:
            SerializationError: a value cannot be stored (`key` names where), or the session has
                more than 10,000 keys, 64 containers in each other or 1,000,000 values.
        """
        plain = data if type(data) is dict else plain_dict(data)
        if len(plain) > MAX_KEYS:
            check_keys(plain)
        if is_plain(plain, leaves=SCALARS, containers=_JSON_CONTAINERS, keys=_JSON_KEYS):
            try:
                text = encode(plain)
            except ValueError:  # an int that is too long to print: the walk says where it is
                text = '{" '
            if not (_LIKE_A_TAG.search(text) or _SURROGATE.search(text)):
                return text.encode("ascii")
        return encode(pack_session(plain)).encode("ascii")

    def loads(self, payload: bytes, /) -> dict[object, object]:
        """Return the data in `payload`.

        Raises:
            SerializationError: these bytes are not a session, or not a whole one. No other
                exception is raised whatever the bytes are.
        """
        try:
            text = str(payload, "utf-8")
            if text[_SHORT:] and text.count("[") + text.count("{") > _MAX_BRACKETS:
                _check_brackets(text)
            scan = scan_tagged if _LIKE_A_TAG.search(text) else _scan_plain
            data, end = scan(text, 0)
        except _CORRUPT as error:
            raise _corrupt(error) from error
        if type(data) is not dict:
            raise _no_session(data)
        if text[end:]:
            raise SerializationError("the stored bytes go on after the session")
        if end > MAX_KEYS:  # a key takes more than one character
            check_keys(data)
        plain: dict[object, object] = data
        return plain


def _check_brackets(text: str) -> None:
    """Refuse deep nesting before the decoder's own recursion meets it."""
    if max(accumulate(map(_STEP.__getitem__, _BRACKET.findall(text)))) > _MAX_BRACKETS:
        raise ValueError("nested too deeply")


# -- MessagePack -----------------------------------------------------------------------------------

#: Our extension types: which tag's value stands in them. The numbers are for good.
_TAG_OF: Final = dict(
    enumerate((" t", " u", " d", " dt", " ti", " da", " td", " de", " se", " fs"), start=1)
)
_EXTENSION_OF: Final = {name: code for code, name in _TAG_OF.items()}
_SETS: Final = (set, frozenset)
_OLDEST: Final = [1, 13, 1]
_MSGPACK_LEAVES = SCALARS | {bytes, datetime, date, time, timedelta, Decimal, UUID}
# ormsgpack does not say where a value ends. So it is asked for two in a list, and this has to be
# the second: bytes that nobody could have stored.
_PAIR, _MARK = b"\x92", os.urandom(8)
_BYTES_8, _LIST = b"\xc4\x08", b"\xdd"


class MsgpackSerializer:
    """Write sessions as MessagePack, with extension types for what that does not have.

    Stores what `TaggedJSONSerializer` stores, within the same limits, several times as fast. Needs
    ormsgpack. A session that ormsgpack would not give back as it was (an int of more than 64 bits,
    half a character, a key that is no text, a subclass, a `Markup`) is written as
    `TaggedJSONSerializer` writes it, which is told apart by its first byte.

    Raises:
        ConfigurationError: ormsgpack is not installed.
    """

    id: int = 2

    def __init__(self) -> None:
        message = "MsgpackSerializer needs ormsgpack 1.13.1: pip install 'async_session[fast]'"
        try:
            import ormsgpack
        except ImportError as error:
            raise ConfigurationError(message) from error
        version = [int(number) for number in re.findall(r"\d+", ormsgpack.__version__)]
        if version < _OLDEST:
            raise ConfigurationError(message)
        # What ormsgpack would write as something else comes to `_extend`.
        options = (
            ormsgpack.OPT_PASSTHROUGH_DATETIME
            | ormsgpack.OPT_PASSTHROUGH_TUPLE
            | ormsgpack.OPT_PASSTHROUGH_UUID
        )
        self._pack = partial(ormsgpack.packb, default=self._extend, option=options)
        self._unpack = ormsgpack.unpackb
        self._extension = ormsgpack.Ext
        self._json = TaggedJSONSerializer()

    def dumps(self, data: Mapping[object, object], /) -> bytes:
        """Return `data` as MessagePack. Raises what `TaggedJSONSerializer.dumps` does."""
        plain = data if type(data) is dict else plain_dict(data)
        if len(plain) > MAX_KEYS:
            check_keys(plain)
        if is_plain(plain, leaves=_MSGPACK_LEAVES, containers=CONTAINERS, keys=None):
            try:
                return self._pack(plain)
            except TypeError:  # it refuses every key but a str, and more; in `_extend` as well
                pass
        return self._json.dumps(plain)

    def loads(self, payload: bytes, /) -> dict[object, object]:
        """Return the data in `payload`. Raises what `TaggedJSONSerializer.loads` does."""
        if payload[:1] == b"{":  # in MessagePack, the number 123
            return self._json.loads(payload)
        try:
            data = self._read(payload, depth=1)
        except _CORRUPT as error:
            raise _corrupt(error) from error
        if type(data) is not dict:
            raise _no_session(data)
        if len(payload) > MAX_KEYS:
            check_keys(data)
        return data

    def _extend(self, value: Any) -> object:
        """Return the extension type of a value of a type that `is_plain` has let through."""
        tag = next(tag for tag in BY_KIND[type(value)] if tag.applies(value))
        if isinstance(value, _SETS):
            # Sorted by their bytes: equal sets, equal bytes. Packed once: sets may be deep.
            items = sorted(map(self._pack, value))
            wire = b"".join((_LIST, len(items).to_bytes(4, "big"), *items))
        else:
            wire = self._pack(tag.write(value, as_it_is))
        return self._extension(_EXTENSION_OF[tag.name], wire)

    def _read(self, payload: bytes, *, depth: int) -> object:
        """Return the only value in these bytes. ormsgpack ends at 1024 levels, we at extensions."""

        def value_of(code: int, inside: bytes) -> object:
            if depth > MAX_DEPTH:
                raise ValueError("nested too deeply")
            return read(BY_NAME[_TAG_OF[code]], self._read(inside, depth=depth + 1))

        pair = b"".join((_PAIR, payload, _BYTES_8, _MARK))
        value, mark = self._unpack(pair, ext_hook=value_of)
        if mark != _MARK:
            raise ValueError("they go on after the session")
        return value
