"""What Quart's session interface never sees: the end of a response, and of a websocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from async_session._response import warn_of_late_touch
from async_session.plan import cookie_line
from async_session.session import Intent, Session

if TYPE_CHECKING:
    from quart import Quart

    from async_session.quart import ServerSideSessionInterface

__all__ = ["OPENED", "LateWrites"]

_KEEP = Intent.KEEP  # an enum's member is slow to look up, and this is asked for every request

#: Where a request's scope keeps its session, with the interface that opened it.
OPENED = "async_session.opened"


class LateWrites:
    """Around the app's ASGI call: commits at a websocket's accept, and saves what came late."""

    def __init__(self, app: Quart, interface: ServerSideSessionInterface) -> None:
        self._app = app
        self._interface = interface
        self._inner = app.asgi_app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        await self._inner(scope, receive, send)
        if OPENED in scope:
            interface, session = scope[OPENED]
            if interface is self._interface and session._answered:
                if session._dirty or session._handed_out or session._intent is not _KEEP:
                    await self._interface.finish(self._app, session)
                if session.accessed and not session._varies:
                    warn_of_late_touch(session)

    async def _websocket(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "websocket.accept":
                await self._accept(scope, message)
            await send(message)

        await self._inner(scope, receive, sending)
        session = self._session(scope)
        if session is not None:
            await self._interface.finish(self._app, session)

    def _session(self, scope: Any) -> Session | None:
        interface, session = scope.get(OPENED, (None, None))
        return session if interface is self._interface else None

    async def _accept(self, scope: Any, message: Any) -> None:
        session = self._session(scope)
        if session is None:
            return
        action = await self._interface.manager(self._app).commit(session)
        line = cookie_line(action, self._interface.cookie_options(self._app), with_max_age=False)
        if line is not None:
            headers = [*message.get("headers", ()), (b"set-cookie", line.encode("latin-1"))]
            message["headers"] = headers
