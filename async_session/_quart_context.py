"""The current session of a Quart app, under its real type."""

from __future__ import annotations

from typing import Any, cast

from quart import has_request_context, has_websocket_context, session

from async_session.errors import SessionError
from async_session.session import Session

__all__ = ["get_session"]


def get_session() -> Session:
    """Return the session of the current request or websocket, typed.

    It is the object behind ``quart.session``, which Quart's types know as a mapping only.

    Raises:
        SessionError: no request and no websocket is being served, or the app has no session of
            ours: its secret key or its store is missing.
    """
    if not (has_request_context() or has_websocket_context()):
        raise SessionError(
            "get_session() was called outside of a request and of a websocket: call it in a view "
            "and pass the session on, or use the test client's session_transaction()"
        )
    current = cast("Any", session)._get_current_object()
    if not isinstance(current, Session):
        raise SessionError(
            f"there is no session here but a {type(current).__name__}: set SECRET_KEY, and "
            "SESSION_TYPE or QuartSession(app, store=...)"
        )
    return current
