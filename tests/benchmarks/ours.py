"""Our own apps: the views of `apps.py` behind our adapters, with every store and setting measured.

They are also a plugin of a benchmark outside this repository, as ``--plugin ours:register``.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import apps

from async_session import SessionPolicy
from async_session.serializers import MsgpackSerializer

Build = Callable[[bool, dict[str, Any]], Awaitable[Any]]

#: A refresh interval that no run is long enough for.
_RESTED = 3600


class Setup(NamedTuple):
    """A store, and how it is used. `workloads` are those for which it says something of its own."""

    name: str
    store: Callable[[], Any]
    options: dict[str, Any]
    workloads: str = "ABCDE"


def setups(servers: Any) -> Iterator[Setup]:
    """Return what is measured with these servers; a server without an address is left out.

    Args:
        servers: has the ports `redis_port`, `mc_port`, and may have the URL `mongodb_url`.
    """
    from async_session.stores.filesystem import FileSystemStore
    from async_session.stores.memory import MemoryStore

    def redis() -> Any:
        from async_session.stores.redis import RedisStore

        return RedisStore(f"redis://127.0.0.1:{servers.redis_port}/0")

    def unshared() -> Any:
        from redis.asyncio import Redis

        from async_session.stores.redis import RedisStore

        class OwnRedis(Redis):  # a class that we cannot see into
            pass

        return RedisStore(OwnRedis(port=servers.redis_port, socket_timeout=None))

    def memcached() -> Any:
        from async_session.stores.memcached import MemcachedStore

        return MemcachedStore(f"127.0.0.1:{servers.mc_port}")

    def mongodb() -> Any:
        from async_session.stores.mongodb import MongoStore

        return MongoStore(servers.mongodb_url)

    yield Setup("memory", MemoryStore, {})
    yield Setup("redis", redis, {})
    yield Setup("redis msgpack", redis, {"serializer": MsgpackSerializer()}, "BCD")
    yield Setup("redis rested", redis, {"refresh_interval": _RESTED}, "E")
    yield Setup("redis unshared", unshared, {}, "C")
    if servers.mc_port:
        yield Setup("memcached", memcached, {}, "CD")
        yield Setup("files", lambda: FileSystemStore(tempfile.mkdtemp()), {}, "CD")
    if getattr(servers, "mongodb_url", None):
        yield Setup("mongodb", mongodb, {}, "C")


async def starlette(setup: Setup, rolling: bool, data: dict[str, Any]) -> Any:
    """Return a Starlette app; with `rolling`, using a session prolongs it."""
    from starlette.middleware import Middleware

    from async_session.starlette import SessionMiddleware

    options: dict[str, Any] = {
        "store": setup.store(),
        "policy": SessionPolicy(**setup.options),
        "refresh_each_request": rolling,
    }
    return apps.starlette(data, [Middleware(SessionMiddleware, apps.KEY, **options)])


async def quart(setup: Setup, rolling: bool, data: dict[str, Any]) -> Any:
    """Return a Quart app with the bare interface; with `rolling`, sessions are permanent."""
    from async_session.quart import ServerSideSessionInterface

    policy = SessionPolicy(permanent=rolling, **setup.options)

    def set_up(app: Any) -> None:
        app.session_interface = ServerSideSessionInterface(setup.store(), policy=policy)

    return await apps.quart(data, set_up)


def register(add: Callable[..., None], env: Any) -> None:
    """Add our apps to the benchmark outside; `add` and `env` are that benchmark's."""

    def driven(make: Any, setup: Setup) -> Build:
        async def build(rolling: bool, data: dict[str, Any]) -> Any:
            return importlib.import_module("peer_bench").Asgi(await make(setup, rolling, data))

        return build

    for setup in setups(env):
        rest = {"workloads": setup.workloads}
        add(f"OURS starlette {setup.name}", "starlette bare", driven(starlette, setup), **rest)
        if setup.name != "redis unshared":
            add(f"OURS quart {setup.name}", "quart bare", driven(quart, setup), **rest)


def builders(setup: Setup) -> Iterator[tuple[str, Build]]:
    """Return how to build the setup's app on each framework."""
    yield "starlette", partial(starlette, setup)
    yield "quart", partial(quart, setup)
