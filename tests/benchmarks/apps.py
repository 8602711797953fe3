"""The app that everybody serves: four views on each framework, with a session or without.

``/a`` does not touch the session, ``/c`` reads a key of it, ``/d`` writes one, ``/seed`` fills it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

KEY = "k" * 32
PATHS = {"A": "/a", "B": "/a", "C": "/c", "D": "/d", "E": "/c"}

Data = dict[str, Any]
Load = Callable[[Any], Awaitable[None]]


def session_of(size: int) -> Data:
    """Return a session whose JSON has about `size` bytes: an account, then a cart of articles."""
    data: Data = {"user_id": 42, "csrf": "3vFq" * 8, "roles": ["staff", "editor"], "n": 0}
    while size - len(json.dumps(data)) > 100:
        cart = data.setdefault("cart", [])
        cart.append({"sku": f"A-{len(cart):06d}", "count": 2, "cents": 1999, "name": "An article"})
    data["note"] = "x" * max(0, size - len(json.dumps(data)) - 12)
    return data


def starlette(data: Data, middleware: Sequence[Any] = (), load: Load | None = None) -> Any:
    """Return a Starlette app; `load` is awaited with the request before the session is used."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def a(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    async def c(request: Request) -> PlainTextResponse:
        if load is not None:
            await load(request)
        return PlainTextResponse(str(request.session["user_id"]))

    async def d(request: Request) -> PlainTextResponse:
        if load is not None:
            await load(request)
        request.session["n"] = request.session["n"] + 1
        return PlainTextResponse("ok")

    async def seed(request: Request) -> PlainTextResponse:
        if load is not None:
            await load(request)
        request.session.update(data)
        return PlainTextResponse("ok")

    routes = [Route("/a", a), Route("/c", c), Route("/d", d), Route("/seed", seed)]
    return Starlette(routes=routes, middleware=list(middleware))


async def quart(data: Data, set_up: Callable[[Any], object] | None = None) -> Any:
    """Return a Quart app that has been started; `set_up` gives it its sessions."""
    from quart import Quart, session

    app = Quart("shop", root_path=str(Path(__file__).parent))
    app.secret_key = KEY

    @app.get("/a")
    async def a() -> str:
        return "ok"

    @app.get("/c")
    async def c() -> str:
        return str(session["user_id"])

    @app.get("/d")
    async def d() -> str:
        session["n"] = session["n"] + 1
        return "ok"

    @app.get("/seed")
    async def seed() -> str:
        session.update(data)
        return "ok"

    if set_up is not None:
        set_up(app)
    await app.startup()
    return app


def litestar(data: Data, **options: Any) -> Any:
    """Return a Litestar app."""
    package: Any = import_module("litestar")

    async def a() -> str:
        return "ok"

    async def c(request: Any) -> str:
        return str(request.session["user_id"])

    async def d(request: Any) -> str:
        request.session["n"] = request.session["n"] + 1
        return "ok"

    async def seed(request: Any) -> str:
        request.session.update(data)
        return "ok"

    views = [a, c, d, seed]
    for view in views:
        # It reads the annotations as they are, not as texts.
        view.__annotations__ = {"request": package.Request, "return": str}
    a.__annotations__ = {"return": str}
    handlers = [package.get(f"/{view.__name__}", media_type="text/plain")(view) for view in views]
    return package.Litestar(handlers, openapi_config=None, **options)


def aiohttp(data: Data, storage: Any = None) -> Any:
    """Return an aiohttp app."""
    web: Any = import_module("aiohttp.web")
    session_of_request: Any = import_module("aiohttp_session").get_session

    async def a(request: Any) -> Any:
        return web.Response(text="ok")

    async def c(request: Any) -> Any:
        return web.Response(text=str((await session_of_request(request))["user_id"]))

    async def d(request: Any) -> Any:
        session = await session_of_request(request)
        session["n"] = session["n"] + 1
        return web.Response(text="ok")

    async def seed(request: Any) -> Any:
        (await session_of_request(request)).update(data)
        return web.Response(text="ok")

    app = web.Application()
    if storage is not None:
        import_module("aiohttp_session").setup(app, storage)
    for view in (a, c, d, seed):
        app.router.add_get(f"/{view.__name__}", view)
    app.freeze()
    return app
