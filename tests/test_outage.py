"""An outage is not a logout: bounded in time, seen inside the view, never a wrong session."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from harness import ADAPTERS, KEY, VIEWS, Answer, Client, quart_app, starlette_app
from servers import RedisServer, free_port
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from async_session import Session, SessionPolicy, StoreError, StoreUnavailable
from async_session.starlette import SessionMiddleware, get_session
from async_session.stores.memory import MemoryStore
from async_session.stores.redis import RedisStore
from async_session.testing import FaultyStore

pytestmark = pytest.mark.anyio

READS: dict[str, Callable[[Session], object]] = {
    "[]": lambda s: s["a"],
    "get": lambda s: s.get("a"),
    "in": lambda s: "a" in s,
    "len": len,
    "bool": bool,
    "iter": lambda s: list(s),
    "reversed": lambda s: list(reversed(s)),
    "keys": lambda s: s.keys(),
    "values": lambda s: s.values(),
    "items": lambda s: s.items(),
    "copy": lambda s: s.copy(),
    "dict": dict,
    "==": lambda s: s == {},
    "!=": lambda s: s != {},
    "|": lambda s: s | {},
    "r|": lambda s: {} | s,
    "new": lambda s: s.new,
    "owner": lambda s: s.owner,
    "permanent": lambda s: s.permanent,
}
WRITES: dict[str, Callable[[Session], object]] = {
    "set": lambda s: s.__setitem__("a", 1),
    "del": lambda s: s.__delitem__("a"),
    "pop without effect": lambda s: s.pop("user", None),
    "popitem": lambda s: s.popitem(),
    "clear": lambda s: s.clear(),
    "update with nothing": lambda s: s.update({}),
    "|=": lambda s: s.__ior__({}),
    "setdefault": lambda s: s.setdefault("a", 1),
    "login": lambda s: s.login("ada"),
    "owner =": lambda s: setattr(s, "owner", "ada"),
    "permanent =": lambda s: setattr(s, "permanent", True),
    "lifetime =": lambda s: setattr(s, "lifetime", 60),
    "regenerate": lambda s: s.regenerate(),
    "logout": lambda s: s.logout(),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=sorted(ADAPTERS))
def make_app(request: pytest.FixtureRequest) -> Callable[..., Callable[..., Awaitable[None]]]:
    return ADAPTERS[request.param]


async def down(make_app: Any, view: Callable[[Session], object], **policy: Any) -> Answer:
    """Ask a view, with a valid cookie, whose store has gone down; return what it caught."""

    async def caught(session: Session) -> object:
        try:
            return view(session)
        except StoreUnavailable:
            return "StoreUnavailable"

    store = FaultyStore(MemoryStore())
    app = make_app({**VIEWS, "view": caught}, store, policy=SessionPolicy(**policy))
    client = Client(app)
    await client.get("sign_in")
    store.fail("open", times=None)
    return await client.get("view")


@pytest.mark.parametrize("use", [*READS, *WRITES])
async def test_the_first_use_raises_inside_the_view(make_app: Any, use: str) -> None:
    answer = await down(make_app, {**READS, **WRITES}[use])
    assert (answer.status, answer.body) == (200, "'StoreUnavailable'")
    assert answer.set_cookie is None


@pytest.mark.parametrize("use", READS)
async def test_anonymous_reads_as_empty(make_app: Any, use: str) -> None:
    answer = await down(
        make_app, lambda s: use == "[]" or READS[use](s), on_store_error="anonymous"
    )
    assert "StoreUnavailable" not in answer.body
    assert answer.all("cache-control") == ["no-store"]
    assert answer.set_cookie is None


@pytest.mark.parametrize("use", WRITES)
async def test_anonymous_writes_raise_with_or_without_effect(make_app: Any, use: str) -> None:
    answer = await down(make_app, WRITES[use], on_store_error="anonymous")
    assert answer.body == "'StoreUnavailable'"
    assert answer.set_cookie is None


@pytest.mark.parametrize("policy", ["raise", "anonymous"])
async def test_it_can_be_asked_and_shown(make_app: Any, policy: Any) -> None:
    answer = await down(
        make_app, lambda s: (s.unavailable, "Session" in repr(s)), on_store_error=policy
    )
    assert answer.body == "(True, True)"


async def test_a_route_that_touches_nothing_is_served(make_app: Any) -> None:
    answer = await down(make_app, lambda s: "fine")
    assert (answer.status, answer.body) == (200, "'fine'")
    assert answer.vary == []


async def test_a_logout_that_failed_is_an_error(make_app: Any) -> None:
    store = FaultyStore(MemoryStore())
    client = Client(make_app(VIEWS, store))
    await client.get("sign_in")
    store.fail("save", times=None)
    for ending in ("logout", "clear"):
        answer = await client.twin().get(ending)
        assert answer.status in {500, 503}
        assert answer.set_cookie is None
    store.heal()
    assert "ada" in (await client.get("read")).body


async def test_a_failed_save_sets_no_cookie_and_is_tried_once(make_app: Any) -> None:
    store = FaultyStore(MemoryStore())
    client = Client(make_app(VIEWS, store))
    store.fail("save", times=1)
    answer = await client.get("write")
    assert answer.status in {500, 503}
    assert answer.set_cookie is None


async def test_starlette_shapes_the_answer_with_its_own_handler() -> None:
    async def view(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(get_session(request).get("user")))

    async def sorry(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("back soon", status_code=503)

    app: Any = Starlette(
        routes=[Route("/view", view)], exception_handlers={StoreUnavailable: sorry}
    )
    store = FaultyStore(MemoryStore())
    app.add_middleware(SessionMiddleware, KEY, store=store)
    store.fail("open", times=None)
    answer = await Client(app, await _cookie(store)).get("view")
    assert (answer.status, answer.body) == (503, "back soon")


async def test_starlette_without_a_handler_answers_503() -> None:
    store = FaultyStore(MemoryStore())
    app = starlette_app(VIEWS, store)
    cookie = await _cookie(store)
    store.fail("open", times=None)
    answer = await Client(app, cookie).get("read")
    assert answer.status == 503
    assert answer.all("retry-after") == ["5"]
    store.heal()
    store.fail("save")
    answer = await Client(app, cookie).get("write")
    assert answer.status == 503
    assert answer.all("retry-after") == ["5"]


async def test_quart_shapes_the_answer_with_its_own_handler() -> None:
    store = FaultyStore(MemoryStore())
    app = quart_app(VIEWS, store)

    @app.errorhandler(StoreUnavailable)
    async def sorry(error: StoreUnavailable) -> tuple[str, int]:
        return "back soon", 503

    cookie = await _cookie(store)
    store.fail("open", times=None)
    answer = await Client(app, cookie).get("read")
    assert (answer.status, answer.body) == (503, "back soon")


async def test_other_failures_of_a_store_are_no_logout_either(make_app: Any) -> None:
    store = FaultyStore(MemoryStore())

    async def view(session: Session) -> object:
        try:
            return session.get("user")
        except StoreError as error:
            return str(error)

    client = Client(make_app({**VIEWS, "view": view}, store))
    await client.get("sign_in")
    store.fail("open", error=StoreError("wrong type"))
    assert (await client.get("view")).body == "'wrong type'"


@pytest.mark.parametrize("verb", ["open", "save"])
async def test_nothing_waits_longer_than_the_deadline(make_app: Any, verb: Any) -> None:
    store = FaultyStore(_WithoutDeadline())
    client = Client(make_app(VIEWS, store, policy=SessionPolicy(timeout=0.2)))
    await client.get("sign_in")
    store.hang(verb, times=None)
    began = time.monotonic()
    answer = await client.get("write")
    assert time.monotonic() - began < 0.4 * 1.1  # open and commit, each with its deadline
    assert answer.status in {500, 503}
    assert answer.set_cookie is None


class _WithoutDeadline(MemoryStore):
    deadline = None  # type: ignore[assignment]  # so that the manager keeps the time


async def test_an_unreachable_redis(make_app: Any) -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}")
    app = make_app(VIEWS, store)
    cookie = await _cookie(FaultyStore(MemoryStore()))
    assert (await Client(app, cookie).get("nothing")).status == 200
    began = time.monotonic()
    assert (await Client(app, cookie).get("read")).status in {500, 503}
    assert time.monotonic() - began < 1.1
    await store.aclose()


async def test_a_frozen_redis_and_its_thaw(make_app: Any, own_redis_server: RedisServer) -> None:
    store = RedisStore(own_redis_server.url, timeout=0.3)
    client = Client(make_app(VIEWS, store, policy=SessionPolicy(timeout=0.3)))
    await client.get("sign_in")
    own_redis_server.freeze()
    try:
        began = time.monotonic()
        assert (await client.get("nothing")).status == 200
        assert (await client.get("read")).status in {500, 503}
        assert time.monotonic() - began < 2 * 0.3 * 1.1 + 0.1
    finally:
        own_redis_server.thaw()
    assert "ada" in (await client.get("read")).body
    await store.aclose()


async def _cookie(store: FaultyStore) -> str:
    from async_session.testing import make_cookie

    return await make_cookie(store, {"user": "ada"}, secret_key=KEY)
