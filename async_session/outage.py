"""The session of a request whose store cannot answer: neither there nor not there."""

from __future__ import annotations

from typing import NoReturn

from async_session.errors import StoreError, StoreUnavailable
from async_session.session import Session

__all__ = ["too_slow", "unavailable_session"]


def too_slow(seconds: float) -> StoreUnavailable:
    """Return the error for a store that did not answer in time."""
    return StoreUnavailable(f"the session store did not answer within {seconds:g} s")


def unavailable_session(error: StoreError, *, readable: bool) -> Session:
    """Return the session of a request whose store cannot answer.

    Args:
        error: what every use of it raises.
        readable: True for a session that reads as empty and raises only when it is written to;
            False for one that raises at its first read, too.
    """
    kind = _WriteRefusing if readable else _Refusing
    session = kind.__new__(kind)
    session._error = error
    return session


class _WriteRefusing(Session):
    """Reads as empty; nothing can be written, with or without effect, nor ended."""

    unavailable = True
    _error: StoreError = StoreUnavailable("the session store is unavailable")

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        self.accessed = True
        # A new exception each time: one that is raised twice drags its old traceback along. And
        # one class, whatever the store said: an app's handler has one thing to look for.
        raise StoreUnavailable(*self._error.args) from self._error

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse
    login = regenerate = logout = save = mark_modified = _refuse

    def __repr__(self) -> str:
        return "<Session unavailable>"


class _Refusing(_WriteRefusing):
    """Nothing can be read either, but its repr: debuggers and loggers ask for that."""

    _refuse = _WriteRefusing._refuse

    __getitem__ = get = __contains__ = __len__ = __iter__ = __reversed__ = _refuse
    keys = values = items = copy = __eq__ = __ne__ = __or__ = __ror__ = _refuse
    new = property(_refuse)  # pyright: ignore[reportIncompatibleMethodOverride]
    owner = property(_refuse, _refuse)  # pyright: ignore[reportIncompatibleMethodOverride]
    permanent = property(_refuse, _refuse)  # pyright: ignore[reportIncompatibleMethodOverride]
