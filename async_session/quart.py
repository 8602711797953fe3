"""Sessions for Quart: an interface in the place of its own, and an extension that sets it up.

QuartSession(app, store="redis://localhost")          # or app.config["SESSION_TYPE"] = "redis"
app.session_interface = ServerSideSessionInterface(store)               # the bare Flask way
"""

from __future__ import annotations

import time
from abc import ABCMeta
from collections.abc import Callable, Iterable
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

from async_session._checks import as_clock, seconds
from async_session._flask_session import DEFAULTS, store_from_config
from async_session._late_writes import OPENED, LateWrites
from async_session._log import log
from async_session.cookies import CookieOptions, cookie_pattern, find_cookie
from async_session.errors import ConfigurationError, SessionError
from async_session.events import Listener, as_listeners
from async_session.manager import SessionManager
from async_session.plan import NOTHING, VARY
from async_session.policy import SessionPolicy, as_policy
from async_session.session import Session
from async_session.stores.base import SessionStore, SupportsClose
from async_session.stores.urls import as_store

try:
    from quart.sessions import SessionInterface, SessionMixin

    from async_session._null_session import KeylessSession, NullInterface
    from async_session._quart_context import add_cookie, add_vary, get_session
except ImportError as error:
    raise ConfigurationError("Quart is missing: pip install 'async_session[quart]'") from error

if TYPE_CHECKING:
    from quart import Quart
    from quart.wrappers import BaseRequestWebsocket, Response
    from werkzeug.wrappers import Response as WerkzeugResponse

__all__ = ["QuartSession", "ServerSideSessionInterface", "get_session"]

# Quart and Flask know a session by this class; a dict that tells all that it asks is one.
cast("ABCMeta", SessionMixin).register(Session)


class ServerSideSessionInterface(SessionInterface):
    """Flask's sessions, to the letter, with the data in a store.

    Every ``SESSION_*`` key of Flask is read through the interface's own ``get_cookie_*`` methods
    at every request, so that apps may override them. Sessions are not permanent unless the app
    says so. What the app changes after ``save_session`` is not seen: `QuartSession` sees it.

    Args:
        store: where sessions are kept: a store, or its URL.
        policy: what happens in doubt. The app's config wins where both say something.
        clock: the time in epoch seconds.
        on_event: who is told of each `SessionEvent`: a function, a coroutine function, or several.
    """

    null_session_class = KeylessSession

    #: what the engine is made from
    _keys: tuple[str, ...] = (
        "SECRET_KEY",
        "SECRET_KEY_FALLBACKS",
        "PERMANENT_SESSION_LIFETIME",
        "SESSION_REFRESH_EACH_REQUEST",
    )

    def __init__(
        self,
        store: SessionStore | str,
        *,
        policy: SessionPolicy | None = None,
        clock: Callable[[], float] = time.time,
        on_event: Listener | Iterable[Listener] = (),
    ) -> None:
        self.store, self.owns_store = as_store(store)
        self._policy = as_policy(policy)
        self._clock = as_clock(clock)
        self._listeners = as_listeners(on_event)
        self._manager: SessionManager | None = None
        self._settings = itemgetter(*self._keys)
        self._seen: tuple[object, ...] = ()
        self._options: CookieOptions | None = None

    # What the app's config says, read anew for every request

    def manager(self, app: Quart) -> SessionManager:
        """Return the engine for the app's current settings."""
        seen = self._settings(app.config)
        if isinstance(seen[1], list):  # which the app may change in place
            seen = (*seen, *seen[1])
        if self._manager is None or self._seen != seen:
            self._manager, self._seen = self._make_manager(app), seen
        return self._manager

    def _make_manager(self, app: Quart) -> SessionManager:
        return SessionManager(
            self.store,
            secret_key=app.secret_key,
            secret_key_fallbacks=app.config["SECRET_KEY_FALLBACKS"],
            policy=self.policy(app),
            clock=self._clock,
            sign=self.signs(app),
            on_event=self._listeners,
        )

    def policy(self, app: Quart) -> SessionPolicy:
        """Return the policy, with what the app's config says about lifetimes."""
        lifetime = app.config["PERMANENT_SESSION_LIFETIME"]
        seconds("PERMANENT_SESSION_LIFETIME", lifetime)  # named as the app knows it
        return self._policy.replace(
            lifetime=lifetime,
            refresh_each_request=bool(app.config["SESSION_REFRESH_EACH_REQUEST"]),
        )

    def signs(self, app: Quart) -> bool:
        """Whether cookies are signed."""
        return True

    def cookie_options(self, app: Quart) -> CookieOptions:
        """Return the cookie's options, from ``get_cookie_*``."""
        wanted = {
            "name": self.get_cookie_name(app),
            "domain": self.get_cookie_domain(app),
            "path": self.get_cookie_path(app),
            "secure": bool(self.get_cookie_secure(app) or self.get_cookie_partitioned(app)),
            "httponly": bool(self.get_cookie_httponly(app)),
            "samesite": self.get_cookie_samesite(app),
            "partitioned": bool(self.get_cookie_partitioned(app)),
        }
        options = self._options
        if options is None or any(getattr(options, name) != wanted[name] for name in wanted):
            options = CookieOptions(**cast("Any", wanted))
            options.check(strict=self._policy.reject_unsafe)
            self._options = options
        return options

    # What Quart calls

    def is_null_session(self, instance: object) -> bool:
        """Tell a null session. Ours is none: said at once, as Quart asks for every response."""
        return not isinstance(instance, Session) and super().is_null_session(instance)

    async def open_session(self, app: Quart, request: BaseRequestWebsocket) -> Session | None:  # type: ignore[override]  # registered as a SessionMixin above
        """Return the request's session; None without a secret key. Never raises for an outage."""
        if not app.config["SECRET_KEY"] and self.signs(app):
            return None
        scope: Any = request.scope
        if OPENED in scope and scope[OPENED][0] is self:
            return cast("Session", scope[OPENED][1])  # session_transaction opens twice
        manager = self.manager(app)
        client = scope["client"] if "client" in scope else None  # noqa: SIM401  # without a call
        cookie = find_cookie(scope["headers"], cookie_pattern(self.get_cookie_name(app)))
        if cookie is None:
            session = manager.new(client=client)
        else:
            session = await manager.open(cookie, client=client)
        scope[OPENED] = (self, session)
        return session

    async def save_session(
        self, app: Quart, session: SessionMixin, response: Response | WerkzeugResponse | None
    ) -> None:
        """Commit the session and put its cookie into the response.

        A session of another interface is left alone. The response is None at the end of a
        websocket, which can carry no cookie.
        """
        if not isinstance(session, Session):
            log.warning("a %s is not saved: another interface made it", type(session).__name__)
            return
        if response is None:
            await self.finish(app, session)
        # No cookie came and nobody looked: there is nothing to commit, nothing to send.
        elif not (session.accessed or session._origin or session.modified or session.unavailable):
            session._answered = True
        else:
            manager = self.manager(app)
            action = manager.action_of_a_read(session) or await manager.commit_changes(session)
            session._varies = action.vary
            if action.vary:
                add_vary(response)
            if action is not VARY and action is not NOTHING:
                strict = self._policy.reject_unsafe
                add_cookie(response, action, self.cookie_options(app), strict=strict)

    async def finish(self, app: Quart, session: Session) -> None:
        """Save what was changed when the response, or the websocket, was under way."""
        try:
            await self.manager(app).finish(session)
        except SessionError as error:
            app.logger.error("%s", error)

    async def aclose(self) -> None:
        """Close the store, if it can be closed."""
        if isinstance(self.store, SupportsClose):
            await self.store.aclose()


class _ExtensionInterface(ServerSideSessionInterface):
    """The interface that `QuartSession` sets: Flask-Session's keys count as well."""

    _keys = (*ServerSideSessionInterface._keys, *DEFAULTS)

    def policy(self, app: Quart) -> SessionPolicy:
        policy = super().policy(app)
        interval = app.config["SESSION_REFRESH_INTERVAL"]
        if interval is None:
            interval = policy.refresh_interval or max(0, policy.idle // 100)
        permanent = bool(app.config["SESSION_PERMANENT"])
        return policy.replace(permanent=permanent, refresh_interval=interval)

    def signs(self, app: Quart) -> bool:
        return bool(app.config["SESSION_USE_SIGNER"])


class QuartSession:
    """Gives a Quart app server-side sessions; Flask-Session's config keys keep their meaning.

    Sees also what the interface alone cannot: changes made while a response is streamed, and a
    websocket whose client disconnects. A websocket's handshake carries the cookie.

    Args:
        app: the app; or call `init_app` later.
        store: a store, or its URL. Without one ``SESSION_TYPE`` decides.
        policy: what happens in doubt. The app's config wins where both say something.
        clock: the time in epoch seconds.
        on_event: who is told of each `SessionEvent`: a function, a coroutine function, or several.

    Raises:
        ConfigurationError: a setting that cannot work.
    """

    def __init__(
        self,
        app: Quart | None = None,
        store: SessionStore | str | None = None,
        *,
        policy: SessionPolicy | None = None,
        clock: Callable[[], float] = time.time,
        on_event: Listener | Iterable[Listener] = (),
    ) -> None:
        self._store = store
        self._interface = partial(
            _ExtensionInterface, policy=policy, clock=clock, on_event=as_listeners(on_event)
        )
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Quart) -> None:
        """Set the app's session interface, from its config as it is now."""
        for key, value in DEFAULTS.items():
            app.config.setdefault(key, value)
        store = self._store if self._store is not None else store_from_config(app.config)
        if store is None:
            app.session_interface = NullInterface()  # type: ignore[assignment]  # Quart names its default's type
            return
        interface = self._interface(store)
        if app.secret_key or not interface.signs(app):
            interface.manager(app)  # what cannot work is said now, not at the first request
        interface.cookie_options(app)
        app.session_interface = interface  # type: ignore[assignment]  # likewise
        app.asgi_app = LateWrites(app, interface)  # type: ignore[method-assign]  # as documented
        if self._store is None or interface.owns_store:
            app.after_serving(interface.aclose)
