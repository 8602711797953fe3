"""From a session's data to bytes and back, without loss and without pickle.

`TaggedJSONSerializer` writes compact JSON with Flask's tags and some of our own; the table is in
`_tags.py`. What goes in comes out, equal and of the same type, or `dumps` says which key cannot.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import accumulate
from typing import Any, Protocol, cast

from async_session._tags import (
    BY_KIND,
    BY_NAME,
    CONTAINERS,
    SCALARS,
    Unstorable,
    a_value,
    encode,
    kind_of,
    scan_plain,
    scan_tagged,
)
from async_session.errors import SerializationError

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "MAX_KEYS", "Serializer", "TaggedJSONSerializer"]

#: Containers inside each other, the session itself being the first.
MAX_DEPTH = 64
#: Keys of the session.
MAX_KEYS = 10_000
#: Values in the session, counted at every place where they stand. Ends the walk through lists that
#: hold each other many times over: 60 of them stand for 2**60 values.
MAX_ITEMS = 1_000_000

# A container is at most three brackets deep (`{" p": [[`), the value in it three more.
_MAX_BRACKETS = 3 * MAX_DEPTH + 3
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1, "": 0}
# A text is matched also without its closing quote: no input makes the scan start over.
_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|([][{}])', re.DOTALL)
# How half a character (or, mostly, an emoji) begins in ASCII JSON.
_SURROGATE = re.compile(r"\\ud[89ab]")

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

    `id` (1..255) is written in the header of each record, so that a record is always read by the
    serializer that wrote it. Equal data in the same order has to give equal bytes: by them it is
    told whether anything changed.
    """

    id: int

    def dumps(self, data: Mapping[object, object], /) -> bytes:
        """Return `data` as bytes, or raise `SerializationError` naming the key that cannot be."""
        ...

    def loads(self, payload: bytes, /) -> dict[object, object]:
        """Return what `dumps` was given, or raise `SerializationError`, whatever the bytes are."""
        ...


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
                more than `MAX_KEYS` keys, `MAX_DEPTH` levels or `MAX_ITEMS` values.
        """
        plain = _plain_dict(data)
        _check_keys(plain)
        if _is_plain(plain):
            # The encoder refuses an int that is too long to print. The walk says where it is.
            with suppress(ValueError):
                text = encode(plain)
                if not _SURROGATE.search(text):
                    return text.encode("ascii")
        return encode(_pack_session(plain)).encode("ascii")

    def loads(self, payload: bytes, /) -> dict[object, object]:
        """Return the data in `payload`.

        Raises:
            SerializationError: these bytes are not a session, or not a whole one. No other
                exception is raised whatever the bytes are.
        """
        try:
            text = str(payload, "utf-8")
            if text.count("[") + text.count("{") > _MAX_BRACKETS:
                _check_brackets(text)
            # No object begins like a tag: nothing can be tagged. In a text the quote is escaped.
            data, end = scan_tagged(text, 0) if '{" ' in text else scan_plain(text, 0)
        except _CORRUPT as error:
            message = f"the stored bytes are not a session ({type(error).__name__})"
            raise SerializationError(message) from error
        if type(data) is not dict:
            raise SerializationError(f"the stored bytes are {a_value(type(data))}, not a session")
        if text[end:]:
            raise SerializationError("the stored bytes go on after the session")
        if end > MAX_KEYS:  # a key takes more than one character
            _check_keys(data)
        plain: dict[object, object] = data
        return plain


def _plain_dict(data: Mapping[object, object]) -> dict[object, object]:
    if type(data) is dict:
        return data
    # Not `dict.copy` and not `dict(data)`: these call a subclass's own `__iter__` and `keys`.
    return dict(dict.items(data) if isinstance(data, dict) else data)


def _check_keys(data: dict[Any, Any]) -> None:
    if len(data) > MAX_KEYS:
        raise SerializationError(f"the session has {len(data)} keys: at most {MAX_KEYS} are kept")


def _check_brackets(text: str) -> None:
    """Refuse deep nesting before the decoder's own recursion meets it."""
    if max(accumulate(map(_STEP.__getitem__, _BRACKET.findall(text)))) > _MAX_BRACKETS:
        raise ValueError("nested too deeply")


# -- the fast path: JSON's own types need no walk --------------------------------------------------


def _is_plain(data: dict[object, object]) -> bool:
    """Tell whether the JSON encoder alone loses nothing.

    Level by level and a container at a time, so that the types of its items are looked at in C.
    """
    level: list[Any] = [data]
    count = 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            count += len(container)
            items = _plain_items(container)
            if items is None or count > MAX_ITEMS:
                return False
            if not SCALARS.issuperset(map(type, items)):
                below += [item for item in items if type(item) not in SCALARS]
        if not below:
            return True
        if not _PLAIN_CONTAINERS.issuperset(map(type, below)):
            return False
        level = below
    return False


_PLAIN_CONTAINERS = frozenset({dict, list})
_NAME = frozenset({str})


def _plain_items(container: Any) -> Iterable[object] | None:
    """Return the items of a list or dict, or None if the dict has to be tagged."""
    if type(container) is list:
        return container
    if not _NAME.issuperset(map(type, container)):
        return None
    if len(container) == 1 and next(iter(container)) in BY_NAME:
        return None
    return cast("Iterable[object]", container.values())


# -- the walk: every value by the table ------------------------------------------------------------


class _Packer:
    """Turns a value into what the JSON encoder takes, counting as it goes."""

    def __init__(self) -> None:
        self.count = 0

    def pack(self, value: object, *, depth: int, inside: type | None = None) -> object:
        kind = kind_of(value)
        if kind is None:
            place = f" inside {a_value(inside)}" if inside else ""
            what = a_value(type(value))
            raise Unstorable(f"holds {what}{place}: store plain data, e.g. its id")
        self._check(kind, depth)
        tag = next(tag for tag in BY_KIND[kind] if tag.applies(value))
        wire = tag.write(value, partial(self.pack, depth=depth + 1, inside=kind))
        return {tag.name: wire} if tag.name else wire

    def _check(self, kind: type, depth: int) -> None:
        self.count += 1
        if self.count > MAX_ITEMS:
            raise Unstorable(f"holds more than {MAX_ITEMS} values")
        if depth > MAX_DEPTH and kind in CONTAINERS:
            raise Unstorable(f"is more than {MAX_DEPTH} containers deep, or holds itself")


def _pack(value: object, *, depth: int) -> object:
    try:
        return _Packer().pack(value, depth=depth)
    except RecursionError as error:
        raise Unstorable("is too deep for what is left of Python's stack") from error


def _pack_session(data: dict[object, object]) -> object:
    try:
        return _pack(data, depth=1)
    except Unstorable as error:
        raise _blame(data, error) from error.__cause__


def _blame(data: dict[object, object], error: Unstorable) -> SerializationError:
    """Find the key. Each is packed again, on its own: keys are no concern of the walk."""
    for key, value in data.items():
        try:
            _pack(value, depth=2)
        except Unstorable as found:
            return SerializationError(f"session[{_shown(key)}] {found}", key=key)
        try:
            _pack(key, depth=2)
        except Unstorable as found:
            return SerializationError(f"the key {_shown(key)} {found}", key=key)
    return SerializationError(f"the session {error}")


def _shown(key: object) -> str:
    try:
        return reprlib.repr(key)
    except ValueError:  # an int that is too long to print
        return f"of type {type(key).__name__}"
