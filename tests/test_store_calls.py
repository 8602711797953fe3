"""Nothing is done twice or for nothing: store calls per request, on both adapters and every store.

No refresh is due unless the row says so; a due refresh adds exactly one call.
"""

from __future__ import annotations

from typing import Any

import pytest
from harness import ADAPTERS, KEY, VIEWS, Client, Clock, request, starlette_app
from redis.asyncio import Redis
from servers import QUIET, RedisServer

from async_session import SessionPolicy, SessionStore
from async_session.starlette import SessionMiddleware
from async_session.stores.memory import MemoryStore
from async_session.stores.redis import RedisStore
from async_session.testing import RecordingStore, make_cookie

pytestmark = pytest.mark.anyio

FORGED = "A" * 43 + "." + "B" * 43

#: what the client holds, the view, the calls; the last column with a refresh due
CALLS = [
    ("no cookie", "nothing", [], []),
    ("no cookie", "read", [], []),
    ("no cookie", "clear", [], []),
    ("no cookie", "logout", [], []),
    ("no cookie", "write", ["save"], ["save"]),
    ("no cookie", "login", ["save"], ["save"]),
    ("forged", "nothing", [], []),
    ("forged", "read", [], []),
    ("forged", "write", ["save"], ["save"]),
    ("loaded", "nothing", ["open"], ["open", "save"]),
    ("loaded", "read", ["open"], ["open", "save"]),
    ("loaded", "write", ["open", "save"], ["open", "save"]),
    ("loaded", "logout", ["open", "save"], ["open", "save"]),
    ("loaded", "clear", ["open", "save"], ["open", "save"]),
    ("loaded", "login", ["open", "save", "save"], ["open", "save", "save"]),
    ("loaded", "regenerate", ["open", "save", "save"], ["open", "save", "save"]),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
@pytest.mark.parametrize("due", [False, True], ids=["rested", "due"])
@pytest.mark.parametrize(("holds", "view", "rested", "refreshed"), CALLS)
async def test_calls_per_request(
    adapter: str,
    due: bool,
    holds: str,
    view: str,
    rested: list[str],
    refreshed: list[str],
    any_store: SessionStore,
) -> None:
    store, clock = RecordingStore(any_store), Clock()
    policy = SessionPolicy(permanent=True, refresh_interval=60)
    client = Client(ADAPTERS[adapter](VIEWS, store, policy=policy, clock=clock))
    if holds == "loaded":
        await client.get("sign_in")
    elif holds == "forged":
        client.cookie = FORGED
    store.calls.clear()
    clock.advance(60 if due else 59)
    assert (await client.get(view)).status == 200
    assert [verb for verb, _ in store.calls] == (refreshed if due else rested)


@pytest.mark.parametrize(
    ("path", "skipped"),
    [("/static", True), ("/static/app.css", True), ("/statics", False), ("/", False)],
)
async def test_a_skipped_path_makes_no_call(path: str, skipped: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert ("session" in scope) is not skipped
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    store = RecordingStore(MemoryStore())
    cookie = await make_cookie(store, {"a": 1}, secret_key=KEY)
    store.calls.clear()
    guarded = SessionMiddleware(app, KEY, store=store, skip=("/static",))
    assert (await request(guarded, path, cookie=cookie)).status == 204
    assert len(store.calls) == (0 if skipped else 1)


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
async def test_a_thousand_anonymous_requests_leave_nothing(
    adapter: str, any_store: SessionStore
) -> None:
    store = RecordingStore(any_store)
    app = ADAPTERS[adapter](VIEWS, store)
    for n in range(1000):
        answer = await request(app, "/read", cookie=FORGED if n % 2 else None)
        assert answer.set_cookie is None
    assert store.calls == []


async def test_round_trips_at_the_redis_server(
    own_redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store call is one command, and one round trip, as the server counts them."""
    store = RedisStore(own_redis_server.url)
    recording = RecordingStore(store)
    app = starlette_app(VIEWS, recording)
    lines = ["", "view         store calls   round trips counted by redis-server"]
    async with Redis.from_url(own_redis_server.url, protocol=2, **QUIET) as observer:
        for view in ("nothing", "read", "write", "regenerate", "login", "logout"):
            client = Client(app)
            await client.get("sign_in")
            await client.twin().get("write")  # the server knows the script from here on
            recording.calls.clear()
            before = (await observer.info("stats"))["total_reads_processed"]
            await client.get(view)
            after = (await observer.info("stats"))["total_reads_processed"]
            trips = after - before - 1  # the observer's own
            lines.append(f"{view:<12} {len(recording.calls):>11}   {trips:>35}")
            assert trips == len(recording.calls)
    with capsys.disabled():
        print("\n".join(lines))
    await store.aclose()
