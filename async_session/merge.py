"""Three-way merge: what two requests did to one session, put together so that neither is lost.

Two requests read the same session (*base*). One has already stored its version (*theirs*); the
other (*mine*) finds that out when it saves. Key by key:

    only one side changed it        that side's
    either side deleted it          deleted, whatever the other side did with the old value
    both changed it                 its resolver; without one, by shape:
        dicts                       by these rules again
        lists that begin with base  base + their tail + my tail
        sets                        the additions and the removals of both
        anything else               mine
    `_flashes`, read by `pop`       base unless either side took it + their tail + my tail

A key is changed if its encoded bytes differ from the base's; `==` is never asked, to which True
is 1. A key that base lacks counts as empty there, of the shape that both sides gave it. Two equal
changes are two changes: two requests that counted 5 up to 6 have counted to 7.

`add`, `union` and `append` are resolvers for `SessionPolicy(merge={"hits": merge.add})`. Any
function of (base, mine, theirs) is one; base is None if the key was not there.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Set
from copy import deepcopy
from decimal import Decimal
from typing import Any, TypeAlias, TypeVar

__all__ = ["Encode", "Resolver", "add", "append", "changed_keys", "three_way", "union"]

#: Decides about a key that both sides changed: `(base, mine, theirs) -> value`. To be pure: it may
#: be asked again, about newer values, when the save is refused once more.
Resolver: TypeAlias = Callable[[Any, Any, Any], object]
#: Returns bytes that are equal for two values only if these are stored alike.
Encode: TypeAlias = Callable[[object], bytes]

Number = TypeVar("Number", int, float, Decimal)
Collection = TypeVar("Collection", list[Any], set[Any], frozenset[Any])

_FLASHES = "_flashes"


class _Missing(enum.Enum):
    """The value of a key that is not there. A member, so that a copy of it is itself."""

    KEY = "missing"


_MISSING = _Missing.KEY


def three_way(
    base: Mapping[Any, Any],
    mine: Mapping[Any, Any],
    theirs: Mapping[Any, Any],
    *,
    encode: Encode,
    resolvers: Mapping[Any, Resolver] | None = None,
    cleared: bool = False,
    keep: Set[object] = frozenset(),
) -> dict[Any, Any]:
    """Return the session that holds what both sides did, as a new dict.

    The arguments are not changed. Values of `mine` are used as they are, those of `theirs` are
    copied, so nothing done to the result reaches `theirs`.

    Args:
        base: what both sides started from.
        mine: what this request made of it.
        theirs: what is stored by now.
        encode: returns the bytes of one value; by them values are compared.
        resolvers: by key of the session, for keys that both sides changed. Not asked where a side
            deleted, nor inside nested dicts. What it raises is raised here: it is a mistake in the
            app, and nothing has been written. A note on the exception names the key. The caller
            is to fail this request's commit with it, and no other request's that waits with it.
        cleared: this request called `clear()`, so mine replaces theirs.
        keep: keys that this request assigned in a login. Its values of them stand, whatever the
            other side changed or deleted. The queue `_flashes` is put together all the same.
    """
    if cleared:
        return dict(mine)
    asked = resolvers or {}

    def pick(key: object, *values: Any) -> object:
        if key == _FLASHES and key not in asked and _all_lists(values):
            return _merge_queue(*values, encode=encode)
        if key in keep and values[1] is not _MISSING:
            return values[1]
        try:
            return _merge_value(*values, encode=encode, resolver=asked.get(key))
        except Exception as error:
            error.add_note(f"while session[{key!r}] was merged: two requests had changed it")
            raise

    return _merge_keys(base, mine, theirs, pick)


def changed_keys(base: Mapping[Any, Any], mine: Mapping[Any, Any], *, encode: Encode) -> set[Any]:
    """Return the keys that were added, changed or deleted, told by their encoded bytes."""
    return {
        key
        for key in base.keys() | mine.keys()
        if _differ(base.get(key, _MISSING), mine.get(key, _MISSING), encode)
    }


# -- resolvers -------------------------------------------------------------------------------------


def add(base: Number | None, mine: Number, theirs: Number) -> Number:
    """Count what both sides counted: theirs + mine - base; a missing base is 0.

    Raises:
        TypeError: one of them is not an int, float or Decimal, or they cannot be added up.
    """
    start = 0 if base is None else base
    _check_types("add", (start, mine, theirs), (int, float, Decimal), "numbers")
    return theirs + mine - start


def union(base: Collection | None, mine: Collection, theirs: Collection) -> Collection:
    """Keep what either side has: a collection that only grows.

    Sets give a set of my type; lists give theirs, then what only mine has, each item once. What
    one side removed stays if the other still has it: for sets that shrink, no resolver is needed.

    Raises:
        TypeError: they are not all sets or all lists.
    """
    if isinstance(mine, list):
        _check_types("union", (mine, theirs), list, "sets, or all lists")
        return _each_once([*theirs, *mine])
    _check_types("union", (mine, theirs), (set, frozenset), "sets, or all lists")
    return mine | theirs


def append(base: list[Any] | None, mine: list[Any], theirs: list[Any]) -> list[Any]:
    """Add to their list what mine added to base; a missing base is empty.

    If mine does not begin with base, its items that are not in base are what it added.

    Raises:
        TypeError: they are not lists.
    """
    start = [] if base is None else base
    _check_types("append", (start, mine, theirs), list, "lists")
    if mine[: len(start)] == start:
        return [*theirs, *mine[len(start) :]]
    return [*theirs, *(item for item in mine if item not in start)]


def _check_types(name: str, values: tuple[Any, ...], kinds: Any, what: str) -> None:
    if any(isinstance(value, bool) or not isinstance(value, kinds) for value in values):
        found = ", ".join(type(value).__name__ for value in values)
        raise TypeError(f"merge.{name} needs values that are all {what}, not {found}")


def _each_once(items: list[Any]) -> list[Any]:
    try:
        return list(dict.fromkeys(items))
    except TypeError:  # an item that cannot be hashed
        return [item for index, item in enumerate(items) if item not in items[:index]]


# -- the rules -------------------------------------------------------------------------------------


def _merge_keys(
    base: Mapping[Any, Any],
    mine: Mapping[Any, Any],
    theirs: Mapping[Any, Any],
    pick: Callable[..., object],
) -> dict[Any, Any]:
    merged: dict[Any, Any] = {}
    for key in dict.fromkeys([*mine, *theirs]):  # in my order, then what only they have
        sides = (side.get(key, _MISSING) for side in (base, mine, theirs))
        value = pick(key, *sides)
        if value is not _MISSING:
            merged[key] = value
    return merged


def _merge_value(
    base: Any, mine: Any, theirs: Any, *, encode: Encode, resolver: Resolver | None = None
) -> object:
    deleted = base is not _MISSING and (mine is _MISSING or theirs is _MISSING)
    if deleted:
        return _MISSING
    if not _differ(base, theirs, encode):
        return mine
    if not _differ(base, mine, encode):
        return deepcopy(theirs)
    if resolver is not None:
        return resolver(None if base is _MISSING else deepcopy(base), mine, deepcopy(theirs))
    return _merge_shape(base, mine, theirs, encode)


def _differ(one: Any, other: Any, encode: Encode) -> bool:
    if one is _MISSING or other is _MISSING:
        return one is not other
    return one is not other and encode(one) != encode(other)


def _merge_shape(base: Any, mine: Any, theirs: Any, encode: Encode) -> object:
    for kinds, merge in _SHAPES:
        if isinstance(mine, kinds) and isinstance(theirs, kinds):
            start: Any = kinds[0]() if base is _MISSING else base
            return merge(start, mine, theirs, encode) if isinstance(start, kinds) else mine
    return mine


def _merge_dicts(base: Any, mine: Any, theirs: Any, encode: Encode) -> object:
    return _merge_keys(
        base, mine, theirs, lambda key, *values: _merge_value(*values, encode=encode)
    )


def _merge_lists(base: Any, mine: Any, theirs: Any, encode: Encode) -> object:
    if not (_begins_with(mine, base, encode) and _begins_with(theirs, base, encode)):
        return mine
    tail = deepcopy(theirs[len(base) :])
    return [*mine[: len(base)], *tail, *mine[len(base) :]]


def _merge_sets(base: Any, mine: Any, theirs: Any, encode: Encode) -> object:
    was, has, they = ({encode(item): item for item in side} for side in (base, mine, theirs))
    kept = [item for key, item in they.items() if key in has or key not in was]
    added = [item for key, item in has.items() if key not in was]
    return (frozenset if isinstance(mine, frozenset) else set)([*kept, *added])


_SHAPES: tuple[tuple[tuple[type, ...], Callable[[Any, Any, Any, Encode], object]], ...] = (
    ((dict,), _merge_dicts),
    ((list,), _merge_lists),
    ((set, frozenset), _merge_sets),
)


def _begins_with(items: list[Any], base: list[Any], encode: Encode) -> bool:
    return len(items) >= len(base) and not _differ(items[: len(base)], base, encode)


# -- Flask's messages, which are read by taking them away ------------------------------------------


def _all_lists(values: tuple[Any, ...]) -> bool:
    return all(value is _MISSING or isinstance(value, list) for value in values)


def _merge_queue(base: Any, mine: Any, theirs: Any, *, encode: Encode) -> object:
    if not _differ(base, theirs, encode):
        return mine
    if not _differ(base, mine, encode):
        return deepcopy(theirs)
    start, *sides = ([] if value is _MISSING else value for value in (base, mine, theirs))
    taken = [not _begins_with(side, start, encode) for side in sides]
    my_tail, their_tail = (
        side if took else side[len(start) :] for side, took in zip(sides, taken, strict=True)
    )
    left = [] if any(taken) else start
    return [*deepcopy([*left, *their_tail]), *my_tail] or _MISSING
