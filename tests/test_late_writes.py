"""When a change is saved: before the first byte, after it, in the end, or never, and who is told.

A view has two halves: what it does before the response's first byte, and what it does after it,
in a streamed body, a background task or a websocket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from harness import ADAPTERS, KEY, VIEWS, Client, Clock, View, quart_app, read, request
from quart import Quart, Response
from quart import websocket as quart_websocket
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from async_session import (
    Match,
    Session,
    SessionConflict,
    SessionError,
    SessionGone,
    SessionPolicy,
    SessionStore,
    _log,
)
from async_session.quart import QuartSession
from async_session.quart import get_session as quart_get_session
from async_session.starlette import SessionMiddleware, get_session
from async_session.stores.memory import MemoryStore
from async_session.testing import RecordingStore, make_cookie
from async_session.tokens import CookieSigner

pytestmark = pytest.mark.anyio

App = Callable[..., Awaitable[None]]
TOO_LATE = "await session.save()"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=sorted(ADAPTERS))
def make_app(request: pytest.FixtureRequest) -> Callable[..., App]:
    return ADAPTERS[request.param]


async def nothing(session: Session) -> None:
    pass


async def early(session: Session) -> None:
    session["early"] = 1


async def late(session: Session) -> None:
    session["late"] = 1


async def late_in_place(session: Session) -> None:
    session["cart"].append("late")


async def login(session: Session) -> None:
    session.login("ada")


async def regenerate(session: Session) -> None:
    session.regenerate()


async def logout(session: Session) -> None:
    session.logout()


async def clear(session: Session) -> None:
    session.clear()


async def logout_and_write(session: Session) -> None:
    session.logout()
    session["late"] = 1


async def save_late(session: Session) -> None:
    session["late"] = 1
    await session.save()


async def save_early(session: Session) -> None:
    session["early"] = 1
    await session.save()


# Apps with two halves: /go and, for a websocket, /ws


def on_starlette(first: View, second: View, store: Any, how: str, **options: Any) -> App:
    async def go(request: Request) -> Any:
        session = get_session(request)
        await first(session)

        async def body() -> AsyncIterator[str]:
            yield "first byte"
            await second(session)

        if how == "stream":
            return StreamingResponse(body())
        return PlainTextResponse("all of it", background=BackgroundTask(second, session))

    async def ws(websocket: WebSocket) -> None:
        session = get_session(websocket)
        await first(session)
        await websocket.accept()
        await second(session)
        if how == "a client that goes away":
            await websocket.receive_text()
        if how == "a client that is awaited":
            try:
                await websocket.receive_text()
            except WebSocketDisconnect:
                return
        await websocket.close()

    async def look(request: Request) -> PlainTextResponse:
        return PlainTextResponse(
            repr(await VIEWS[request.path_params["view"]](get_session(request)))
        )

    routes = [Route("/go", go), WebSocketRoute("/ws", ws), Route("/{view}", look)]
    app = Starlette(routes=routes)
    app.add_middleware(SessionMiddleware, secret_key=KEY, max_age=None, store=store, **options)
    return app


def on_quart(first: View, second: View, store: Any, how: str, **options: Any) -> App:
    app = Quart("tests")
    app.config.update({"SECRET_KEY": KEY, "SESSION_PERMANENT": False})
    QuartSession(app, store, **options)

    @app.get("/go")
    async def go() -> Response:
        session = quart_get_session()
        await first(session)

        async def body() -> AsyncIterator[str]:
            yield "first byte"
            await second(session)

        return Response(body())

    @app.websocket("/ws")
    async def ws() -> None:
        session = quart_get_session()
        await first(session)
        await quart_websocket.accept()
        await second(session)
        if how.startswith("a client"):
            await quart_websocket.receive()

    @app.get("/<view>")
    async def look(view: str) -> str:
        return repr(await VIEWS[view](quart_get_session()))

    return app


STREAMS = [(on_starlette, "stream"), (on_starlette, "background"), (on_quart, "stream")]
SOCKETS = [
    (make, how)
    for make in (on_starlette, on_quart)
    for how in ("closed by the app", "a client that goes away", "a client that is awaited")
]


@dataclass
class Talk:
    """What a websocket said."""

    accepted: bool = False
    cookies: list[str] = field(default_factory=list)
    closed: bool = False

    @property
    def sent_id(self) -> str | None:
        assert len(self.cookies) <= 1
        return self.cookies[0].split(";")[0].partition("=")[2] if self.cookies else None


async def connect(app: App, cookie: str | None) -> Talk:
    """Open a websocket; the client goes away as soon as the app waits for it."""
    headers = [(b"host", b"localhost")]
    if cookie is not None:
        headers.append((b"cookie", f"session={cookie}".encode()))
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/ws",
        "raw_path": b"/ws",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "subprotocols": [],
        "state": {},
        "extensions": {},
    }
    talk = Talk()
    idle = asyncio.Event()
    asked = 0

    async def receive() -> dict[str, object]:
        nonlocal asked
        asked += 1
        if asked == 1:
            return {"type": "websocket.connect"}
        await idle.wait()
        return {"type": "websocket.disconnect", "code": 1001}

    async def send(message: Any) -> None:
        if message["type"] == "websocket.accept":
            talk.accepted = True
            talk.cookies = [
                value.decode() for name, value in message["headers"] if name == b"set-cookie"
            ]
        elif message["type"] == "websocket.close":
            talk.closed = True

    async def hang_up() -> None:
        for _ in range(100):  # far more turns than any view takes
            await asyncio.sleep(0)
        idle.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(hang_up())
        await app(scope, receive, send)
    return talk


class World:
    """An app with two halves, a client, and what the server would log."""

    def __init__(
        self, caplog: Any, make: Any, how: str, first: View, second: View, **options: Any
    ) -> None:
        self.caplog = caplog
        self.store = RecordingStore(MemoryStore())
        self.app: App = make(first, second, self.store, how, **options)
        self.client = Client(self._as_a_server(self.app))

    def _as_a_server(self, app: App) -> App:
        async def served(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except (SessionError, WebSocketDisconnect) as error:
                self.raised.append(str(error))

        self.raised: list[str] = []
        return served

    @property
    def said(self) -> str:
        # What is said of caches is another matter: below.
        lines = [line for line in self.caplog.text.splitlines() if "Vary" not in line]
        return "\n".join([*self.raised, *lines])

    async def sees(self, cookie: str | None = None) -> Any:
        return eval((await self.client.twin().get("read", cookie=cookie)).body)

    async def talk(self) -> Talk:
        talk = await connect(self.client.app, self.client.cookie)
        self.client.cookie = talk.sent_id or self.client.cookie
        return talk


# After the first byte

#: the two halves; what a client that came with {'user', 'cart'} finds then, and what is said
LOADED: list[tuple[View, View, dict[str, Any], str]] = [
    (nothing, nothing, {"user": 1, "cart": []}, ""),
    (nothing, late, {"user": 1, "cart": [], "late": 1}, ""),
    (early, late, {"user": 1, "cart": [], "early": 1, "late": 1}, ""),
    (early, nothing, {"user": 1, "cart": [], "early": 1}, ""),
    (nothing, late_in_place, {"user": 1, "cart": ["late"]}, ""),
    (early, late_in_place, {"user": 1, "cart": ["late"], "early": 1}, ""),
    (nothing, save_late, {"user": 1, "cart": [], "late": 1}, ""),
    (nothing, logout, {}, ""),
    (early, logout, {}, ""),
    (nothing, clear, {}, ""),
    (nothing, logout_and_write, {}, TOO_LATE),
    (nothing, login, {"user": 1, "cart": []}, TOO_LATE),
    (nothing, regenerate, {"user": 1, "cart": []}, TOO_LATE),
    (early, regenerate, {"user": 1, "cart": [], "early": 1}, TOO_LATE),
    (regenerate, late, {"user": 1, "cart": [], "late": 1}, ""),
    (login, late, {"user": 1, "cart": [], "late": 1}, ""),
    (logout, late, {}, TOO_LATE),
]
#: the same for a client that came without a session
NEW: list[tuple[View, View, dict[str, Any], str]] = [
    (nothing, nothing, {}, ""),
    (nothing, late, {}, TOO_LATE),
    (nothing, login, {}, TOO_LATE),
    (nothing, save_late, {}, TOO_LATE),
    (nothing, clear, {}, ""),
    (nothing, logout, {}, ""),
    (nothing, regenerate, {}, ""),
    (early, late, {"early": 1, "late": 1}, ""),
    (save_early, late, {"early": 1, "late": 1}, ""),
    (save_early, nothing, {"early": 1}, ""),
    (early, logout, {}, ""),
]


def named(value: object) -> str:
    return getattr(value, "__name__", str(value))


def cases(rows: Any) -> Any:
    return pytest.mark.parametrize(("first", "second", "left", "said"), rows, ids=named)


async def start(world: World) -> None:
    """Give the client a session."""
    world.client.cookie = await make_cookie(world.store, {"user": 1, "cart": []}, secret_key=KEY)


@pytest.mark.parametrize(("make", "how"), STREAMS, ids=named)
@cases(LOADED)
async def test_a_loaded_session_after_the_first_byte(
    caplog: Any, make: Any, how: str, first: View, second: View, left: Any, said: str
) -> None:
    world = World(caplog, make, how, first, second)
    await start(world)
    answer = await world.client.get("go")
    assert (answer.status, answer.body) in [(200, "first byte"), (200, "all of it")]
    assert await world.sees() == left
    assert said in world.said
    assert said or world.said == ""


@pytest.mark.parametrize(("make", "how"), STREAMS, ids=named)
@cases(NEW)
async def test_a_new_session_after_the_first_byte(
    caplog: Any, make: Any, how: str, first: View, second: View, left: Any, said: str
) -> None:
    world = World(caplog, make, how, first, second)
    answer = await world.client.get("go")
    assert answer.status == 200
    assert await world.sees() == left
    assert said in world.said
    if not left and first is nothing:
        assert answer.sent_id is None
        assert world.store.calls == []  # nothing that nobody can ever open


@pytest.mark.parametrize(("make", "how"), STREAMS, ids=named)
async def test_nothing_late_costs_nothing(caplog: Any, make: Any, how: str) -> None:
    world = World(caplog, make, how, early, read)
    await start(world)
    world.store.calls.clear()
    await world.client.get("go")
    assert [verb for verb, _ in world.store.calls] == ["open", "save"]


@pytest.mark.parametrize(("make", "how"), STREAMS, ids=named)
@pytest.mark.parametrize(
    ("other", "left"),
    [
        ("write", {"user": 1, "cart": [], "written": True, "late": 1}),
        ("logout", {}),
        ("clear", {}),
        ("login", {}),
        ("regenerate", {}),
    ],
)
async def test_a_late_write_beside_another_request(
    caplog: Any, make: Any, how: str, other: str, left: Any
) -> None:
    async def meanwhile(session: Session) -> None:
        session["late"] = 1
        await world.client.twin().get(other)

    world = World(caplog, make, how, nothing, meanwhile)
    await start(world)
    await world.client.get("go")
    assert await world.sees() == left


async def touch(session: Session) -> None:
    session.get("user")


async def announce(session: Session) -> None:
    session.mark_accessed()


@pytest.mark.parametrize(("make", "how"), STREAMS, ids=named)
@pytest.mark.parametrize("loaded", [False, True], ids=["new", "loaded"])
@pytest.mark.parametrize(
    ("first", "second", "warns"),
    [
        (nothing, nothing, False),
        (nothing, touch, True),
        (touch, touch, False),
        (announce, touch, False),
        (early, touch, False),
    ],
    ids=named,
)
async def test_a_first_touch_after_the_first_byte_warns_of_caches(
    caplog: Any,
    monkeypatch: pytest.MonkeyPatch,
    make: Any,
    how: str,
    loaded: bool,
    first: View,
    second: View,
    warns: bool,
) -> None:
    monkeypatch.setattr(_log, "_given", set())
    world = World(caplog, make, how, first, second)
    if loaded:
        await start(world)
    for _ in range(2):
        world.client.cookie = world.client.cookie if loaded else None
        answer = await world.client.get("go")
        assert answer.vary == ([] if first is nothing else ["Cookie"])
    said = [message for message in caplog.messages if "Vary" in message]
    assert len(said) == warns  # once, not for each request
    assert all("session.mark_accessed(), before the first byte" in message for message in said)


# Websockets


@pytest.mark.parametrize(("make", "how"), SOCKETS, ids=named)
@cases(LOADED)
async def test_a_loaded_session_in_a_websocket(
    caplog: Any, make: Any, how: str, first: View, second: View, left: Any, said: str
) -> None:
    world = World(caplog, make, how, first, second)
    await start(world)
    talk = await world.talk()
    assert talk.accepted
    assert len(talk.cookies) == (first is not nothing)
    assert await world.sees() == left
    assert said in world.said


@pytest.mark.parametrize(("make", "how"), SOCKETS, ids=named)
@cases(NEW)
async def test_a_new_session_in_a_websocket(
    caplog: Any, make: Any, how: str, first: View, second: View, left: Any, said: str
) -> None:
    world = World(caplog, make, how, first, second)
    talk = await world.talk()
    assert talk.accepted
    assert (talk.sent_id is not None) is (first is not nothing)
    assert await world.sees() == left
    assert said in world.said
    if first is nothing:
        assert "save" not in [verb for verb, _ in world.store.calls]


@pytest.mark.parametrize(("make", "how"), SOCKETS, ids=named)
@pytest.mark.parametrize(
    ("other", "left"),
    [("write", {"user": 1, "cart": [], "written": True, "late": 1}), ("logout", {})],
)
async def test_a_websocket_merges_at_its_end(
    caplog: Any, make: Any, how: str, other: str, left: Any
) -> None:
    async def meanwhile(session: Session) -> None:
        session["late"] = 1
        await world.client.twin().get(other)

    world = World(caplog, make, how, nothing, meanwhile)
    await start(world)
    await world.talk()
    assert await world.sees() == left


@pytest.mark.parametrize("make", [on_starlette, on_quart], ids=named)
async def test_save_in_a_websocket_is_at_once_and_refreshes(caplog: Any, make: Any) -> None:
    seen: list[Any] = []
    clock = Clock()

    async def chat(session: Session) -> None:
        session["n"] = 1
        await session.save()
        seen.append(await world.sees())
        for _ in range(3):
            clock.advance(90)  # a long talk: each save prolongs the session
            await session.save()
            seen.append(bool(await world.sees()))
        clock.advance(100 + 10 + 1)
        seen.append(bool(await world.sees()))

    async def stay(session: Session) -> None:
        session.permanent = True

    policy = SessionPolicy(lifetime=100, refresh_interval=10)
    options: dict[str, Any] = {"policy": policy, "clock": clock}
    world = World(caplog, make, "closed by the app", stay, chat, **options)
    if make is on_quart:
        app: Any = world.app
        app.config["PERMANENT_SESSION_LIFETIME"] = 100
    world.client.cookie = await make_cookie(world.store, {"user": 1}, secret_key=KEY, clock=clock)
    await world.talk()
    assert seen == [{"user": 1, "_permanent": True, "n": 1}, True, True, True, False]


@pytest.mark.parametrize("make", [on_starlette, on_quart], ids=named)
async def test_save_too_late_raises_in_the_view(caplog: Any, make: Any) -> None:
    caught: list[str] = []

    async def try_it(session: Session) -> None:
        session["late"] = 1
        try:
            await session.save()
        except SessionError as error:
            caught.append(str(error))

    world = World(caplog, make, "closed by the app", nothing, try_it)
    await world.talk()
    assert TOO_LATE in caught[0]
    assert "save" not in [verb for verb, _ in world.store.calls]


# Exceptions


@pytest.mark.parametrize("adapter", ["starlette", "quart"])
@pytest.mark.parametrize(
    ("raises", "status", "saved_by"),
    [
        (None, 200, {"starlette", "quart"}),
        (KeyError, 418, {"starlette", "quart"}),  # the app handles it
        (LookupError, 500, {"quart"}),  # as Flask; Starlette's 500 is written outside of us
    ],
)
async def test_an_exception_that_leaves_the_app_discards_and_a_handled_one_does_not(
    adapter: str, raises: type[Exception] | None, status: int, saved_by: set[str]
) -> None:
    async def view(session: Session) -> None:
        session["a"] = 1
        if raises is not None:
            raise raises

    app: Any = ADAPTERS[adapter]({**VIEWS, "view": view}, MemoryStore())
    if adapter == "quart":

        @app.errorhandler(KeyError)
        async def handled(error: KeyError) -> tuple[str, int]:
            return "handled", 418
    else:

        async def handle(request: Request, error: Exception) -> PlainTextResponse:
            return PlainTextResponse("handled", 418)

        app.add_exception_handler(KeyError, handle)
    client = Client(app)
    await client.get("sign_in")
    statuses: list[int] = []
    answered = Client(_remembering(app, statuses), client.cookie)
    if adapter == "starlette" and raises is LookupError:
        with pytest.raises(LookupError):
            await answered.get("view")
    else:
        answer = await answered.get("view")
        assert (answer.set_cookie is not None) is (adapter in saved_by)
    assert statuses == [status]
    assert ("'a': 1" in (await client.get("read")).body) is (adapter in saved_by)


def _remembering(app: App, statuses: list[int]) -> App:
    async def served(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        await app(scope, receive, sending)

    return served


# Cancellation


class GateStore(MemoryStore):
    """A store whose saves wait at a gate, once it is shut."""

    deadline = None  # type: ignore[assignment]  # it waits, so the manager has to keep the time

    def __init__(self) -> None:
        super().__init__()
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.reached = asyncio.Event()

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        self.reached.set()
        await self.open_gate.wait()
        return await super().save(key, data, ttl=ttl, match=match)


HANG_UPS = ["task.cancel", "task.cancel, again and again", "a scope", "http.disconnect"]


@pytest.mark.parametrize("how", HANG_UPS)
@pytest.mark.parametrize(
    ("view", "left"), [("write", "'written': True"), ("logout", "{}"), ("clear", "{}")]
)
async def test_a_client_that_hangs_up_during_the_commit(
    make_app: Any, how: str, view: str, left: str
) -> None:
    store = GateStore()
    client = Client(make_app(VIEWS, store, policy=SessionPolicy(timeout=60)))
    await client.get("sign_in")
    store.open_gate.clear()
    store.reached.clear()
    hung_up = asyncio.Event()
    scope = anyio.CancelScope()

    async def visit() -> None:
        with scope:
            await Client(_hanging_up(client.app, hung_up), client.cookie).get(view)

    task = asyncio.ensure_future(visit())
    await store.reached.wait()
    if how == "a scope":
        scope.cancel()
    elif how == "http.disconnect":
        hung_up.set()
    else:
        for _ in range(5 if "again" in how else 1):
            task.cancel()
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    # Whoever cancels waits until it is known what became of the write; but Quart does not pass a
    # cancellation from outside on to its own tasks: it leaves them running.
    assert task.done() is (make_app is quart_app and how != "http.disconnect")
    assert "ada" in (await client.twin().get("read")).body
    store.open_gate.set()
    await asyncio.wait([task])
    for _ in range(20):
        await asyncio.sleep(0)
    assert task.cancelled() is ("task" in how)
    assert left in (await client.twin().get("read")).body


def _hanging_up(app: App, hung_up: asyncio.Event) -> App:
    """A server that tells the app when its client has gone."""

    async def served(scope: Any, receive: Any, send: Any) -> None:
        asked = False

        async def receiving() -> Any:
            nonlocal asked
            if asked:
                await hung_up.wait()
                return {"type": "http.disconnect"}
            asked = True
            return await receive()

        await app(scope, receiving, send)

    return served


# What save() and a commit do in doubt


async def attempt(client: Client, view: str) -> str:
    """Return what came of a request: its status, or the exception that left the app."""
    try:
        return str((await client.get(view)).status)
    except SessionError as error:
        return type(error).__name__


def beside(other: str, *, save: bool) -> Callable[[Callable[[], Client]], View]:
    """Make a view that writes while another request of the same client does `other`."""

    def make(client: Callable[[], Client]) -> View:
        async def view(session: Session) -> object:
            session["mine"] = 1
            await client().twin().get(other)
            if save:
                try:
                    await session.save()
                except SessionGone as error:
                    return "gone" if error.handle == session.handle else "another is gone"
            return "fine"

        return view

    return make


@pytest.mark.parametrize("on_gone", ["drop", "raise"])
@pytest.mark.parametrize("other", ["logout", "clear", "login", "regenerate"])
async def test_save_raises_if_the_session_was_ended_meanwhile(
    make_app: Any, other: str, on_gone: Any
) -> None:
    store = MemoryStore()
    view = beside(other, save=True)(lambda: client)
    app = make_app({**VIEWS, "view": view}, store, policy=SessionPolicy(on_gone=on_gone))
    client = Client(app)
    await client.get("sign_in")
    answer = await client.twin().get("view")
    assert answer.body == "'gone'"  # whatever on_gone says; and once caught, the response is fine
    assert answer.set_cookie is None
    assert (await client.get("read")).body == "{}"


@pytest.mark.parametrize(
    ("on_gone", "outcomes"), [("drop", {"200"}), ("raise", {"500", "SessionGone"})]
)
@pytest.mark.parametrize("other", ["logout", "clear", "login", "regenerate"])
async def test_a_write_to_an_ended_session_is_dropped_or_raises(
    make_app: Any, other: str, on_gone: Any, outcomes: set[str]
) -> None:
    view = beside(other, save=False)(lambda: client)
    app = make_app({**VIEWS, "view": view}, MemoryStore(), policy=SessionPolicy(on_gone=on_gone))
    client = Client(app)
    await client.get("sign_in")
    late = client.twin()
    assert await attempt(late, "view") in outcomes
    assert late.cookie == client.cookie  # no cookie was sent
    assert (await client.twin().get("read")).body == "{}"


@pytest.mark.parametrize(
    ("on_conflict", "outcomes", "left"),
    [
        ("merge", {"200"}, {"user", "theme", "mine", "written"}),
        ("overwrite", {"200"}, {"user", "theme", "mine"}),
        ("raise", {"500", "SessionConflict"}, {"user", "theme", "written"}),
    ],
)
async def test_two_clients_write_at_once(
    make_app: Any, on_conflict: Any, outcomes: set[str], left: set[str]
) -> None:
    view = beside("write", save=False)(lambda: client)
    policy = SessionPolicy(on_conflict=on_conflict)
    client = Client(make_app({**VIEWS, "view": view}, MemoryStore(), policy=policy))
    await client.get("sign_in")
    assert await attempt(client.twin(), "view") in outcomes
    assert set(eval((await client.get("read")).body)) == left


async def test_a_conflict_names_the_handle(make_app: Any) -> None:
    caught: list[tuple[SessionConflict, str | None]] = []

    async def view(session: Session) -> None:
        session["mine"] = 1
        await client.twin().get("write")
        try:
            await session.save()
        except SessionConflict as error:
            caught.append((error, session.handle))
            session.clear()
            session.modified = False

    policy = SessionPolicy(on_conflict="raise")
    client = Client(make_app({**VIEWS, "view": view}, MemoryStore(), policy=policy))
    await client.get("sign_in")
    await attempt(client.twin(), "view")
    ((error, handle),) = caught
    assert error.handle == handle
    assert client.cookie is not None
    assert client.cookie.split(".")[0] not in str(error)


async def test_save_in_the_middle_and_go_on(make_app: Any, any_store: SessionStore) -> None:
    async def view(session: Session) -> object:
        session["one"] = 1
        await session.save()
        seen = (await Client(client.app, sent(session)).get("read")).body
        session["two"] = 2
        await session.save()
        session["three"] = 3
        return seen

    def sent(session: Session) -> str:
        assert session._origin is not None
        return CookieSigner([KEY.encode()]).sign(session._origin.id)

    client = Client(make_app({**VIEWS, "view": view}, any_store))
    answer = await client.get("view")
    assert "{'one': 1}" in answer.body
    assert answer.sent_id is not None
    assert eval((await client.get("read")).body) == {"one": 1, "two": 2, "three": 3}


# New ids, owners, endings


async def tell(session: Session) -> object:
    return dict(session), session.owner, session.authenticated_at, session.new


@pytest.fixture
def visit(make_app: Any) -> Callable[..., Client]:
    def visit(clock: Clock | None = None, policy: Any = None, **views: View) -> Client:
        app = make_app(
            {**VIEWS, "tell": tell, **views}, MemoryStore(), policy=policy, clock=clock or Clock()
        )
        return Client(app)

    return visit


async def told(client: Client) -> Any:
    return eval((await client.get("tell")).body)


DATA = {"user": "ada", "theme": "dark"}


@pytest.mark.parametrize("act", ["regenerate", "login"])
async def test_a_new_id_keeps_the_data_and_the_old_one_is_dead(visit: Any, act: str) -> None:
    client = visit()
    await client.get("sign_in")
    old = client.cookie
    answer = await client.get(act)
    assert answer.sent_id not in {None, old}
    assert eval((await client.get("read")).body) == DATA
    planted = Client(client.app, old)
    assert (await planted.get("read")).body == "{}"
    assert (await planted.get("write")).set_cookie is None  # it would replace the new one
    assert eval((await client.get("read")).body) == DATA


async def test_login_sets_owner_and_time(visit: Any) -> None:
    clock = Clock()
    client = visit(clock)
    await client.get("sign_in")
    assert await told(client) == (DATA, None, None, False)
    clock.advance(10)
    await client.get("login")
    assert await told(client) == (DATA, "ada", int(clock.now), False)
    await client.get("logout")
    assert await told(client) == ({}, None, None, True)


@pytest.mark.parametrize(("owner", "stored"), [("eve", "eve"), (42, "42"), (0, "0")])
async def test_assigning_another_owner_is_a_login(
    visit: Any, owner: str | int, stored: str
) -> None:
    async def assign(session: Session) -> None:
        session.owner = owner

    clock = Clock()
    client = visit(clock, assign=assign)
    await client.get("login")
    before = client.cookie
    clock.advance(10)
    await client.get("assign")
    after = client.cookie
    assert after != before
    assert (await Client(client.app, before).get("read")).body == "{}"
    assert (await told(client))[1:3] == (stored, int(clock.now))
    clock.advance(10)
    await client.get("assign")  # the same again: nothing happens
    assert client.cookie == after
    assert (await told(client))[1:3] == (stored, int(clock.now) - 10)


async def test_what_is_written_after_a_logout_is_another_session(visit: Any) -> None:
    async def sign_out(session: Session) -> object:
        session.logout()
        session["flash"] = "bye"
        return session.new, session.owner

    client = visit(sign_out=sign_out)
    await client.get("login")
    before = client.cookie
    answer = await client.get("sign_out")
    assert answer.body == "(True, None)"
    assert answer.sent_id not in {None, before}
    assert await told(client) == ({"flash": "bye"}, None, None, False)
    assert (await Client(client.app, before).get("read")).body == "{}"


async def test_a_login_after_a_logout_in_one_request(visit: Any) -> None:
    async def switch(session: Session) -> None:
        session.logout()
        session.login("eve")

    clock = Clock()
    client = visit(clock, switch=switch)
    await client.get("login")
    before = client.cookie
    await client.get("switch")
    assert await told(client) == ({}, "eve", int(clock.now), False)
    assert (await Client(client.app, before).get("read")).body == "{}"


async def test_an_empty_session_with_an_owner_lives_and_is_refreshed(visit: Any) -> None:
    async def only_login(session: Session) -> None:
        session.login("ada")

    clock = Clock()
    policy = SessionPolicy(lifetime=100, permanent=True, refresh_interval=10)
    client = visit(clock, policy, only_login=only_login)
    assert (await client.get("only_login")).sent_id is not None
    for _ in range(5):
        clock.advance(90)
        answer = await client.get("nothing")
        assert answer.sent_id == client.cookie
        assert (await told(client))[1] == "ada"
    await client.get("clear")  # emptied by the app: over
    assert client.cookie is None
    assert await told(client) == ({}, None, None, True)


async def test_a_cookie_that_is_dead_is_no_reason_to_fail(make_app: Any) -> None:
    client = Client(make_app(VIEWS, MemoryStore()))
    await client.get("sign_in")
    dead = client.cookie
    await client.get("logout")
    for view in VIEWS:
        assert (await request(client.app, f"/{view}", cookie=dead)).status == 200


async def test_an_app_that_never_answers_saves_nothing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["a"] = 1

    store = RecordingStore(MemoryStore())
    middleware = SessionMiddleware(app, KEY, store=store)
    answer = await request(middleware, "/")
    assert answer.status == 0
    assert store.calls == []
