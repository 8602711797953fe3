"""Sessions for tests of an app: one that is there already, and a look into a client's own."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import Any

from anyio.from_thread import start_blocking_portal

from ..cookies import cookie_pattern, find_cookie
from ..errors import ConfigurationError
from ..plan import cookie_line
from ..record import Record
from ..serializers import TaggedJSONSerializer
from ..session import Session
from ..starlette import SessionMiddleware
from ..stores.base import SessionStore
from ..stores.urls import as_store
from ..tokens import CookieSigner, new_id, secret_keys, store_key

__all__ = ["make_cookie", "session_transaction"]

#: A record made for a test is kept for longer than any lifetime that is tested with it.
_TTL = 400 * 86400


async def make_cookie(
    store: SessionStore | str,
    data: Mapping[Any, Any],
    *,
    secret_key: object,
    age: int = 0,
    owner: str | None = None,
    clock: Callable[[], float] = time.time,
) -> str:
    """Store a session and return the cookie value that opens it, on every adapter.

    Args:
        store: the app's store.
        data: what is in the session.
        secret_key: the app's secret key.
        age: seconds since the session was begun and last written; below 0 for the future.
        owner: whose session it is, as after `Session.login`.
        clock: the app's clock.

    Example:
        >>> import anyio
        >>> from async_session.stores.memory import MemoryStore
        >>> anyio.run(lambda: make_cookie(MemoryStore(), {"a": 1}, secret_key="k" * 32)).count(".")
        1
    """
    now = int(clock())
    written = now - age
    extras: dict[str, object] = {}
    if owner is not None:
        extras = {"owner": owner, "authenticated_at": written}
    serializer = TaggedJSONSerializer()
    record = Record(written, written, serializer.dumps(data), serializer.id, extras)
    session_id = new_id()
    await as_store(store)[0].save(store_key(session_id), record.encode(), ttl=_TTL)
    return CookieSigner(secret_keys(secret_key)).sign(session_id)


class session_transaction:
    """Open a client's session, to look into it or to change it, as Flask's test client does.

    ``with`` goes with Starlette's ``TestClient``, ``async with`` with httpx's ``AsyncClient`` over
    an ``ASGITransport``. Quart's test client has a method of the same name.

    Args:
        client: its app must have a `SessionMiddleware`. Its cookie jar is read, and kept up.

    Raises:
        ConfigurationError: the client's app has no `SessionMiddleware`.

    Example:
        >>> from async_session.starlette import SessionMiddleware
        >>> from starlette.applications import Starlette
        >>> from starlette.testclient import TestClient
        >>> client = TestClient(SessionMiddleware(Starlette(), "k" * 32, store="memory://"))
        >>> with session_transaction(client) as session:
        ...     session["user"] = 42
        >>> with session_transaction(client) as session:
        ...     print(session["user"])
        42
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._exit: AbstractContextManager[Session] | None = None
        self._async_exit: AbstractAsyncContextManager[Session] | None = None

    async def __aenter__(self) -> Session:
        self._async_exit = _transaction(self._client)
        return await self._async_exit.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        assert self._async_exit is not None
        return await self._async_exit.__aexit__(kind, error, trace)

    def __enter__(self) -> Session:
        self._portal_context = start_blocking_portal(**self._client.async_backend)
        portal = self._portal_context.__enter__()
        self._exit = portal.wrap_async_context_manager(_transaction(self._client))
        return self._exit.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        assert self._exit is not None
        try:
            return self._exit.__exit__(kind, error, trace)
        finally:
            self._portal_context.__exit__(None, None, None)


@asynccontextmanager
async def _transaction(client: Any) -> AsyncIterator[Session]:
    middleware = _middleware(client)
    manager, options = middleware.manager, middleware.cookie_options()
    request = client.build_request("GET", options.path)
    headers = [(name.lower(), value) for name, value in request.headers.raw]  # as a server does
    session = await manager.open(find_cookie(headers, cookie_pattern(options.name)))
    yield session
    line = cookie_line(await manager.commit(session), options, with_max_age=True)
    if line is not None:
        # Through a response, so that the jar files it as it does any other.
        httpx = sys.modules[type(client.cookies).__module__.partition(".")[0]]
        client.cookies.extract_cookies(
            httpx.Response(200, headers=[("set-cookie", line)], request=request)
        )


def _middleware(client: Any) -> SessionMiddleware:
    app = getattr(client, "app", None) or getattr(client._transport, "app", None)
    for layer in _layers(app):
        if isinstance(layer, SessionMiddleware):
            return layer
    raise ConfigurationError(
        "the client's app has no SessionMiddleware: add it, or on Quart use the test client's own "
        "session_transaction()"
    )


def _layers(app: Any) -> Iterator[Any]:
    """Yield an app and what it wraps, outermost first; Starlette builds its layers when asked."""
    while app is not None:
        yield app
        if hasattr(app, "build_middleware_stack"):
            if app.middleware_stack is None:
                app.middleware_stack = app.build_middleware_stack()
            app = app.middleware_stack
        else:
            app = getattr(app, "app", None)
