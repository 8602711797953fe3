"""Events: which ones a request tells, to whom, when, and what they must never say."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import anyio
import pytest
from harness import ADAPTERS, KEY, VIEWS, Client, Clock, View, clear, write
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from quart import Quart

from async_session import (
    ConfigurationError,
    Match,
    Session,
    SessionConflict,
    SessionEvent,
    SessionGone,
    SessionManager,
    SessionPolicy,
    StoreUnavailable,
)
from async_session.events import note
from async_session.quart import QuartSession, ServerSideSessionInterface
from async_session.starlette import SessionMiddleware
from async_session.stores.memory import MemoryStore
from async_session.telemetry import Telemetry
from async_session.testing import FaultyStore
from async_session.tokens import CookieSigner, new_id, store_key

pytestmark = pytest.mark.anyio

SIGNER = CookieSigner([KEY.encode()])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def key_of(cookie: str | None) -> str:
    assert cookie is not None
    return store_key(cookie.split(".")[0])


async def write_after_logout(session: Session) -> None:
    session.logout()
    session["a"] = 1


async def write_and_regenerate(session: Session) -> None:
    session["a"] = 1
    session.regenerate()


MORE = {view.__name__: view for view in (write_after_logout, write_and_regenerate)}


class Gate(MemoryStore):
    """A memory store whose saves wait for a gate to be opened."""

    deadline = None  # type: ignore[assignment]  # so that a commit has a task of its own

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self.opened.set()

    async def save(self, *args: Any, match: Match | bytes = Match.ANY, **options: Any) -> bool:
        self.reached.set()
        await self.opened.wait()
        return await super().save(*args, match=match, **options)


class World:
    """An app that tells its events, and a client that has a session in it."""

    def __init__(self, adapter: str, *listeners: Any, **policy: Any) -> None:
        self.events: list[SessionEvent] = []
        self.ever: list[SessionEvent] = []  # also what was told before, and on the side
        self.clock = Clock()
        self.store = FaultyStore(Gate())
        self.go: View = VIEWS["nothing"]
        self.app = ADAPTERS[adapter](
            {**VIEWS, **MORE, "go": lambda session: self.go(session)},
            self.store,
            policy=SessionPolicy(**policy),
            clock=self.clock,
            on_event=[self.events.append, self.ever.append, *listeners],
        )
        self.client = Client(self.app)

    async def start(self) -> str:
        """Sign in, and return the session's handle."""
        await self.client.get("sign_in")
        self.events.clear()
        return key_of(self.client.cookie)

    async def on_the_side(self, view: str) -> None:
        """Let another request of the client come and go; what it tells is forgotten."""
        told = [*self.events]
        await self.client.twin().get(view)
        self.events[:] = told

    @property
    def told(self) -> list[str]:
        return [f"{e.name}/{e.reason}".rstrip("/") for e in self.events]


@pytest.fixture(params=sorted(ADAPTERS))
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Which events

#: what the client did before, what its request does, what is told then
BY_VIEW: list[tuple[str, str, list[str]]] = [
    ("nothing", "nothing", []),
    ("nothing", "read", []),
    ("nothing", "clear", []),
    ("nothing", "write", ["created"]),
    ("nothing", "login", ["created/login"]),
    ("nothing", "regenerate", []),
    ("write", "nothing", ["loaded"]),
    ("write", "read", ["loaded"]),
    ("write", "write", ["loaded"]),
    ("write", "regenerate", ["loaded", "regenerated/regenerate"]),
    ("write", "login", ["loaded", "regenerated/login"]),
    ("write", "logout", ["loaded", "destroyed/logout"]),
    ("write", "clear", ["loaded", "destroyed/emptied"]),
    ("write", "write_after_logout", ["loaded", "destroyed/logout", "created"]),
    ("login", "logout", ["loaded", "destroyed/logout"]),
]


@pytest.mark.parametrize(("before", "view", "told"), BY_VIEW)
async def test_what_a_request_tells(adapter: str, before: str, view: str, told: list[str]) -> None:
    world = World(adapter)
    await world.client.get(before)
    world.events.clear()
    await world.client.get(view)
    assert world.told == told


#: what ended the session, what a request with its old id does then, and what is told of that
BY_ENDING: list[tuple[str, str, list[str]]] = [
    ("logout", "read", ["rejected/ended"]),
    ("logout", "write", ["rejected/ended", "created"]),
    ("logout", "logout", ["rejected/ended"]),
    ("clear", "read", ["rejected/ended"]),
    ("login", "read", ["rejected/replaced"]),
    ("login", "write", ["rejected/replaced", "dropped/superseded"]),
    ("login", "login", ["rejected/replaced", "created/login"]),
    ("login", "logout", ["rejected/replaced"]),
    ("regenerate", "read", ["rejected/moved"]),
    ("regenerate", "write", ["rejected/moved", "dropped/superseded"]),
    ("regenerate", "logout", ["rejected/moved", "destroyed/logout"]),
    ("regenerate", "login", ["rejected/moved", "destroyed/login", "created/login"]),
    (
        "regenerate",
        "write_and_regenerate",
        ["rejected/moved", "destroyed/regenerate", "created"],
    ),
]


@pytest.mark.parametrize(("ending", "view", "told"), BY_ENDING)
async def test_what_an_old_id_tells(adapter: str, ending: str, view: str, told: list[str]) -> None:
    world = World(adapter)
    await world.start()
    late = world.client.twin()
    await world.client.get(ending)
    world.events.clear()
    await late.get(view)
    assert world.told == told


#: cookies that open nothing, and why
COOKIES: dict[str, tuple[Callable[[], str], str]] = {
    "of another format": (lambda: "eyJhIjoxfQ.cT-zAA.rZOKzos7W4OZUhaiFubnngwCG7g", "format"),
    "empty": (lambda: "", "format"),
    "signed with another key": (lambda: CookieSigner([b"k" * 32]).sign(new_id()), "signature"),
    "of an unknown session": (lambda: SIGNER.sign(new_id()), "unknown"),
}


@pytest.mark.parametrize("kind", COOKIES)
async def test_a_cookie_that_opens_nothing(adapter: str, kind: str) -> None:
    make, reason = COOKIES[kind]
    cookie = make()
    world = World(adapter)
    await world.client.get("read", cookie=cookie)
    handle = key_of(cookie) if reason == "unknown" else None
    assert world.events == [SessionEvent("rejected", handle, reason, client="127.0.0.1")]


async def test_guessing_is_seen_with_the_address_it_comes_from(
    adapter: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "async_session")
    ids = [new_id() for _ in range(100)]
    world = World(adapter)
    for guess in ids:
        await world.client.twin().get("read", cookie=SIGNER.sign(guess))
    assert [event.handle for event in world.events] == [store_key(guess) for guess in ids]
    assert {event.client for event in world.events} == {"127.0.0.1"}
    lines = [line for line in caplog.messages if "client=127.0.0.1" in line]
    assert len(lines) == 100
    assert not any(guess in repr(world.events) + caplog.text for guess in ids)


async def test_a_session_that_is_over(adapter: str) -> None:
    world = World(adapter, lifetime=60, refresh_each_request=False)
    handle = await world.start()
    world.clock.advance(61)
    await world.client.get("read")
    assert world.events == [SessionEvent("expired", handle, client="127.0.0.1")]


async def test_a_record_that_cannot_be_read(adapter: str) -> None:
    world = World(adapter)
    handle = await world.start()
    await world.store.save(handle, b"no record of ours", ttl=60)
    await world.client.get("read")
    assert world.told == ["corrupt"]
    assert world.events[0].handle == handle
    assert "no session record" in str(world.events[0].error)


@pytest.mark.parametrize("on_store_error", ["raise", "anonymous"])
async def test_a_store_that_does_not_answer(adapter: str, on_store_error: str) -> None:
    world = World(adapter, on_store_error=on_store_error)
    handle = await world.start()
    world.store.fail("open")
    await world.client.get("nothing")
    world.store.fail("save")
    await world.client.twin().get("write")
    assert world.told == ["unavailable/open", "loaded", "unavailable/commit"]
    assert {event.handle for event in world.events} == {handle}
    down = [event.error for event in world.events if event.name == "unavailable"]
    assert [type(error) for error in down] == [StoreUnavailable] * 2


@pytest.mark.parametrize(
    ("view", "told"),
    [
        ("write", ["loaded", "conflict/{}"]),
        ("regenerate", ["loaded", "conflict/{}", "regenerated/regenerate"]),
        ("login", ["loaded", "conflict/{}", "regenerated/login"]),
    ],
)
@pytest.mark.parametrize("on_conflict", ["merge", "overwrite", "raise"])
async def test_two_writers(adapter: str, on_conflict: str, view: str, told: list[str]) -> None:
    world = World(adapter, on_conflict=on_conflict)
    handle = await world.start()

    async def go(session: Session) -> None:
        await VIEWS[view](session)
        await world.on_the_side("write")
        await world.on_the_side("write")

    world.go = go
    if (on_conflict, adapter) == ("raise", "starlette"):
        with pytest.raises(SessionConflict, match=handle):
            await world.client.get("go")
    else:
        assert (await world.client.get("go")).status == (500 if on_conflict == "raise" else 200)
    end = 2 if on_conflict == "raise" else None
    assert world.told == [name.format(on_conflict) for name in told][:end]
    conflict = world.events[1]
    assert conflict.handle == handle
    assert isinstance(conflict.error, SessionConflict) is (on_conflict == "raise")


#: what ends a session beside a request that writes to it, and the reason that is given
ENDED = [("logout", "ended"), ("clear", "ended"), ("login", "replaced"), ("regenerate", "moved")]


@pytest.mark.parametrize(("ending", "reason"), ENDED)
@pytest.mark.parametrize("on_gone", ["drop", "raise"])
async def test_a_write_to_a_session_that_was_ended(
    adapter: str, on_gone: str, ending: str, reason: str
) -> None:
    world = World(adapter, on_gone=on_gone)
    handle = await world.start()

    async def go(session: Session) -> None:
        await write(session)
        await world.on_the_side(ending)

    world.go = go
    if (on_gone, adapter) == ("raise", "starlette"):
        with pytest.raises(SessionGone, match=handle):
            await world.client.get("go")
    else:
        answer = await world.client.get("go")
        assert answer.status == (200 if on_gone == "drop" else 500)
        assert answer.set_cookie is None
    assert world.told == ["loaded", f"dropped/{reason}"]
    assert world.events[1].handle == handle


@pytest.mark.parametrize(("ending", "reason"), ENDED)
async def test_save_says_so_and_tells_it_once(adapter: str, ending: str, reason: str) -> None:
    world = World(adapter)
    handle = await world.start()
    caught: list[str] = []

    async def go(session: Session) -> None:
        await write(session)
        await world.on_the_side(ending)
        for _ in range(2):
            try:
                await session.save()
            except SessionGone as error:
                caught.append(error.handle)

    world.go = go
    assert (await world.client.get("go")).set_cookie is None
    assert caught == [handle, handle]
    assert world.told == ["loaded", f"dropped/{reason}"]


async def test_emptying_a_session_that_a_login_has_replaced(adapter: str) -> None:
    world = World(adapter)
    await world.start()

    async def go(session: Session) -> None:
        await clear(session)
        await world.on_the_side("login")

    world.go = go
    await world.client.get("go")
    assert world.told == ["loaded", "dropped/replaced"]


async def test_a_refresh_that_comes_second_is_nothing_lost(adapter: str) -> None:
    world = World(adapter, permanent=True)
    await world.start()

    async def go(session: Session) -> None:
        await world.on_the_side("logout")

    world.go = go
    await world.client.get("go")
    assert world.told == ["loaded"]


def test_what_happens_again_and_again_in_one_commit_is_noted_once() -> None:
    session = Session()
    for reason in ("merge", "merge", "raise"):
        note(session, "conflict", "a handle", reason=reason)
    assert [event.reason for event in session._events] == ["merge", "raise"]


# What an event says


async def test_an_event_says_whose_session_and_from_where(adapter: str) -> None:
    world = World(adapter)
    first = await world.start()
    await world.client.get("login")
    second = key_of(world.client.cookie)
    await world.client.get("logout")
    here = "127.0.0.1"
    assert world.events == [
        SessionEvent("loaded", first, client=here),
        SessionEvent("regenerated", second, "login", "ada", here, first),
        SessionEvent("loaded", second, owner="ada", client=here),
        SessionEvent("destroyed", second, "logout", "ada", here),
    ]


async def test_a_login_after_a_logout_is_another_owners(adapter: str) -> None:
    async def go(session: Session) -> None:
        session.logout()
        session.login("bob")

    world = World(adapter)
    await world.client.get("login")
    world.events.clear()
    world.go = go
    await world.client.get("go")
    assert [(event.name, event.owner) for event in world.events] == [
        ("loaded", "ada"),
        ("destroyed", "ada"),
        ("created", "bob"),
    ]


async def test_a_manager_without_a_client_tells_none() -> None:
    events: list[SessionEvent] = []
    manager = SessionManager(MemoryStore(), secret_key=KEY, on_event=events.append)
    await manager.open("forged")
    await manager.open("forged", client=("192.0.2.7", 4711))
    assert [event.client for event in events] == [None, "192.0.2.7"]


# Listeners


async def test_a_listener_may_fail(adapter: str, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def fails(event: SessionEvent) -> None:
        raise ValueError("of no use")

    async def fails_later(event: SessionEvent) -> None:
        await anyio.sleep(0)
        raise ValueError("of no use later")

    world = World(adapter, fails, fails_later, lambda event: heard.append(event.name))
    answer = await world.client.get("write")
    assert (answer.status, answer.sent_id is not None) == (200, True)
    assert heard == ["created"]
    for words in ("test_events.py", "ValueError: of no use\n", "ValueError: of no use later"):
        assert words in caplog.text
    assert "created" in caplog.messages[0]


async def test_a_slow_listener_is_waited_for_and_costs_no_deadline(adapter: str) -> None:
    heard: list[str] = []

    async def slow(event: SessionEvent) -> None:
        await anyio.sleep(0.1)
        heard.append(event.name)

    world = World(adapter, slow, timeout=0.05)
    assert (await world.client.get("write")).sent_id is not None
    assert heard == ["created"]
    assert (await world.client.get("read")).body == "{'written': True}"
    assert heard == ["created", "loaded"]


async def test_a_request_that_is_cancelled_tells_what_it_has_done() -> None:
    store, events = Gate(), list[SessionEvent]()

    async def hangs(event: SessionEvent) -> None:
        tasks.add(asyncio.current_task())
        await anyio.sleep_forever()

    tasks: set[object] = set()
    manager = SessionManager(store, secret_key=KEY, on_event=[events.append, hangs])
    session = await manager.open(None)
    session["a"] = 1
    store.opened.clear()
    task = asyncio.create_task(manager.commit(session))
    await store.reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()  # the write goes on
    store.opened.set()
    while not events:
        await asyncio.sleep(0)
    task.cancel()  # a listener is not shielded
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [event.name for event in events] == ["created"]
    assert tasks == {task}  # told in the request, not in the task that writes
    assert await store.open(session.handle or "") is not None


def quart_extension(**options: Any) -> object:
    app = Quart("tests")
    app.secret_key = KEY
    return QuartSession(app, **options)


async def nowhere(scope: Any, receive: Any, send: Any) -> None: ...


MAKERS: dict[str, Callable[..., object]] = {
    "manager": lambda **options: SessionManager(secret_key=KEY, **options),
    "middleware": lambda **options: SessionMiddleware(nowhere, KEY, **options),
    "interface": lambda **options: ServerSideSessionInterface(**options),
    "extension": quart_extension,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("wrong", [None, 1, "print", ["print"], [print, None]], ids=repr)
def test_what_cannot_listen_is_refused(make: Callable[..., object], wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="write a function of one argument, the event"):
        make(store=MemoryStore(), on_event=wrong)


async def test_quart_keeps_its_listeners_when_the_config_changes() -> None:
    events: list[SessionEvent] = []
    app = Quart("tests")
    app.secret_key = KEY
    QuartSession(app, MemoryStore(), on_event=iter([events.append]))

    @app.get("/read")
    async def read() -> str:
        return "read"

    for key in (KEY, KEY + "2"):
        app.secret_key = key
        await Client(app, "forged").get("read")
    assert [event.name for event in events] == ["rejected", "rejected"]


# The log


async def every_event(world: World) -> list[str]:
    """Let everything happen that can; return the ids that clients held meanwhile."""
    ids: list[str] = []

    async def get(view: str, **options: Any) -> None:
        await world.client.get(view, **options)
        ids.extend((world.client.cookie or "").split(".")[:1])

    async def raced(session: Session) -> None:
        await write(session)
        await world.on_the_side("write")

    async def ended(session: Session) -> None:
        await write(session)
        await world.client.twin().get("logout")

    await get("write")
    await get("login")
    world.go = raced
    await get("go")
    world.store.fail("open")
    await get("read")
    world.store.fail("save")
    await get("write")
    world.go = ended
    await get("go")
    await get("read")
    for view in ("write", "regenerate", "logout"):
        await get(view)
    for cookie in (SIGNER.sign(new_id()), "forged"):
        await world.client.twin().get("read", cookie=cookie)
        ids.append(cookie.split(".")[0])
    ids.remove("forged")
    await get("write")
    world.clock.advance(10**9)
    await get("read")
    await get("write")
    await world.store.save(key_of(world.client.cookie), b"no record of ours", ttl=60)
    await get("read")
    return [session_id for session_id in ids if session_id]


LEVELS = {
    "created": "DEBUG",
    "regenerated": "DEBUG",
    "destroyed": "DEBUG",
    "expired": "DEBUG",
    "rejected": "INFO",
    "conflict": "DEBUG",
    "dropped": "INFO",
    "unavailable": "WARNING",
    "corrupt": "WARNING",
}


async def test_the_log_has_one_line_for_each_event_but_loading(
    adapter: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "async_session")
    world = World(adapter)
    await every_event(world)
    events = [event for event in world.ever if event.name != "loaded"]
    assert {event.name for event in events} == set(LEVELS)
    lines = [
        record
        for record in caplog.records
        if record.name == "async_session" and "answered 503" not in record.getMessage()
    ]
    for event, line in zip(events, lines, strict=True):
        assert line.levelname == LEVELS[event.name]
        for said in (event.handle, event.reason, event.client, event.previous, event.error):
            assert str(said or "") in line.getMessage()


@pytest.fixture
def traces() -> Traces:
    return Traces()


class Traces:
    """What an app with OpenTelemetry exports. To be made outside of the event loop: it reads."""

    def __init__(self) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracing = TracerProvider()
        self.tracing.add_span_processor(SimpleSpanProcessor(self._spans))
        self.listener = Telemetry(meter_provider=MeterProvider(metric_readers=[self._reader]))

    def a_request(self) -> AbstractContextManager[object]:
        return self.tracing.get_tracer("tests").start_as_current_span("a request")

    @property
    def span(self) -> ReadableSpan:
        [span] = self._spans.get_finished_spans()
        return span

    @property
    def counted(self) -> dict[tuple[Any, Any], float]:
        data: Any = self._reader.get_metrics_data()
        [metric] = data.resource_metrics[0].scope_metrics[0].metrics
        assert metric.name == "async_session.events"
        return {
            (point.attributes["event"], point.attributes["reason"]): point.value
            for point in metric.data.data_points
        }


async def test_no_id_is_in_events_the_log_tracebacks_or_traces(
    adapter: str, caplog: pytest.LogCaptureFixture, traces: Traces
) -> None:
    caplog.set_level(logging.DEBUG)

    def fails(event: SessionEvent) -> None:
        raise ValueError(event)

    world = World(adapter, fails, traces.listener)
    with traces.a_request():
        ids = await every_event(world)
    assert len(set(ids)) >= 6
    errors = [event.error for event in world.ever if event.error is not None]
    shown = "\n".join(
        [
            repr(world.ever),
            caplog.text,
            *("".join(traceback.format_exception(error)) for error in errors),
            traces.span.to_json(),
            repr(traces.counted),
        ]
    )
    assert "Traceback" in shown
    assert all((event.handle or "") in shown for event in world.ever)
    assert [session_id for session_id in ids if session_id in shown] == []


# OpenTelemetry


async def test_events_are_counted_and_noted_on_the_span(adapter: str, traces: Traces) -> None:
    world = World(adapter, traces.listener)
    with traces.a_request():
        await every_event(world)
    noted = [(event.name, dict(event.attributes or {})) for event in traces.span.events]
    for event, (name, attributes) in zip(world.ever, noted, strict=True):
        assert name == f"session.{event.name}"
        assert attributes == {
            key: value
            for key, value in {
                "session.handle": event.handle,
                "session.reason": event.reason,
                "session.previous_handle": event.previous,
                "error.type": type(event.error).__name__ if event.error else None,
            }.items()
            if value
        }
    assert traces.counted == Counter((event.name, event.reason) for event in world.ever)


async def test_without_a_span_events_are_still_counted(traces: Traces) -> None:
    traces.listener(SessionEvent("created"))
    assert traces.counted == {("created", ""): 1}


def test_without_opentelemetry_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "async_session.telemetry")
    with pytest.raises(ConfigurationError, match=r"pip install 'async_session\[otel\]'"):
        importlib.import_module("async_session.telemetry")
