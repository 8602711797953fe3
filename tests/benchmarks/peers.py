"""The other packages, each set up as its own documentation says; the group `bench` has versions.

Nothing here is imported before it is measured.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import apps
import least
import ours

Build = Callable[[bool, dict[str, Any]], Awaitable[Any]]

_ON_QUART = frozenset(("memory", "redis", "memcached"))


class Peer(NamedTuple):
    """A way to have sessions on a framework; `store` is "" for the bare app."""

    name: str
    framework: str
    store: str
    build: Build
    workloads: str = "ABCDE"

    @property
    def in_cookie(self) -> bool:
        return self.store == "cookie"


def all_of(servers: Any) -> Iterator[Peer]:
    """Return every app that is measured: bare ones, the peers', ours."""
    yield from _starlette(servers)
    yield from _others(servers)
    yield from _quart(servers)
    for name, builders in (("the least", least.builders), ("async_session", ours.builders)):
        for setup in ours.setups(servers):
            for framework, build in builders(setup):
                if framework == "starlette" or setup.name in _ON_QUART:
                    yield Peer(name, framework, setup.name, build, setup.workloads)


def _redis(servers: Any, **options: Any) -> Any:
    client: Any = import_module("redis.asyncio").Redis
    return client(port=servers.redis_port, **options)


def _starlette(servers: Any) -> Iterator[Peer]:
    from starlette.middleware import Middleware

    async def bare(rolling: bool, data: dict[str, Any]) -> Any:
        return apps.starlette(data)

    async def own(rolling: bool, data: dict[str, Any]) -> Any:
        middleware: Any = import_module("starlette.middleware.sessions").SessionMiddleware
        return apps.starlette(data, [Middleware(middleware, secret_key=apps.KEY)])

    def starsessions(make_store: Callable[[Any], Any]) -> Build:
        async def build(rolling: bool, data: dict[str, Any]) -> Any:
            package: Any = import_module("starsessions")
            options = {"store": make_store(package), "lifetime": 3600, "rolling": rolling}
            middleware = Middleware(package.SessionMiddleware, **options)
            return apps.starlette(data, [middleware], package.load_session)

        return build

    def in_redis(package: Any) -> Any:
        return import_module("starsessions.stores.redis").RedisStore(connection=_redis(servers))

    yield Peer("bare", "starlette", "", bare, "A")
    yield Peer("Starlette's own", "starlette", "cookie", own, "ABCD")
    yield Peer("starsessions", "starlette", "memory", starsessions(lambda p: p.InMemoryStore()))
    yield Peer("starsessions", "starlette", "redis", starsessions(in_redis))


def _others(servers: Any) -> Iterator[Peer]:
    async def bare_litestar(rolling: bool, data: dict[str, Any]) -> Any:
        return apps.litestar(data)

    async def litestar(rolling: bool, data: dict[str, Any]) -> Any:
        store: Any = import_module("litestar.stores.redis").RedisStore(redis=_redis(servers))
        module: Any = import_module("litestar.middleware.session.server_side")
        config = module.ServerSideSessionConfig(renew_on_access=rolling, max_age=3600)
        return apps.litestar(data, stores={"sessions": store}, middleware=[config.middleware])

    async def bare_aiohttp(rolling: bool, data: dict[str, Any]) -> Any:
        return apps.aiohttp(data)

    async def aiohttp(rolling: bool, data: dict[str, Any]) -> Any:
        storage: Any = import_module("aiohttp_session.redis_storage").RedisStorage
        return apps.aiohttp(data, storage(_redis(servers), max_age=3600))

    yield Peer("bare", "litestar", "", bare_litestar, "A")
    yield Peer("Litestar's own", "litestar", "redis", litestar)
    yield Peer("bare", "aiohttp", "", bare_aiohttp, "A")
    yield Peer("aiohttp-session", "aiohttp", "redis", aiohttp, "ABCD")


def _quart(servers: Any) -> Iterator[Peer]:
    async def bare(rolling: bool, data: dict[str, Any]) -> Any:
        return await apps.quart(data, lambda app: setattr(app, "secret_key", None))

    async def own(rolling: bool, data: dict[str, Any]) -> Any:
        return await apps.quart(data)

    async def quart_session(rolling: bool, data: dict[str, Any]) -> Any:
        def set_up(app: Any) -> None:
            app.config["SESSION_TYPE"] = "redis"
            app.config["SESSION_REDIS"] = _redis(servers, decode_responses=True)
            import_module("quart_session").Session(app)

        return await apps.quart(data, set_up)

    yield Peer("bare", "quart", "", bare, "A")
    yield Peer("Quart's own", "quart", "cookie", own, "ABCD")
    yield Peer("quart-session", "quart", "redis", quart_session, "ABCD")
