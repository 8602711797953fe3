"""Before a session is written: may it go to the encoder as it is, and if not, what does?

`is_plain` is a scan for the many sessions that an encoder in C takes whole. `pack_session` is a
walk through all others, value by value by the table in `_tags.py`; it finds the key to blame.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from async_session._tags import BY_KIND, CONTAINERS, Unstorable, a_value, kind_of
from async_session.errors import SerializationError

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "MAX_KEYS", "check_keys", "is_plain"]
__all__ += ["pack_session", "plain_dict"]

#: Containers inside each other, the session itself being the first.
MAX_DEPTH = 64
#: Keys of the session.
MAX_KEYS = 10_000
#: Values in the session, counted at every place where they stand. Ends the walk through lists that
#: hold each other many times over: 60 of them stand for 2**60 values.
MAX_ITEMS = 1_000_000


def plain_dict(data: Mapping[object, object]) -> dict[object, object]:
    """Return `data` as an exact dict, read below a subclass's own methods."""
    if type(data) is dict:
        return data
    # Not `dict.copy` and not `dict(data)`: these call a subclass's own `__iter__` and `keys`.
    return dict(dict.items(data) if isinstance(data, dict) else data)


def check_keys(data: dict[Any, Any]) -> None:
    """Refuse a session of too many keys."""
    if len(data) > MAX_KEYS:
        raise SerializationError(f"the session has {len(data)} keys: at most {MAX_KEYS} are kept")


def is_plain(
    data: dict[Any, Any],
    *,
    leaves: frozenset[type],
    containers: frozenset[type],
    keys: frozenset[type] | None,
) -> bool:
    """Tell whether a session is within the limits and of these very types.

    Level by level and a container at a time, so that the types of its items are looked at in C.

    Args:
        data: the session.
        leaves: what may stand in it.
        containers: what that may stand in.
        keys: what the keys of a dict may be; None if the encoder looks at them itself.
    """
    level: list[Any] = [data]
    count = 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            items = container
            if type(container) is dict:
                if keys and not keys.issuperset(map(type, container)):
                    return False
                items = container.values()
            count += len(items)
            if count > MAX_ITEMS:
                return False
            if not leaves.issuperset(map(type, items)):
                below += [item for item in items if type(item) not in leaves]
        if not below:
            return True
        if not containers.issuperset(map(type, below)):
            return False
        level = below
    return False


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


def pack_session(data: dict[object, object]) -> object:
    """Return what the JSON encoder takes for a session.

    Raises:
        SerializationError: a value cannot be stored; its `key` says where.
    """
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
