"""`QuartSession`: Flask-Session's config keys with their meaning, and what Quart does with it."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
import quart
from harness import KEY, Clock, request
from quart import Quart, Response, abort
from quart.sessions import SecureCookieSessionInterface
from redis.asyncio import Redis
from servers import QUIET
from werkzeug.wrappers import Response as WerkzeugResponse

from async_session import ConfigurationError, Session, SessionPolicy, StoreUnavailable
from async_session._flask_session import _STORES
from async_session.quart import QuartSession, ServerSideSessionInterface, get_session
from async_session.stores import urls
from async_session.stores.base import SupportsClose
from async_session.stores.filesystem import FileSystemStore
from async_session.stores.memory import MemoryStore
from async_session.testing import FaultyStore, RecordingStore, make_cookie

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def make_app(store: Any = None, **config: Any) -> Quart:
    return extended(Quart(__name__), store, **config)


def extended(app: Quart, store: Any = None, *, options: Any = None, **config: Any) -> Quart:
    app.config.update({"SECRET_KEY": KEY} | config)
    QuartSession(app, store, **(options or {}))

    @app.get("/read")
    async def read() -> str:
        return repr(dict(quart.session))

    @app.get("/write")
    async def write() -> str:
        quart.session["a"] = 1
        return ""

    @app.get("/logout")
    async def logout() -> str:
        get_session().logout()
        return ""

    @app.get("/nothing")
    async def nothing() -> str:
        return "fine"

    return app


def interface_of(app: Quart) -> ServerSideSessionInterface:
    interface: object = app.session_interface
    assert isinstance(interface, ServerSideSessionInterface)
    return interface


def policy_of(app: Quart) -> SessionPolicy:
    return interface_of(app).manager(app).policy


async def round_trip(app: Quart) -> str:
    """Write, read it again, and return the cookie."""
    answer = await request(app, "/write")
    assert (answer.status, answer.sent_id is not None) == (200, True)
    read = await request(app, "/read", cookie=answer.sent_id)
    assert read.body == "{'a': 1}"
    return answer.sent_id or ""


# SESSION_TYPE and the keys that belong to it


#: the type, the fixture that knows where its server is, and the keys that say it
TYPES = [
    ("dynamodb", "dynamodb_url", ["SESSION_DYNAMODB", "SESSION_URI"]),
    ("filesystem", "tmp_path", ["SESSION_FILE_DIR"]),
    ("memcached", "memcached_url", ["SESSION_MEMCACHED", "SESSION_URI"]),
    ("memory", None, []),
    ("mongodb", "mongodb_url", ["SESSION_MONGODB", "SESSION_URI"]),
    ("redis", "redis_url", ["SESSION_REDIS", "SESSION_URI"]),
    ("sqlalchemy", "postgresql_url", ["SESSION_SQLALCHEMY", "SESSION_URI"]),
    ("sqlalchemy", "sqlite_url", ["SESSION_SQLALCHEMY", "SESSION_URI"]),
]


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/sessions.db"


@pytest.mark.parametrize(
    ("kind", "where", "key"),
    [(kind, where, key) for kind, where, keys in TYPES for key in keys or [""]],
)
def test_every_type_by_every_key(
    kind: str, where: str | None, key: str, request: pytest.FixtureRequest
) -> None:
    config: dict[str, Any] = {"SESSION_TYPE": kind}
    if where is not None:
        config[key] = str(request.getfixturevalue(where))
    anyio.run(in_and_out, make_app(**config))


async def in_and_out(app: Quart) -> None:
    store = interface_of(app).store
    # An emulator's first answer takes longer than a call may.
    for _ in range(20):
        with contextlib.suppress(StoreUnavailable):
            await store.save("0" * 64, b"first-version-01", ttl=60)
            break
    cookie = await round_trip(app)
    assert (await request(app, "/logout", cookie=cookie)).status == 200
    assert (await request(app, "/read", cookie=cookie)).body == "{}"
    if isinstance(store, SupportsClose):
        await store.aclose()


def test_no_type_is_forgotten() -> None:
    assert {kind for kind, *_ in TYPES} | {"null"} == _STORES.keys()


@pytest.mark.parametrize("kind", sorted(_STORES.keys() - {"null", "memory", "filesystem"}))
def test_a_type_without_its_server_names_the_key(kind: str) -> None:
    with pytest.raises(ConfigurationError, match=f"set SESSION_{kind.upper()} to"):
        make_app(SESSION_TYPE=kind)


def test_filesystem(tmp_path: Path) -> None:
    app = make_app(
        SESSION_TYPE="filesystem",
        SESSION_FILE_DIR=str(tmp_path / "here"),
        SESSION_FILE_THRESHOLD=7,
        SESSION_FILE_MODE=0o640,
    )
    store = interface_of(app).store
    assert isinstance(store, FileSystemStore)
    anyio.run(round_trip, app)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in _files(tmp_path / "here")]
    assert 0o640 in modes
    anyio.run(store.aclose)


def test_filesystem_in_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # looked up when the app is made, not when we are imported
    app = make_app(SESSION_TYPE="filesystem")
    store = interface_of(app).store
    assert isinstance(store, FileSystemStore)
    assert repr(store) == f"FileSystemStore('{tmp_path}/flask_session')"
    anyio.run(round_trip, app)
    assert _files(tmp_path / "flask_session")
    anyio.run(store.aclose)


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("prefix", "expected"), [(None, "session:"), ("mine:", "mine:")])
async def test_redis_by_client_and_prefix(
    redis_url: str, prefix: str | None, expected: str
) -> None:
    async with Redis.from_url(redis_url, protocol=2, **QUIET) as client:
        keys = {} if prefix is None else {"SESSION_KEY_PREFIX": prefix}
        app = make_app(SESSION_TYPE="redis", SESSION_REDIS=client, **keys)
        before = set(await client.keys(f"{expected}*"))
        await round_trip(app)
        assert len(set(await client.keys(f"{expected}*")) - before) == 1
        await app.startup()
        await app.shutdown()
        assert await client.ping()  # a client that was given stays open


#: the config, and what is said
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"SESSION_TYPE": "cachelib"}, "SESSION_TYPE='cachelib' is not known: use one of 'null', "),
    ({"SESSION_TYPE": "Redis"}, "is not known"),
    ({"SESSION_TYPE": "redis", "SESSION_REDIS": "localhost"}, "redis://"),
    ({"SESSION_TYPE": "redis", "SESSION_REDIS": object()}, r"redis\.asyncio\.Redis"),
    (
        {"SESSION_TYPE": "redis", "SESSION_REDIS": Redis(decode_responses=True)},
        "decode_responses",
    ),
]


@pytest.mark.parametrize(("config", "words"), REFUSED, ids=lambda value: str(value)[:60])
async def test_what_cannot_work_is_said_when_it_is_set_up(
    config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make_app(SESSION_FILE_DIR=str(tmp_path), **config)


async def test_a_store_that_is_given_wins_over_the_type() -> None:
    store = RecordingStore(MemoryStore())
    app = make_app(store, SESSION_TYPE="redis")
    await round_trip(app)
    assert store.calls != []


# No store, no secret

#: what a null session refuses
WRITES: dict[str, Callable[[Any], object]] = {
    "[]=": lambda s: s.__setitem__("a", 1),
    "del": lambda s: s.__delitem__("a"),
    "|=": lambda s: s.__ior__({"a": 1}),
    "clear": lambda s: s.clear(),
    "pop": lambda s: s.pop("a", None),
    "popitem": lambda s: s.popitem(),
    "update": lambda s: s.update(a=1),
    "setdefault": lambda s: s.setdefault("a", 1),
    "permanent=": lambda s: setattr(s, "permanent", True),
    "login": lambda s: s.login("ada"),
    "regenerate": lambda s: s.regenerate(),
    "logout": lambda s: s.logout(),
    "save": lambda s: s.save(),
}
READS: dict[str, Callable[[Any], object]] = {
    "get": lambda s: s.get("a"),
    "in": lambda s: "a" in s,
    "len": len,
    "dict": dict,
    "items": lambda s: list(s.items()),
    "permanent": lambda s: s.permanent,
}


async def attempt(app: Quart, use: Callable[[Any], object]) -> str:
    async with app.test_request_context("/"):
        try:
            return repr(use(quart.session._get_current_object()))  # type: ignore[attr-defined]
        except RuntimeError as error:
            return f"{error}"


NULLS: list[tuple[dict[str, Any], str]] = [
    ({}, "set SESSION_TYPE"),
    ({"SESSION_TYPE": None}, "set SESSION_TYPE"),
    ({"SESSION_TYPE": "null"}, "set SESSION_TYPE"),
    ({"SESSION_TYPE": "null", "SECRET_KEY": None}, "set SESSION_TYPE"),
    ({"SESSION_TYPE": "memory", "SECRET_KEY": None}, "no secret key was set"),
    ({"SESSION_TYPE": "memory", "SECRET_KEY": ""}, "no secret key was set"),
]


@pytest.mark.parametrize(("config", "words"), NULLS, ids=str)
@pytest.mark.parametrize("use", [*READS, *WRITES])
async def test_a_null_session_can_be_read_and_says_what_to_set(
    config: dict[str, Any], words: str, use: str
) -> None:
    said = await attempt(make_app(**config), {**READS, **WRITES}[use])
    lost_as_in_flask = use == "|=" and words == "no secret key was set"
    assert (words in said) is (use in WRITES and not lost_as_in_flask)


@pytest.mark.parametrize(("config", "words"), NULLS, ids=str)
async def test_a_null_session_sends_nothing(config: dict[str, Any], words: str) -> None:
    app = make_app(**config)
    for path in ("/read", "/nothing"):
        answer = await request(app, path, cookie="anything")
        assert (answer.status, answer.set_cookie) == (200, None)
    assert (await request(app, "/write")).status == 500


async def test_a_secret_that_is_set_later_counts() -> None:
    app = make_app(SESSION_TYPE="memory", SECRET_KEY=None)
    assert (await request(app, "/write")).status == 500
    app.secret_key = KEY
    await round_trip(app)


# Signing, permanence, refresh


@pytest.mark.parametrize("key", [KEY, None])
async def test_without_a_signer_the_cookie_is_the_id(key: str | None) -> None:
    store = RecordingStore(MemoryStore())
    app = make_app(store, SESSION_USE_SIGNER=False, SECRET_KEY=key)
    cookie = await round_trip(app)
    assert len(cookie) == 43
    store.calls.clear()
    for bad in (cookie + "A", cookie[:-1], cookie[:-1] + ".", "../" + cookie[3:], ""):
        assert (await request(app, "/read", cookie=bad)).body == "{}"
    assert store.calls == []  # the format is checked all the same
    assert (await request(app, "/read", cookie="A" * 43)).body == "{}"
    answer = await request(app, "/write", cookie="A" * 43)
    assert answer.sent_id not in {None, "A" * 43}  # an id that is not known is never adopted


PERMANENCE: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"SESSION_PERMANENT": True}, True),
    ({"SESSION_PERMANENT": False}, False),
]


@pytest.mark.parametrize(("config", "permanent"), PERMANENCE, ids=str)
async def test_session_permanent(config: dict[str, Any], permanent: bool) -> None:
    app = make_app(MemoryStore(), **config)
    assert policy_of(app).permanent is permanent
    answer = await request(app, "/write")
    assert ("Expires=" in (answer.set_cookie or "")) is permanent
    assert "Max-Age" not in (answer.set_cookie or "")
    assert (await request(app, "/read", cookie=answer.sent_id)).body == "{'a': 1}"


INTERVALS: list[tuple[dict[str, Any], int, int]] = [
    ({}, 0, 31 * 864),
    ({"PERMANENT_SESSION_LIFETIME": 1000}, 0, 10),
    ({"PERMANENT_SESSION_LIFETIME": timedelta(seconds=199)}, 0, 1),
    ({"PERMANENT_SESSION_LIFETIME": 99}, 0, 0),
    ({"PERMANENT_SESSION_LIFETIME": -1000}, 0, 0),
    ({"SESSION_REFRESH_INTERVAL": 0}, 0, 0),
    ({"SESSION_REFRESH_INTERVAL": 60}, 0, 60),
    ({}, 60, 60),  # the policy's, where the config says nothing
    ({"SESSION_REFRESH_INTERVAL": 5}, 60, 5),
    ({"SESSION_REFRESH_INTERVAL": 0}, 60, 0),
]


@pytest.mark.parametrize(("config", "policys", "interval"), INTERVALS, ids=str)
async def test_session_refresh_interval(
    config: dict[str, Any], policys: int, interval: int
) -> None:
    policy = SessionPolicy(refresh_interval=policys)
    app = extended(Quart(__name__), MemoryStore(), options={"policy": policy}, **config)
    assert policy_of(app).refresh_interval == interval


async def test_the_policy_decides_what_config_does_not_know() -> None:
    policy = SessionPolicy(lifetime=5, permanent=False, absolute_lifetime=77, on_gone="raise")
    app = extended(Quart(__name__), MemoryStore(), options={"policy": policy})
    assert policy_of(app) == policy.replace(
        lifetime=timedelta(days=31), permanent=True, refresh_interval=31 * 864
    )


async def test_refreshes_are_sent_as_seldom_as_said() -> None:
    clock, store = Clock(), RecordingStore(MemoryStore())
    app = extended(
        Quart(__name__), store, options={"clock": clock}, PERMANENT_SESSION_LIFETIME=1000
    )
    cookie = (await request(app, "/write")).sent_id
    for passed, refreshed in ((9, False), (1, True), (9, False), (1, True)):
        clock.advance(passed)
        answer = await request(app, "/nothing", cookie=cookie)
        assert (answer.sent_id == cookie) is refreshed


# Settings are read at every request


async def test_config_may_change_between_requests() -> None:
    store = MemoryStore()
    app = make_app(store)
    cookie = await round_trip(app)
    app.config["SESSION_COOKIE_NAME"] = "sid"
    app.config["SESSION_COOKIE_SECURE"] = True
    app.config["SESSION_COOKIE_PATH"] = "/app"
    app.config["SESSION_PERMANENT"] = False
    line = (await request(app, "/write")).set_cookie or ""
    assert line.startswith("sid=")
    assert line.partition("; ")[2] == "Secure; HttpOnly; Path=/app"
    assert (await request(app, "/read", cookie=cookie)).body == "{}"
    raw = (f"sid={cookie}".encode(),)
    assert (await request(app, "/read", raw_cookies=raw)).body == "{'a': 1}"
    app.secret_key, app.config["SECRET_KEY_FALLBACKS"] = "another key " * 3, []
    assert (await request(app, "/read", raw_cookies=raw)).body == "{}"
    app.config["SECRET_KEY_FALLBACKS"].append(KEY)  # in place
    assert (await request(app, "/read", raw_cookies=raw)).body == "{'a': 1}"
    app.config["PERMANENT_SESSION_LIFETIME"] = timedelta(seconds=-1)
    assert (await request(app, "/read", raw_cookies=raw)).body == "{}"


async def test_an_interface_may_override_the_getters() -> None:
    class PerHost(ServerSideSessionInterface):
        def get_cookie_name(self, app: Quart) -> str:
            return f"sid-{quart.request.path[1:]}" if quart.has_request_context() else "sid"

        def get_cookie_domain(self, app: Quart) -> str | None:
            return "example.com"

        def get_cookie_samesite(self, app: Quart) -> str:
            return "Strict"

    app = make_app(MemoryStore())
    app.session_interface = PerHost(MemoryStore())  # type: ignore[assignment]
    line = (await request(app, "/write")).set_cookie or ""
    assert line.startswith("sid-write=")
    assert line.endswith("; Domain=example.com; HttpOnly; Path=/; SameSite=Strict")


async def test_one_extension_for_several_apps() -> None:
    extension = QuartSession(store=MemoryStore())
    one, two = Quart(__name__), Quart(__name__)
    for app in (one, two):
        app.secret_key = KEY
        extension.init_app(app)
    two.config["SESSION_COOKIE_NAME"] = "two"
    assert interface_of(one) is not interface_of(two)
    assert interface_of(one).cookie_options(one).name == "session"
    assert interface_of(two).cookie_options(two).name == "two"


def test_session_of_an_app_says_what_to_write() -> None:
    app = Quart(__name__)
    with pytest.raises(TypeError, match=r"write QuartSession\(app\)"):
        Session(app)


# What Quart does with an interface


@pytest.mark.parametrize("bare", [False, True], ids=["extension", "interface"])
async def test_session_transaction_opens_once(bare: bool) -> None:
    store = RecordingStore(MemoryStore())
    app = make_app(store)
    if bare:
        app.session_interface = ServerSideSessionInterface(store)  # type: ignore[assignment]
    client = app.test_client()
    async with client.session_transaction() as session:
        session["a"] = 1
    assert [verb for verb, _ in store.calls] == ["save"]
    assert await (await client.get("/read")).get_data(as_text=True) == "{'a': 1}"
    store.calls.clear()
    async with client.session_transaction() as session:
        assert session["a"] == 1
        session["a"] = 2
    assert [verb for verb, _ in store.calls] == ["open", "save"]
    assert await (await client.get("/read")).get_data(as_text=True) == "{'a': 2}"


async def test_a_session_of_another_interface_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(MemoryStore())
    theirs = SecureCookieSessionInterface().session_class({"a": 1})
    theirs.modified = True
    async with app.test_request_context("/"):
        response = Response("")
        await interface_of(app).save_session(app, theirs, response)
    assert "Set-Cookie" not in response.headers
    assert "SecureCookieSession is not saved" in caplog.text


async def test_a_response_of_werkzeug() -> None:
    app = make_app(MemoryStore())

    @app.get("/werkzeug")
    async def view() -> Any:
        quart.session["a"] = 1
        return WerkzeugResponse("plain", headers=[("Vary", "Accept")])

    @app.get("/aborted")
    async def aborted() -> Any:
        quart.session["a"] = 1
        abort(WerkzeugResponse("teapot", 418))  # type: ignore[arg-type]  # as Werkzeug's allows

    for path, status in (("/werkzeug", 200), ("/aborted", 418)):
        answer = await request(app, path)
        assert answer.status == status
        assert answer.sent_id is not None
        assert (await request(app, "/read", cookie=answer.sent_id)).body == "{'a': 1}"
    assert (await request(app, "/werkzeug")).vary == ["Accept, Cookie"]


async def test_saving_twice_for_an_error_page() -> None:
    store = FaultyStore(recording := RecordingStore(MemoryStore()))
    app = make_app(store)

    @app.errorhandler(500)
    async def sorry(error: Exception) -> tuple[str, int]:
        quart.session["seen"] = "sorry"
        return "sorry", 500

    store.fail("save")
    answer = await request(app, "/write")
    assert (answer.status, answer.body, answer.set_cookie) == (500, "sorry", None)
    # What failed is looked for once, in case that only its answer was lost; it is not tried again.
    assert [verb for verb, _ in recording.calls] == ["open"]


@pytest.mark.parametrize("bare", [False, True], ids=["extension", "interface"])
async def test_an_error_after_the_save_saves_both(bare: bool) -> None:
    app = make_app(MemoryStore())
    if bare:
        app.session_interface = ServerSideSessionInterface(MemoryStore())  # type: ignore[assignment]  # Quart names its default's type

    async def save_then_fail(app: Any, session: Any, response: Any) -> None:
        await real(app, session, response)
        if not failed:
            failed.append(True)
            raise LookupError

    @app.errorhandler(500)
    async def sorry(error: Exception) -> tuple[str, int]:
        quart.session["seen"] = "sorry"
        return "sorry", 500

    failed: list[bool] = []
    interface = interface_of(app)
    real: Callable[..., Awaitable[None]] = interface.save_session
    interface.save_session = save_then_fail  # type: ignore[method-assign]
    answer = await request(app, "/write")
    assert (answer.status, answer.body) == (500, "sorry")
    assert answer.sent_id is not None
    read = await request(app, "/read", cookie=answer.sent_id)
    assert read.body == "{'a': 1, 'seen': 'sorry'}"


async def test_a_late_change_of_another_interface_is_left_alone() -> None:
    app = make_app(store := RecordingStore(MemoryStore()))
    app.session_interface = ServerSideSessionInterface(MemoryStore())  # type: ignore[assignment]  # Quart names its default's type

    @app.get("/late")
    async def late() -> Response:
        session = get_session()
        session["a"] = 1

        async def body() -> AsyncIterator[str]:
            yield "first byte"
            session["late"] = 1

        return Response(body())

    assert (await request(app, "/late")).sent_id is not None
    assert store.calls == []


@pytest.mark.parametrize("given", [False, True], ids=["a URL", "a store"])
async def test_after_serving_closes_what_it_opened(
    given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Closing(MemoryStore):
        async def aclose(self) -> None:
            closed.append(True)

    monkeypatch.setitem(urls._BUILDERS, "memory", lambda url: Closing())
    app = make_app(Closing() if given else "memory://")
    async with app.test_app():
        assert closed == []
    assert len(closed) == (not given)
    configured = make_app(SESSION_TYPE="memory")
    async with configured.test_app():
        pass
    assert len(closed) == (not given) + 1


async def test_a_test_client_needs_no_before_serving(redis_url: str, tmp_path: Path) -> None:
    for store in (redis_url, f"file://{tmp_path}/sessions"):
        app = make_app(store)
        client = app.test_client()
        assert (await client.get("/write")).status_code == 200
        assert await (await client.get("/read")).get_data(as_text=True) == "{'a': 1}"
        await interface_of(app).aclose()


async def test_it_is_a_session_to_quart_and_flask() -> None:
    store = MemoryStore()
    app = make_app(store)
    cookie = await make_cookie(store, {"_flashes": [("message", "hello")]}, secret_key=KEY)

    @app.get("/flash")
    async def flashes() -> str:
        assert isinstance(quart.session._get_current_object(), quart.sessions.SessionMixin)  # type: ignore[attr-defined]
        await quart.flash("again")
        return repr(quart.get_flashed_messages())

    assert (await request(app, "/flash", cookie=cookie)).body == "['hello', 'again']"
    assert (await request(app, "/read", cookie=cookie)).body == "{}"
