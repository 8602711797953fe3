"""A pytest plugin for Starlette's own suite: our middleware in place of Starlette's.

The suite passes no argument that its own middleware does not have; here `store=` is added, and
nothing else. `ASYNC_SESSION_TEST_STORE` names the store.
"""

from __future__ import annotations

import os
import re
from typing import Any

import starlette.middleware.sessions

from async_session.starlette import SessionMiddleware
from async_session.stores.memory import MemoryStore


class OurMiddleware:
    """Our middleware with a store, and with attribute names in the case that the suite looks for.

    Names of attributes are the same in any case (RFC 6265, 5.2). Starlette writes most of its own
    in lower case, and its suite compares text.
    """

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        where = os.environ["ASYNC_SESSION_TEST_STORE"]
        store = MemoryStore() if where == "memory://" else where
        self._inner = SessionMiddleware(app, *args, **kwargs, store=store)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if "headers" in message:
                message["headers"] = [
                    (name, lowered(value) if name == b"set-cookie" else value)
                    for name, value in message["headers"]
                ]
            await send(message)

        await self._inner(scope, receive, sending)


def lowered(line: bytes) -> bytes:
    pattern = rb"; (Domain|Path|SameSite|Secure|HttpOnly|Partitioned|Expires)(?=[=;]|$)"
    return re.sub(pattern, lambda match: match[0].lower(), line)


starlette.middleware.sessions.SessionMiddleware = OurMiddleware  # type: ignore[assignment,misc]
