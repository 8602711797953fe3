"""What happens to sessions, told to the log and to whoever else listens.

    created      a new session was stored
    loaded       a request opened a session
    regenerated  a session got a new id
    destroyed    a session was ended
    expired      a request came with a session that was over
    rejected     a request came with a cookie that opens nothing
    conflict     two requests changed one session at once
    dropped      a change was not stored: its session had ended meanwhile
    unavailable  the store could not answer
    corrupt      what the store holds cannot be read

An event is told by the request that it happened in, when the store has done its part: a listener
may be slow or fail without any harm to the session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import isawaitable
from typing import Literal, NamedTuple, Protocol, cast

from async_session._log import log
from async_session.errors import ConfigurationError

__all__ = ["EventName", "Listener", "SessionEvent", "as_listeners", "log_event", "note", "tell"]

EventName = Literal[
    "created",
    "loaded",
    "regenerated",
    "destroyed",
    "expired",
    "rejected",
    "conflict",
    "dropped",
    "unavailable",
    "corrupt",
]


class SessionEvent(NamedTuple):
    """Something that happened to a session. Holds no session id: safe to store and to log.

    Attributes:
        name: what happened.
        handle: the session's store key; None if the cookie does not even lead to one.
        reason: why, or how, in one word; empty where there is but one way.
        owner: whose session it is, as given to `login`, as far as that is known.
        client: the address that the request came from, as far as that is known.
        previous: the handle that a regenerated session had before.
        error: what was raised, if anything was.
    """

    name: EventName
    handle: str | None = None
    reason: str = ""
    owner: str | None = None
    client: str | None = None
    previous: str | None = None
    error: Exception | None = None


#: A function of an event, or a coroutine function: what it returns is awaited if it can be.
Listener = Callable[[SessionEvent], object]


def as_listeners(value: object) -> tuple[Listener, ...]:
    """Return the listeners that `value` is: one, or several; refuse all else."""
    given = (value,) if callable(value) or not isinstance(value, Iterable) else tuple(value)
    for listener in given:
        if not callable(listener):
            raise ConfigurationError(
                f"on_event={value!r} cannot listen: write a function of one argument, the event"
            )
    return cast("tuple[Listener, ...]", given)


class _Notes(Protocol):
    """What a `Session` has of this."""

    _events: tuple[SessionEvent, ...]
    _client: Sequence[object] | None
    _owner: str | None
    _past_owner: str | None


def note(
    session: _Notes,
    name: EventName,
    handle: str | None,
    *,
    reason: str = "",
    previous: str | None = None,
    error: Exception | None = None,
) -> None:
    """Note an event with the session, until it can be told; the same one only once."""
    owner = session._past_owner if reason == "logout" else session._owner
    client = str(session._client[0]) if session._client else None
    event = SessionEvent(name, handle, reason, owner, client, previous, error)
    if event not in session._events:
        session._events = (*session._events, event)


async def tell(listeners: Sequence[Listener], events: Sequence[SessionEvent]) -> None:
    """Call every listener with each event, one after the other; one that fails is logged."""
    for listener in listeners:
        for event in events:
            try:
                result = listener(event)
                if isawaitable(result):
                    await result
            except Exception:
                log.exception("a listener failed at the event %r", event.name)


#: At which level each is logged, and in which words. Loading is what nearly every request does.
_LINES: Mapping[str, tuple[int, str]] = {
    "created": (logging.DEBUG, "a session was created"),
    "regenerated": (logging.DEBUG, "a session got a new id"),
    "destroyed": (logging.DEBUG, "a session was ended"),
    "expired": (logging.DEBUG, "a session had expired"),
    "rejected": (logging.INFO, "a cookie was rejected"),
    "conflict": (logging.DEBUG, "a session was changed by two requests at once"),
    "dropped": (logging.INFO, "a write was dropped, its session had ended"),
    "unavailable": (logging.WARNING, "the session store cannot answer"),
    "corrupt": (logging.WARNING, "a session cannot be read, a new one is started"),
}


def log_event(event: SessionEvent) -> None:
    """Write an event to the logger ``async_session``: the listener that is always there."""
    level, words = _LINES.get(event.name, (logging.NOTSET, ""))
    if level and log.isEnabledFor(level):
        # Not the owner: whose session it is concerns the log of the app, if any.
        named = ("handle", "reason", "client", "previous", "error")
        details = {name: getattr(event, name) for name in named}
        shown = (f"{name}={value}" for name, value in details.items() if value)
        log.log(level, "%s: %s", words, ", ".join(shown))
