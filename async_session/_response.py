"""The way out of a request through ASGI: the commit before the first byte, and its headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from async_session._log import log
from async_session.cookies import CookieOptions, vary_on_cookie
from async_session.errors import StoreError
from async_session.manager import SessionManager
from async_session.plan import CookieAction, cookie_line
from async_session.session import Session

__all__ = ["ASGIApp", "Message", "Receive", "Response", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))


class Response:
    """The way out of one request: commits before the first byte, or refuses to answer at all."""

    __slots__ = ("_manager", "_options", "_refused", "_scope", "_send", "_session", "_started")

    def __init__(
        self,
        manager: SessionManager,
        session: Session,
        options: CookieOptions,
        scope: Scope,
        send: Send,
    ) -> None:
        self._manager = manager
        self._session = session
        self._options = options
        self._scope = scope
        self._send = send
        self._started = False
        self._refused = False

    async def send(self, message: Message) -> None:
        if not self._started and message["type"] in _STARTS:
            try:
                action = await self._manager.commit(self._session)
            except StoreError as error:
                # The app's own error handlers cannot be reached from inside send.
                if message["type"] == "websocket.accept":
                    raise
                await self.refuse(error)
                return
            self._started = True
            if action.vary or action.no_store:  # whatever sets a cookie varies, too
                self._add_headers(message, action)
        if not self._refused:
            await self._send(message)

    def _add_headers(self, message: Message, action: CookieAction) -> None:
        headers: list[tuple[bytes, bytes]] = list(message.get("headers") or ())
        if action.vary:
            others = [(name, value) for name, value in headers if name.lower() != b"vary"]
            lines = [value.decode("latin-1") for name, value in headers if name.lower() == b"vary"]
            headers = others + [(b"vary", line.encode("latin-1")) for line in vary_on_cookie(lines)]
        if action.no_store:
            headers = [item for item in headers if item[0].lower() != b"cache-control"]
            headers.append((b"cache-control", b"no-store"))
        line = cookie_line(action, self._options, with_max_age=True)
        if line is not None:
            self._options.check_transport(
                self._scope.get("scheme", "http"),
                _host(self._scope),
                strict=self._manager.policy.reject_unsafe,
            )
            headers.append((b"set-cookie", line.encode("latin-1")))
        message["headers"] = headers

    def can_refuse(self) -> bool:
        return not self._started and self._scope["type"] == "http"

    async def refuse(self, error: StoreError) -> None:
        """Answer 503: what this request was to do to its session was not done."""
        log.error("the session store is unavailable, answered 503: %s", error)
        self._started = self._refused = True
        body = b"The session store is unavailable. Please try again."
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"5"),
            (b"cache-control", b"no-store"),
        ]
        prefix = "websocket." if self._scope["type"] == "websocket" else ""
        await self._send(
            {"type": f"{prefix}http.response.start", "status": 503, "headers": headers}
        )
        await self._send({"type": f"{prefix}http.response.body", "body": body})


def _host(scope: Scope) -> str:
    return next((value for name, value in scope["headers"] if name == b"host"), b"").decode(
        "latin-1"
    )
