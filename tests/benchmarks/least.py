"""The least that a middleware with sessions in a store has to do, as a line to compare with.

It reads a session from a store of ours and writes it back, and that is all. It knows by the path
what the view will do; nobody signs, hashes, compares, merges, watches the time or decides anything.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import apps
from ours import Build, Setup

from async_session.stores.base import Match

__all__ = ["builders"]

_VERSION = bytes(range(16))


class _Sessions:
    """Reads and writes; `paths` are those of views after which the session is written.

    With `anew` it is serialized for that, without it is stored as it was read.
    """

    def __init__(self, setup: Setup, *, rolling: bool) -> None:
        self.store = setup.store()
        self.dumps: Callable[[Any], bytes] = lambda data: json.dumps(data).encode()
        self.loads: Callable[[bytes], Any] = json.loads
        if "serializer" in setup.options:
            package: Any = import_module("ormsgpack")
            self.dumps, self.loads = package.packb, package.unpackb
        self.writes = {"/d", "/seed"}
        self.prolongs = {"/c"} if rolling and "refresh_interval" not in setup.options else set()

    async def open(self, headers: Any) -> tuple[str | None, bytes | None, Any]:
        for name, line in headers:
            if name == b"cookie" and b"key=" in line:
                key = line[-64:].decode()
                value = await self.store.open(key)
                return key, value, self.loads(value[16:])
        return None, None, {}

    async def save(self, key: str | None, value: bytes | None, data: Any, path: str) -> str:
        match: Any = _VERSION if key else Match.ANY
        key = key or secrets.token_hex(32)
        if value is None or path not in self.prolongs:
            value = _VERSION + self.dumps(data)
        await self.store.save(key, value, ttl=3600, match=match)
        return f"key={key}"


class _Middleware:
    def __init__(self, app: Any, sessions: _Sessions) -> None:
        self._app = app
        self._sessions = sessions
        self._saving = sessions.writes | sessions.prolongs

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        key, value, data = await self._sessions.open(scope["headers"])
        scope["session"] = data

        def passing(message: Any) -> Any:
            return send(message)

        async def writing(message: Any) -> None:
            if message["type"] == "http.response.start":
                cookie = await self._sessions.save(key, value, data, scope["path"])
                message["headers"].append((b"set-cookie", cookie.encode()))
            await send(message)

        await self._app(scope, receive, writing if scope["path"] in self._saving else passing)


async def _starlette(setup: Setup, rolling: bool, data: dict[str, Any]) -> Any:
    from starlette.middleware import Middleware

    return apps.starlette(data, [Middleware(_Middleware, _Sessions(setup, rolling=rolling))])


async def _quart(setup: Setup, rolling: bool, data: dict[str, Any]) -> Any:
    from quart.sessions import SessionInterface

    sessions = _Sessions(setup, rolling=rolling)
    saving = sessions.writes | sessions.prolongs

    class Interface(SessionInterface):
        def is_null_session(self, instance: object) -> bool:
            return False

        async def open_session(self, app: Any, request: Any) -> Any:
            request.scope["opened"] = opened = await sessions.open(request.scope["headers"])
            return opened[2]

        async def save_session(self, app: Any, session: Any, response: Any) -> None:
            scope = import_module("quart").request.scope
            if scope["path"] in saving:
                key, value, data = scope["opened"]
                cookie = await sessions.save(key, value, data, scope["path"])
                response.headers.add("Set-Cookie", cookie)

    return await apps.quart(data, lambda app: setattr(app, "session_interface", Interface()))


def builders(setup: Setup) -> Iterator[tuple[str, Build]]:
    """Return how to build it on each framework, with the store of a setup of ours."""
    yield "starlette", partial(_starlette, setup)
    yield "quart", partial(_quart, setup)
