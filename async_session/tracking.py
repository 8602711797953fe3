"""A dict that notes what was done to it: read, written, given away.

What counts as a modification, and when, is Flask's rule (werkzeug's ``CallbackDict``): a `pop` or
a `setdefault` without effect is none, an `update` with nothing is one.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Self, TypeVar

__all__ = ["TrackedDict"]

T = TypeVar("T")

#: Values of these types cannot change in place: handing one out needs no second look.
_SCALARS = frozenset({str, int, float, bool, type(None), bytes})


class TrackedDict(dict[Any, Any]):
    """A dict whose every read and write is noted.

    Attributes:
        accessed: whether anything was read or written. May be set.
        modified: whether something was written. May be set: the app's own word.
    """

    # Defaults live on the class: an untouched one costs a dict and nothing else.

    accessed: bool = False
    modified: bool = False

    #: keys that were assigned, also to an equal value
    _assigned: frozenset[object] | set[object] = frozenset()
    #: clear() was called
    _cleared: bool = False
    #: a container was given away and may have been changed in place
    _handed_out: bool = False
    #: written to since the last commit
    _dirty: bool = False

    def mark_accessed(self) -> None:
        """Count as read. Starlette's ``request.session`` calls it."""
        self.accessed = True

    def mark_modified(self) -> None:
        """Count as written."""
        self.accessed = self.modified = self._dirty = True

    # Reading

    def _hand_out(self, value: T) -> T:
        self.accessed = True
        if type(value) not in _SCALARS:
            self._handed_out = True
        return value

    def _hand_out_all(self) -> None:
        self.accessed = True
        self._handed_out = self._handed_out or not _SCALARS.issuperset(map(type, super().values()))

    def __getitem__(self, key: Any, /) -> Any:
        self.accessed = True
        value = dict.__getitem__(self, key)
        if type(value) not in _SCALARS:
            self._handed_out = True
        return value

    def get(self, key: Any, default: Any = None, /) -> Any:
        self.accessed = True
        value = dict.get(self, key, default)
        if type(value) not in _SCALARS:
            self._handed_out = True
        return value

    def __contains__(self, key: object, /) -> bool:
        self.accessed = True
        return super().__contains__(key)

    def __len__(self) -> int:
        self.accessed = True
        return super().__len__()

    def __iter__(self) -> Iterator[Any]:
        self.accessed = True
        return super().__iter__()

    def __reversed__(self) -> Iterator[Any]:
        self.accessed = True
        return super().__reversed__()

    def keys(self) -> KeysView[Any]:  # type: ignore[override]  # typeshed's dict_keys is private
        self.accessed = True
        return super().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # likewise
        self._hand_out_all()
        return super().values()

    def items(self) -> ItemsView[Any, Any]:  # type: ignore[override]  # likewise
        self._hand_out_all()
        return super().items()

    def copy(self) -> dict[Any, Any]:
        """Return a plain dict with the same items."""
        self._hand_out_all()
        return super().copy()

    def __eq__(self, other: object) -> bool:
        self.accessed = True
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        self.accessed = True
        return super().__ne__(other)

    __hash__ = None

    def __or__(self, other: Any) -> Any:
        self._hand_out_all()
        return super().__or__(other)

    def __ror__(self, other: Any) -> Any:
        self._hand_out_all()
        return super().__ror__(other)

    def __reduce_ex__(self, protocol: Any, /) -> tuple[Any, ...]:
        """Let `copy` and `pickle` make a plain dict: the rest belongs to one request."""
        return dict, (self.copy(),)

    def __repr__(self) -> str:
        self.accessed = True
        return f"<{type(self).__name__} {super().__repr__()}>"

    # Writing

    def _assign(self, *keys: object) -> None:
        self._assigned = {*self._assigned, *keys} if self._assigned else set(keys)
        self.mark_modified()

    # What fails was looked at all the same: Flask counts it as access, whatever comes of it.

    def __setitem__(self, key: Any, value: Any, /) -> None:
        self.accessed = True
        dict.__setitem__(self, key, value)
        # As `_assign`, without a call: this is what nearly every write is.
        self._assigned = {*self._assigned, key}
        self.modified = self._dirty = True

    def __delitem__(self, key: Any, /) -> None:
        self.accessed = True
        super().__delitem__(key)
        self.mark_modified()

    def clear(self) -> None:
        """Remove everything."""
        super().clear()
        self._cleared = True
        self.mark_modified()

    def pop(self, key: Any, /, *default: Any) -> Any:
        self.accessed = True
        if super().__contains__(key):
            self.mark_modified()
        return super().pop(key, *default)

    def popitem(self) -> tuple[Any, Any]:
        self.accessed = True
        item = super().popitem()
        self.mark_modified()
        return item

    def setdefault(self, key: Any, default: Any = None, /) -> Any:
        self.accessed = True
        if not super().__contains__(key):
            self._assign(key)
        return self._hand_out(super().setdefault(key, default))

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.accessed = True
        new: dict[Any, Any] = dict(*args, **kwargs)
        super().update(new)
        self._assign(*new)

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self
