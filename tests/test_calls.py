"""Function calls per request over the bare app: what speed comes to, free of any machine's noise.

Counted as the profiler sees them, Python's and C's. A limit is raised only with a reason.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from statistics import median
from types import FrameType
from typing import Any

import aiomcache
import pytest
import quart
from harness import KEY
from pymongo import AsyncMongoClient
from redis.asyncio import Redis
from servers import QUIET
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from async_session import SessionStore
from async_session.quart import QuartSession, ServerSideSessionInterface
from async_session.starlette import SessionMiddleware
from async_session.stores.memcached import MemcachedStore
from async_session.stores.memory import MemoryStore
from async_session.stores.mongodb import MongoStore
from async_session.stores.redis import RedisStore
from async_session.testing import make_cookie

pytestmark = pytest.mark.anyio

DATA = {"user_id": 42, "name": "Ada", "theme": "dark", "cart": [1, 2, 3]}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def untouched(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def reads(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(request.session["user_id"]))


def quart_app() -> quart.Quart:
    app = quart.Quart(__name__)
    app.secret_key = KEY

    @app.get("/untouched")
    async def untouched() -> str:
        return "ok"

    @app.get("/reads")
    async def reads() -> str:
        return str(quart.session["user_id"])

    return app


async def writes(request: Request) -> PlainTextResponse:
    request.session["user_id"] += 1
    return PlainTextResponse("ok")


def _caller(app: Any, path: str, cookie: str | None) -> Callable[[], Awaitable[None]]:
    headers = [(b"host", b"localhost"), (b"accept", b"*/*")]
    if cookie is not None:
        headers.append((b"cookie", f"theme=dark; session={cookie}; tracking=1".encode()))
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": headers,
    }

    async def send(message: Any) -> None:
        pass

    async def call() -> None:
        request: dict[str, object] = {"type": "http.request", "body": b"", "more_body": False}
        messages = [request]

        async def receive() -> dict[str, object]:
            if not messages:
                await asyncio.Event().wait()  # Quart waits for the client's disconnect
            return messages.pop()

        await app(dict(scope), receive, send)

    return call


#: A turn of the event loop. How many an answer takes is a matter of time, and not of calls.
_TURN = asyncio.BaseEventLoop._run_once.__code__  # type: ignore[attr-defined]  # it is private


def _of_a_turn(frame: FrameType) -> bool:
    """Tell whether a function is the event loop's own: a turn, or called by one directly."""
    caller = frame.f_back
    return frame.f_code is _TURN or (caller is not None and caller.f_code is _TURN)


async def _count(
    call: Callable[[], Awaitable[object]], *, turns: bool = True
) -> tuple[float, float]:
    for _ in range(20):
        await call()
    counts: list[dict[str, int]] = []
    before = sys.getprofile()
    gc.disable()
    try:
        for _ in range(21):
            seen = {"call": 0, "c_call": 0}

            def profile(frame: FrameType, event: str, arg: object, seen: Any = seen) -> None:
                if event in seen and (turns or not _of_a_turn(frame)):
                    seen[event] += 1

            sys.setprofile(profile)
            await call()
            sys.setprofile(before)
            counts.append(seen)
    finally:
        sys.setprofile(before)
        gc.enable()
    return median(c["call"] for c in counts), median(c["c_call"] for c in counts)


async def _over_bare(store: SessionStore, path: str, *, with_cookie: bool) -> tuple[float, float]:
    routes = [Route("/untouched", untouched), Route("/reads", reads), Route("/writes", writes)]
    bare = await _count(_caller(Starlette(routes=routes), "/untouched", None))
    app = Starlette(routes=routes)
    app.add_middleware(SessionMiddleware, secret_key=KEY, store=store)
    cookie = await make_cookie(store, DATA, secret_key=KEY) if with_cookie else None
    ours = await _count(_caller(app, path, cookie))
    return ours[0] - bare[0], ours[1] - bare[1]


async def test_an_untouched_anonymous_request() -> None:
    python, c = await _over_bare(MemoryStore(), "/untouched", with_cookie=False)
    assert python <= 3
    assert c <= 2


async def test_a_read_from_memory() -> None:
    python, c = await _over_bare(MemoryStore(), "/reads", with_cookie=True)
    assert python <= 16
    assert c <= 16


@pytest.mark.parametrize(("path", "limits"), [("/reads", (60, 60)), ("/writes", (160, 145))])
async def test_a_request_over_the_shared_redis_connection(
    redis_url: str, path: str, limits: tuple[int, int]
) -> None:
    store = RedisStore(redis_url)
    python, c = await _over_bare(store, path, with_cookie=True)
    assert python <= limits[0]
    assert c <= limits[1]
    await store.aclose()


def _interface(app: quart.Quart, store: SessionStore) -> None:
    app.session_interface = ServerSideSessionInterface(store)  # type: ignore[assignment]  # Quart names its default's type


def _extension(app: quart.Quart, store: SessionStore) -> None:
    QuartSession(app, store)


@pytest.mark.parametrize(
    ("set_up", "path", "limit"),
    [
        (_interface, "/untouched", 9),
        (_interface, "/reads", 30),
        (_extension, "/untouched", 12),
        (_extension, "/reads", 34),
    ],
)
async def test_a_request_on_quart(
    set_up: Callable[[quart.Quart, SessionStore], None], path: str, limit: int
) -> None:
    null = quart_app()
    null.secret_key = None
    bare = await _count(_caller(null, "/untouched", None))
    store, app = MemoryStore(), quart_app()
    set_up(app, store)
    cookie = await make_cookie(store, DATA, secret_key=KEY) if path == "/reads" else None
    ours = await _count(_caller(app, path, cookie))
    assert ours[0] - bare[0] <= limit  # those of C depend on Python's version


async def _share(store: SessionStore, driver: Callable[[], Awaitable[object]]) -> float:
    """Return a read's calls as a share of those of the driver's own read."""
    key = "ab" * 32
    await store.save(key, bytes(range(200)), ttl=60)
    ours = await _count(lambda: store.open(key), turns=False)
    return sum(ours) / sum(await _count(driver, turns=False))


async def test_a_read_over_a_redis_client_takes_less_than_its_get(redis_url: str) -> None:
    client = Redis.from_url(redis_url, **QUIET)
    await client.set("raw", bytes(range(200)))
    assert await _share(RedisStore(client), lambda: client.get("raw")) <= 0.9
    await client.aclose()


async def test_a_read_from_memcached_takes_less_than_its_driver(memcached_url: str) -> None:
    host, port = memcached_url.removeprefix("memcached://").split(":")
    client = aiomcache.Client(host, int(port))
    await client.set(b"raw", bytes(range(200)))
    store = MemcachedStore(memcached_url)
    assert await _share(store, lambda: client.get(b"raw")) <= 0.9
    await store.aclose()
    await client.close()


async def test_a_read_from_mongodb_takes_hardly_more_than_find_one(mongodb_url: str) -> None:
    client: Any = AsyncMongoClient(mongodb_url)
    sessions = client.get_default_database()["calls"]
    await sessions.replace_one({"_id": "raw"}, {"payload": bytes(range(200))}, upsert=True)
    store = MongoStore(sessions)
    assert await _share(store, lambda: sessions.find_one({"_id": "raw"})) <= 1.01
    await client.close()
