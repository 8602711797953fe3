"""The way out of a request through ASGI: the commit before the first byte, and its headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from async_session._log import log, warn_once
from async_session.cookies import CookieOptions, vary_on_cookie
from async_session.errors import StoreError
from async_session.manager import SessionManager
from async_session.plan import NOTHING, VARY, CookieAction, cookie_line
from async_session.session import Session

__all__ = [
    "STARTS",
    "ASGIApp",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "add_vary",
    "refuse",
    "send_with_session",
    "warn_of_late_touch",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

#: ASGI wants header names in lower case; not every app heeds it.
_VARY = frozenset((b"vary", b"Vary", b"VARY"))
#: The messages that carry headers.
STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))


async def send_with_session(
    manager: SessionManager,
    session: Session,
    options: CookieOptions,
    scope: Scope,
    send: Send,
    message: Message,
) -> None:
    """Pass a message on; commit the session before the first, and add its headers to that one."""
    if not session._answered and message["type"] in STARTS:
        try:
            action = await manager.commit_changes(session)
        except StoreError as error:
            # The app's own error handlers cannot be reached from inside send.
            if message["type"] == "websocket.accept":
                raise
            await refuse(error, session, scope, send)
            return
        if action.vary:
            add_vary(session, message)
        if action is not NOTHING and action is not VARY:
            _add_headers(message, action, manager, options, scope)
        session._answered = True
    if not session._refused:
        await send(message)


def add_vary(session: Session, message: Message) -> None:
    """Add ``Vary: Cookie`` to a message that begins a response."""
    session._varies = True
    headers = [*message["headers"]] if "headers" in message else []
    message["headers"] = headers  # a copy: a response object may be sent twice
    for name, _ in headers:
        if name in _VARY:
            _merge_vary(headers)
            return
    headers.append((b"vary", b"Cookie"))


def _merge_vary(headers: list[tuple[bytes, bytes]]) -> None:
    lines = [value.decode("latin-1") for name, value in headers if name in _VARY]
    headers[:] = [item for item in headers if item[0] not in _VARY]
    headers += [(b"vary", line.encode("latin-1")) for line in vary_on_cookie(lines)]


def _add_headers(
    message: Message,
    action: CookieAction,
    manager: SessionManager,
    options: CookieOptions,
    scope: Scope,
) -> None:
    headers = [*message.get("headers", ())]
    message["headers"] = headers
    if action.no_store:
        headers[:] = [item for item in headers if item[0].lower() != b"cache-control"]
        headers.append((b"cache-control", b"no-store"))
    line = cookie_line(action, options, with_max_age=True)
    if line is not None:
        headers.append((b"set-cookie", line.encode("latin-1")))
        if options.secure:
            strict = manager.policy.reject_unsafe
            options.check_transport(scope.get("scheme", "http"), _host(scope), strict=strict)


async def refuse(error: StoreError, session: Session, scope: Scope, send: Send) -> None:
    """Answer 503: what this request was to do to its session was not done."""
    log.error("the session store is unavailable, answered 503: %s", error)
    session._answered = session._refused = True
    body = b"The session store is unavailable. Please try again."
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"5"),
        (b"cache-control", b"no-store"),
    ]
    prefix = "websocket." if scope["type"] == "websocket" else ""
    await send({"type": f"{prefix}http.response.start", "status": 503, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})


def warn_of_late_touch(session: Session) -> None:
    """Warn once if a session was first touched when its response was already under way."""
    if session._answered and not session._failed:
        warn_once(
            "a session was first touched after its response had begun, so that one does not say "
            "`Vary: Cookie` and a cache may show it to others: read the session, or call "
            "session.mark_accessed(), before the first byte"
        )


def _host(scope: Scope) -> str:
    return next((value for name, value in scope["headers"] if name == b"host"), b"").decode(
        "latin-1"
    )
