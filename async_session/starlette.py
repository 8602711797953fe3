"""Sessions for Starlette, FastAPI and any other ASGI app, as pure ASGI middleware.

    app.add_middleware(SessionMiddleware, secret_key=KEY, store="redis://localhost")

Nothing of Starlette is imported: the middleware puts a `Session` into ``scope["session"]``, where
Starlette's ``request.session`` finds it, and adds headers to the messages that pass through.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Protocol

from async_session._response import (
    STARTS,
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    add_vary,
    refuse,
    send_with_session,
    warn_of_late_touch,
)
from async_session._starlette_settings import effective_policy, path_prefixes
from async_session.cookies import CookieOptions
from async_session.errors import SessionError, StoreError
from async_session.events import Listener
from async_session.manager import SessionManager
from async_session.plan import VARY
from async_session.policy import SessionPolicy
from async_session.session import Intent, Session
from async_session.stores.base import SessionStore, SupportsClose

__all__ = ["SessionMiddleware", "get_session"]

_CONNECTIONS = frozenset(("http", "websocket"))
_KEEP = Intent.KEEP  # an enum's member is slow to look up, and this is asked for every request
_FOUND = "async_session"  # where a scope says which cookie its session belongs to


class _HasScope(Protocol):
    """A Starlette ``Request`` or ``WebSocket``, or anything else with an ASGI scope."""

    @property
    def scope(self) -> MutableMapping[str, Any]: ...


def get_session(connection: _HasScope) -> Session:
    """Return the session of a request or websocket, typed.

    It is the same object as ``request.session``.

    Raises:
        SessionError: no `SessionMiddleware` is in front of this route, or its path is under
            ``skip``.
    """
    session = connection.scope.get("session")
    if not isinstance(session, Session):
        raise SessionError(
            "there is no session here: add SessionMiddleware(secret_key=..., store=...) to the "
            "app, and take this path out of its skip="
        )
    return session


class SessionMiddleware:
    """Gives every request a server-side session.

    The positional parameters are those of Starlette's own middleware, in its order and with its
    defaults, so that one can stand in for the other.

    Args:
        app: the app behind it.
        secret_key: signs the cookie: ``str``, ``bytes`` or Starlette's ``Secret``.
        session_cookie: the cookie's name.
        max_age: the session's lifetime in seconds, counted from the last write; the cookie has
            the same. None for a cookie that goes with the browser: the lifetime on the server is
            then `lifetime`. 0 and below expire at once.
        path: the cookie's path.
        same_site: ``"lax"``, ``"strict"``, ``"none"``; None leaves it out.
        https_only: send the cookie over HTTPS only.
        domain: the cookie's domain.
        partitioned: one cookie jar per top-level site (CHIPS); forces `https_only`.
        store: where sessions are kept: a store, or its URL. A store built from a URL is closed
            at lifespan shutdown.
        policy: see `SessionPolicy`; `max_age`, `lifetime` and `refresh_each_request` win over it.
        secret_key_fallbacks: older keys, which still verify.
        lifetime: seconds or a timedelta; used if `max_age` is None.
        refresh_each_request: whether using a session prolongs it. None for what the policy says,
            without one: no, as in Starlette.
        http_only: hide the cookie from scripts.
        skip: path prefixes that have no session, such as ``("/static",)``.
        clock: the time in epoch seconds.
        on_event: who is told of each `SessionEvent`: a function, a coroutine function, or several.

    Raises:
        ConfigurationError: a setting that cannot work.
    """

    def __init__(
        self,
        app: ASGIApp,
        secret_key: object,
        session_cookie: str = "session",
        max_age: int | None = 14 * 24 * 60 * 60,
        path: str = "/",
        same_site: Literal["lax", "strict", "none"] | None = "lax",
        https_only: bool = False,
        domain: str | None = None,
        partitioned: bool = False,
        *,
        store: SessionStore | str,
        policy: SessionPolicy | None = None,
        secret_key_fallbacks: Sequence[object] = (),
        lifetime: int | timedelta | None = None,
        refresh_each_request: bool | None = None,
        http_only: bool = True,
        skip: Iterable[str] = (),
        clock: Callable[[], float] = time.time,
        on_event: Listener | Iterable[Listener] = (),
    ) -> None:
        self.app = app
        self.max_age = max_age
        self.manager = SessionManager(
            store,
            secret_key=secret_key,
            secret_key_fallbacks=secret_key_fallbacks,
            policy=effective_policy(policy, max_age, lifetime, refresh_each_request),
            clock=clock,
            on_event=on_event,
        )
        self._skip = path_prefixes(skip)
        self._options = CookieOptions(
            name=session_cookie,
            domain=domain,
            path=path,
            secure=https_only,
            httponly=http_only,
            samesite=same_site,
            partitioned=partitioned,
        )
        self._options.check(strict=self.manager.policy.reject_unsafe)

    def cookie_options(self) -> CookieOptions:
        """Return the cookie's options; `session_cookie` and `path` may be assigned at any time."""
        return self._options

    @property
    def session_cookie(self) -> str:
        """The cookie's name. May be assigned."""
        return self._options.name

    @session_cookie.setter
    def session_cookie(self, name: str) -> None:
        self._change(name=name)

    @property
    def path(self) -> str:
        """The cookie's path. May be assigned."""
        return self._options.path

    @path.setter
    def path(self, path: str) -> None:
        self._change(path=path)

    def _change(self, **changes: str) -> None:
        options = self._options.replace(**changes)
        options.check(strict=self.manager.policy.reject_unsafe)
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in _CONNECTIONS or (self._skip and self._skipped(scope["path"])):
            if kind == "lifespan" and self.manager.owns_store:
                send = self._closing(send)
            await self.app(scope, receive, send)
            return
        options, manager = self._options, self.manager
        if _FOUND in scope and scope[_FOUND] == options.name:
            await self.app(scope, receive, send)  # a second middleware: the first one commits
            return
        client = scope["client"] if "client" in scope else None  # noqa: SIM401  # without a call
        for name, line in scope["headers"]:
            if name == b"cookie" and (found := options.search(b";" + line)):
                session, is_new = await manager.open(found[1], client=client), False
                break
        else:
            is_new = True
            # As `manager.new(client=client)`, without a call.
            session = Session.__new__(Session)
            session._keeper = manager
            session._client = client
        scope["session"] = session
        scope[_FOUND] = options.name
        passes = False

        def outward(message: Message) -> Awaitable[None]:
            # What has nothing to do with the session costs this call and no more.
            nonlocal passes
            if passes:
                return send(message)
            if is_new and not (session.accessed or session.modified):
                # No cookie came and nobody looked: there is nothing to commit, nothing to send.
                session._answered = passes = message["type"] in STARTS
                return send(message)
            if message["type"] in STARTS:
                action = manager.action_of_a_read(session)
                if action is not None:
                    if action is VARY:
                        add_vary(session, message)
                    passes = True
                    return send(message)
            return send_with_session(manager, session, options, scope, send, message)

        if kind == "websocket":
            await self._websocket(scope, receive, outward, session)
            return
        try:
            await self.app(scope, receive, outward)
        except StoreError as error:
            if session._answered:
                raise
            await refuse(error, session, scope, send)
        else:
            late = session._dirty or session._handed_out or session._intent is not _KEEP
            if late and session._answered:  # an app that never answered has saved nothing
                await manager.finish(session)
            if session.accessed and not session._varies:
                warn_of_late_touch(session)

    async def _websocket(
        self, scope: Scope, receive: Receive, send: Send, session: Session
    ) -> None:
        gone = False

        async def receiving() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "websocket.disconnect"
            return message

        try:
            await self.app(scope, receiving, send)
        except Exception:
            # A client that goes away ends most websockets, as an exception in the app: what was
            # written before is kept. Any other exception discards it, as for a request.
            if gone:
                await self.manager.finish(session)
            raise
        await self.manager.finish(session)

    def _skipped(self, path: str) -> bool:
        return any(path == prefix or path.startswith(prefix + "/") for prefix in self._skip)

    def _closing(self, send: Send) -> Send:
        """Close the store that was built from a URL, when the app has shut down."""

        async def closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                store = self.manager.store
                if isinstance(store, SupportsClose):
                    await store.aclose()
            await send(message)

        return closing
