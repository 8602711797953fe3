"""The least that a middleware with sessions in a store has to do, as a line to compare with.

It reads JSON from a store of ours and writes it back, and that is all. It knows by the path what
the view will do; nobody signs, hashes, compares, merges, watches the time or decides anything.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from async_session.stores.base import Match

__all__ = ["Least"]

_VERSION = bytes(range(16))
_WRITES = frozenset(("/d", "/seed"))


class Least:
    """Not safe, and not of use to anybody."""

    def __init__(self, app: Any, store: Any) -> None:
        self._app = app
        self._store = store

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        key = None
        for name, line in scope["headers"]:
            if name == b"cookie" and b"key=" in line:
                key = line[-64:].decode()
        value = None if key is None else await self._store.open(key)
        scope["session"] = {} if value is None else json.loads(value[16:])
        sending = self._writing(key, scope, send) if scope["path"] in _WRITES else _passing(send)
        await self._app(scope, receive, sending)

    def _writing(self, old: str | None, scope: Any, send: Any) -> Any:
        async def writing(message: Any) -> None:
            if message["type"] == "http.response.start":
                key, match = (old, _VERSION) if old else (secrets.token_hex(32), Match.ANY)
                data = _VERSION + json.dumps(scope["session"]).encode()
                await self._store.save(key, data, ttl=3600, match=match)
                message["headers"].append((b"set-cookie", b"key=" + key.encode()))
            await send(message)

        return writing


def _passing(send: Any) -> Any:
    def passing(message: Any) -> Any:
        return send(message)

    return passing
