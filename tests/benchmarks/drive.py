"""A request without a server and without a socket: what is measured is the app and its sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http.cookies import SimpleCookie
from importlib import import_module
from typing import Any, NamedTuple

Call = Callable[[], Awaitable[object]]

_HEADERS = [
    (b"host", b"shop.example"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,*/*;q=0.8"),
    (b"accept-language", b"en-GB,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
]
#: Cookies that are not ours, as every site has them.
_CONSENT = "consent=all; theme=dark"


class Answer(NamedTuple):
    status: int
    body: bytes
    cookie: str
    """What a browser would send back."""


def _jar(lines: list[str]) -> str:
    jar = SimpleCookie()
    for line in lines:
        jar.load(line)
    return "; ".join(f"{name}={item.coded_value}" for name, item in jar.items() if item.value)


def _cookies(cookie: str | None) -> str:
    return f"{_CONSENT}; {cookie}" if cookie else _CONSENT


class AsgiDriver:
    """Calls an ASGI app."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def caller(self, path: str, cookie: str | None = None) -> Call:
        """Return a function that makes this request, and throws the answer away."""

        async def forget(message: Any) -> None:
            pass

        scope = self._scope(path, cookie)
        return lambda: self._call(scope.copy(), forget)

    async def get(self, path: str, cookie: str | None = None) -> Answer:
        """Return the answer to this request."""
        start: dict[str, Any] = {}
        body: list[bytes] = []

        async def keep(message: Any) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.append(message.get("body", b""))

        await self._call(self._scope(path, cookie), keep)
        lines = [v.decode("latin-1") for k, v in start["headers"] if k.lower() == b"set-cookie"]
        return Answer(start["status"], b"".join(body), _jar(lines))

    def _scope(self, path: str, cookie: str | None) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [*_HEADERS, (b"cookie", _cookies(cookie).encode())],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 80),
        }

    def _call(self, scope: dict[str, Any], send: Any) -> Awaitable[object]:
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await asyncio.get_running_loop().create_future()  # the client stays
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        # Servers make these for each request.
        scope["state"], scope["extensions"] = {}, {}
        call: Awaitable[object] = self.app(scope, receive, send)
        return call


class AiohttpDriver:
    """Calls the handler of an aiohttp app, which has no interface that is as narrow as ASGI."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def _request(self, path: str, cookie: str | None) -> Any:
        make: Any = import_module("aiohttp.test_utils").make_mocked_request
        headers = {name.decode().title(): value.decode() for name, value in _HEADERS}
        return make("GET", path, headers={**headers, "Cookie": _cookies(cookie)}, app=self.app)

    def caller(self, path: str, cookie: str | None = None) -> Call:
        """Return a function that makes this request, and throws the answer away."""
        fresh, handle = self._request(path, cookie).clone, self.app._handle
        return lambda: handle(fresh())

    async def get(self, path: str, cookie: str | None = None) -> Answer:
        """Return the answer to this request."""
        response = await self.app._handle(self._request(path, cookie))
        lines = [morsel.OutputString() for morsel in response.cookies.values()]
        return Answer(response.status, response.body or b"", _jar(lines))


def driver(framework: str, app: Any) -> AsgiDriver | AiohttpDriver:
    """Return what calls an app of this framework."""
    return AiohttpDriver(app) if framework == "aiohttp" else AsgiDriver(app)
