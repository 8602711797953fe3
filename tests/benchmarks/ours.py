"""Our own apps for the peer benchmark: the same four views as every peer's, behind our adapters.

The benchmark, `peer_bench.py`, is not part of this repository; it takes this module as
``--plugin ours:register``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from async_session import SessionPolicy
from async_session.stores.memory import MemoryStore

KEY = "k" * 32


def register(add: Callable[..., None], env: Any) -> None:
    """Add our peers; `add` and `env` are the benchmark's."""
    for name, make in _stores(env).items():
        add(f"OURS starlette {name}", "starlette bare", _starlette(make))
        add(f"OURS quart {name}", "quart bare", _quart(make))


def _stores(env: Any) -> dict[str, Callable[[], Any]]:
    def redis() -> Any:
        from async_session.stores.redis import RedisStore

        return RedisStore(f"redis://127.0.0.1:{env.redis_port}/0")

    def memcached() -> Any:
        from async_session.stores.memcached import MemcachedStore

        return MemcachedStore(f"127.0.0.1:{env.mc_port}")

    return {"memory": MemoryStore, "redis": redis, "memcached": memcached}


def _starlette(make: Callable[[], Any]) -> Callable[..., Any]:
    async def build(rolling: bool, data: dict[str, Any]) -> Any:
        asgi = importlib.import_module("peer_bench").Asgi
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        from async_session.starlette import SessionMiddleware

        async def a(request: Any) -> Any:
            return PlainTextResponse("ok")

        async def c(request: Any) -> Any:
            return PlainTextResponse(str(request.session["user_id"]))

        async def d(request: Any) -> Any:
            request.session["n"] = request.session["n"] + 1
            return PlainTextResponse("ok")

        async def seed(request: Any) -> Any:
            request.session.update(data)
            return PlainTextResponse("ok")

        routes = [Route("/a", a), Route("/c", c), Route("/d", d), Route("/seed", seed)]
        options: dict[str, Any] = {"store": make(), "refresh_each_request": rolling}
        return asgi(
            Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, KEY, **options)])
        )

    return build


def _quart(make: Callable[[], Any]) -> Callable[..., Any]:
    async def build(rolling: bool, data: dict[str, Any]) -> Any:
        asgi = importlib.import_module("peer_bench").Asgi
        from quart import Quart, session

        from async_session.quart import ServerSideSessionInterface

        app = Quart("ours")
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
            session.permanent = rolling
            session.update(data)
            return "ok"

        app.session_interface = ServerSideSessionInterface(  # type: ignore[assignment]
            make(), policy=SessionPolicy()
        )
        await app.startup()
        return asgi(app)

    return build
