"""The tags: how a value that JSON does not have is written, as one table.

A tagged value is an object of one entry, `{" t": [1, 2]}`. The first six tags, what stands behind
them and the escape are Flask's (`flask.json.tag`), so a payload is readable on both sides wherever
Flask loses nothing. The other tags hold what Flask's would change: a naive datetime, microseconds,
a dict whose keys are numbers. `TAGS`, below, is the code and the documentation of the format.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from types import NoneType
from typing import Any, NamedTuple
from uuid import UUID

from async_session._json import encode, scanner
from async_session.errors import SerializationError

__all__ = ["BY_KIND", "BY_NAME", "CONTAINERS", "SCALARS", "TAGS", "Tag", "Unstorable"]
__all__ += ["a_value", "as_it_is", "kind_of", "read", "scan_tagged"]

Pack = Callable[[Any], object]  # packs a value inside a container; `Tag.write` calls it

#: What the JSON encoder needs no help with, as exact types.
SCALARS: frozenset[type] = frozenset({str, int, float, bool, NoneType})

#: An int of fewer bits than this is within any limit Python lets one set on int <-> str.
_SURELY_PRINTABLE_BITS = 2000

# A high and a low surrogate that stand as two code points would be read back as one character.
_BETWEEN_SURROGATES = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Unstorable(Exception):
    """Why a value cannot be stored, as the second half of a sentence."""


class Tag(NamedTuple):
    """One row of the table. A row without a name is written as JSON has it."""

    name: str
    #: The type it stores; a subclass is stored as this.
    kind: type
    #: The JSON type behind the tag: anything else there is a corrupt payload.
    wire: type
    write: Callable[[Any, Pack], object]
    read: Callable[[Any], object]
    #: Which values of that type; the first row that applies is taken.
    applies: Callable[[Any], bool] = lambda value: True


def kind_of(value: object) -> type | None:
    """Return the type that `value` is stored as, or None if there is none."""
    return next((base for base in type(value).__mro__ if base in BY_KIND), None)


def a_value(kind: type) -> str:
    """Name a value of that type, with its article."""
    return f"{'an' if kind.__name__[0] in 'aeiouAEIOU' else 'a'} {kind.__name__}"


def _untag(found: dict[str, Any]) -> object:
    if len(found) != 1:
        return found
    ((name, wire),) = found.items()
    tag = BY_NAME.get(name)
    return found if tag is None else read(tag, wire)


def read(tag: Tag, wire: object) -> object:
    """Return the value that stands behind a tag."""
    if type(wire) is not tag.wire:
        raise ValueError(f"tag {tag.name!r} with a {type(wire).__name__} behind it")
    return tag.read(wire)


scan_tagged = scanner(object_hook=_untag)


# -- numbers and text ------------------------------------------------------------------------------


def _write_int(value: int, _: Pack) -> object:
    if value.bit_length() > _SURELY_PRINTABLE_BITS:
        try:
            int.__repr__(value)
        except ValueError as error:
            raise Unstorable("holds an int of more digits than Python converts") from error
    return value


def _has_html(value: object) -> bool:
    return type(value) is not str and callable(getattr(value, "__html__", None))


def _write_markup(value: Any, pack: Pack) -> object:
    # What `__html__` returns, never the text itself: a subclass may escape it there.
    return pack(str.__str__(str(value.__html__())))


def _read_markup(wire: str) -> object:
    try:
        from markupsafe import Markup
    except ImportError as error:
        message = "the session holds a Markup: install markupsafe to read it"
        raise SerializationError(message) from error
    return Markup(wire)  # noqa: S704 - it was a Markup when it was stored


def _has_split_surrogates(value: str) -> bool:
    return not str.isascii(value) and _BETWEEN_SURROGATES.search(value) is not None


# -- dates and times -------------------------------------------------------------------------------


def _is_http_date(value: datetime) -> bool:
    # Readers of HTTP dates take a year below 100 for one of our time.
    lossy = value.microsecond or value.fold or value.year < 100
    return value.tzinfo is UTC and not lossy


def _http_date(value: datetime) -> str:
    day, month = _DAYS[value.weekday()], _MONTHS[value.month - 1]
    clock = f"{value.hour:02}:{value.minute:02}:{value.second:02}"
    return f"{day}, {value.day:02} {month} {value.year:04} {clock} GMT"


def _read_http_date(wire: str) -> datetime:
    day, month, year, clock = wire[5:].removesuffix(" GMT").split(" ")
    numbers = (int(year), _MONTHS.index(month) + 1, int(day), *map(int, clock.split(":")))
    value = datetime(*numbers, tzinfo=UTC)  # type: ignore[misc,arg-type]
    if _http_date(value) != wire:
        raise ValueError("not an HTTP date")
    return value


def _zone(key: Any) -> tzinfo:
    from zoneinfo import ZoneInfo  # not before a value needs it: the root has to be quick to import

    return ZoneInfo(key)


def _zone_key(value: datetime | time) -> str | None:
    """Return the zone's name, if the zone of that name has the same offset at that time."""
    zone, key = value.tzinfo, getattr(value.tzinfo, "key", None)
    if zone is None or key is None:
        return None
    moment = value if isinstance(value, datetime) else None
    # A zone read from a file may have no name, or one that stands for nothing here.
    with suppress(ValueError, TypeError, LookupError, OSError):
        if _zone(key).utcoffset(moment) == zone.utcoffset(moment):
            return str(key)
    return None


def _write_moment(kind: Any, value: Any, _: Pack) -> object:
    return [kind.isoformat(value), _zone_key(value), value.fold]


def _read_moment(kind: Any, wire: list[Any]) -> object:
    text, zone, fold = wire
    value = kind.fromisoformat(text).replace(fold=fold)
    if text[-16:-6] in ("+00:00:00.", "-00:00:00."):  # less than a second: none to CPython
        value = value.replace(tzinfo=timezone(timedelta(microseconds=int(text[-16] + text[-6:]))))
    return value if zone is None else value.replace(tzinfo=_zone(zone))


# -- containers ------------------------------------------------------------------------------------


def _write_items(value: Iterable[object], pack: Pack) -> list[object]:
    return [pack(item) for item in value]


def _write_set(value: set[object] | frozenset[object], pack: Pack) -> list[object]:
    packed = sorted(_write_items(value, pack), key=encode)
    _check_hashable(value, packed)
    return packed


def _check_hashable(values: Iterable[object], packed: list[object]) -> None:
    """Refuse elements or keys that would not be hashable, or not distinct, as their base type."""
    if set(map(type, values)) <= SCALARS:
        return
    with suppress(TypeError):
        if len(set(scan_tagged(encode(packed), 0)[0])) == len(packed):
            return
    raise Unstorable("holds set elements or keys that plain data cannot tell apart")


def _is_name(key: object) -> bool:
    """Tell whether a key can be a name in a JSON object and come back as it was."""
    return isinstance(key, str) and not _has_html(key) and not _has_split_surrogates(key)


def _write_pairs(value: dict[object, object], pack: Pack) -> object:
    pairs = [[pack(key), pack(item)] for key, item in value.items()]
    _check_hashable(value, [key for key, _ in pairs])
    return pairs


def _write_dict(value: dict[str, object], pack: Pack) -> object:
    packed = {str.__str__(key): pack(item) for key, item in value.items()}
    if len(packed) != len(value):
        raise Unstorable("holds keys that plain data cannot tell apart")
    return packed


def _write_escaped(value: dict[str, object], pack: Pack) -> object:
    return {f"{str.__str__(key)}__": pack(item) for key, item in value.items()}


def _read_escaped(wire: dict[Any, object]) -> object:
    ((key, value),) = wire.items()
    if not key.endswith("__") or key[:-2] not in BY_NAME:
        raise ValueError("an escape with nothing to escape")
    return {key[:-2]: value}


def as_it_is(value: Any, _: object = None) -> Any:
    return value


# -- the table -------------------------------------------------------------------------------------

# fmt: off
TAGS = (
    # Flask's tags, as Flask writes them
    Tag(" t", tuple, list, _write_items, tuple),
    Tag(" b", bytes, str, lambda v, _: b64encode(v).decode(), partial(b64decode, validate=True)),
    Tag(" m", str, str, _write_markup, _read_markup, _has_html),
    Tag(" u", UUID, str, lambda v, _: v.hex, UUID),
    Tag(" d", datetime, str, lambda v, _: _http_date(v), _read_http_date, _is_http_date),
    # ours: [ISO text with the offset, name of the zone or null, fold]
    Tag(" dt", datetime, list, partial(_write_moment, datetime), partial(_read_moment, datetime)),
    Tag(" ti", time, list, partial(_write_moment, time), partial(_read_moment, time)),
    Tag(" da", date, str, lambda v, _: date.isoformat(v), date.fromisoformat),
    Tag(" td", timedelta, int,  # in microseconds
        lambda v, _: v // timedelta(microseconds=1), lambda w: timedelta(microseconds=w)),
    Tag(" de", Decimal, str, lambda v, _: Decimal.__str__(v), Decimal),
    Tag(" s", str, list,         # the parts of a text that has two halves of one character in a row
        lambda v, _: _BETWEEN_SURROGATES.split(v), "".join, _has_split_surrogates),
    Tag(" se", set, list, _write_set, set),  # sorted by their encoded form: equal sets, equal bytes
    Tag(" fs", frozenset, list, _write_set, frozenset),
    Tag(" p", dict, list, _write_pairs, dict,  # [[key, value], ...], for keys that are not text
        lambda v: not all(map(_is_name, v))),
    # Flask's escape of a dict that would look like a tag: {" t": 1} is {" di": {" t__": 1}}
    Tag(" di", dict, dict, _write_escaped, _read_escaped,
        lambda v: len(v) == 1 and next(iter(v)) in BY_NAME),
    # JSON's own types
    Tag("", dict, dict, _write_dict, as_it_is),
    Tag("", list, list, _write_items, as_it_is),
    Tag("", int, int, _write_int, as_it_is),
    *(Tag("", kind, kind, as_it_is, as_it_is) for kind in (str, float, bool, NoneType)),
)
# fmt: on

BY_NAME: dict[str, Tag] = {tag.name: tag for tag in TAGS if tag.name}
BY_KIND = {row.kind: tuple(tag for tag in TAGS if tag.kind is row.kind) for row in TAGS}
CONTAINERS = frozenset({dict, list, tuple, set, frozenset})
