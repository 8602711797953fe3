"""What Quart keeps in its context: the current session, and the request behind a response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from quart import has_request_context, has_websocket_context, request, session

from async_session.cookies import CookieOptions, vary_on_cookie
from async_session.errors import SessionError
from async_session.plan import CookieAction, cookie_line
from async_session.session import Session

if TYPE_CHECKING:
    from quart.wrappers import Response
    from werkzeug.wrappers import Response as WerkzeugResponse

__all__ = ["add_cookie", "add_vary", "get_session"]


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


def add_vary(response: Response | WerkzeugResponse) -> None:
    """Let a response say that it depends on the cookie."""
    headers = response.headers
    for name, _ in headers:  # without the calls of `getlist`: most responses have no Vary yet
        if name.lower() == "vary":
            headers.setlist("Vary", vary_on_cookie(headers.getlist("Vary")))
            return
    headers.add("Vary", "Cookie")


def add_cookie(
    response: Response | WerkzeugResponse,
    action: CookieAction,
    options: CookieOptions,
    *,
    strict: bool,
) -> None:
    """Give a response the rest of what its session asks for.

    Args:
        response: of Quart, or of Werkzeug.
        action: what the commit came to.
        options: the cookie's.
        strict: refuse a Secure cookie on a plain http request.
    """
    if action.no_store:
        response.headers["Cache-Control"] = "no-store"
    line = cookie_line(action, options, with_max_age=False)
    if line is not None:
        response.headers.add("Set-Cookie", line)
        if has_request_context():
            options.check_transport(request.scheme, request.host, strict=strict)
