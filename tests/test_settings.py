"""Settings: what cannot work is refused with a sentence, what is unwise is said once.

Then what the settings come to: cookies, headers, keys, ids, on both adapters.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from harness import KEY, Client, Clock, request
from quart import Quart, Response
from quart import session as quart_session
from redis.asyncio import Redis
from starlette.datastructures import Secret

from async_session import (
    ConfigurationError,
    CookieOptions,
    Session,
    SessionError,
    SessionManager,
    SessionPolicy,
    _log,
)
from async_session.quart import QuartSession, ServerSideSessionInterface
from async_session.starlette import SessionMiddleware, get_session
from async_session.stores import urls
from async_session.stores.memory import MemoryStore
from async_session.testing import RecordingStore
from async_session.tokens import CookieSigner

pytestmark = pytest.mark.anyio

Headers = Sequence[tuple[str, str]]
App = Callable[..., Awaitable[None]]
Act = Callable[[Session], object]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def nothing_was_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_log, "_given", set())


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what was said through the logger. A Python warning would fail the test."""
    caplog.set_level(logging.WARNING, logger="async_session")
    return lambda: [line.getMessage() for line in caplog.records if line.name == "async_session"]


# One app on either adapter: /<action> does what `actions` says


def write(session: Session) -> None:
    session["a"] = 1


ACTIONS: dict[str, Act] = {
    "nothing": lambda session: None,
    "read": lambda session: session.get("a"),
    "write": write,
    "login": lambda session: session.login("ada"),
    "logout": lambda session: session.logout(),
}


def on_starlette(
    actions: Mapping[str, Act] | None = None,
    *,
    headers: Headers = (),
    cookie: Mapping[str, Any] | None = None,
    key: object = KEY,
    store: Any = None,
    **options: Any,
) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        ({**ACTIONS, **(actions or {})})[scope["path"][1:]](scope["session"])
        raw = [(name.lower().encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        await send({"type": "http.response.body", "body": b""})

    names = {"name": "session_cookie", "secure": "https_only", "samesite": "same_site"}
    names["httponly"] = "http_only"
    options |= {names.get(name, name): value for name, value in (cookie or {}).items()}
    options = {"max_age": None, "same_site": None} | options
    return SessionMiddleware(app, key, store=store or MemoryStore(), **options)


def on_quart(
    actions: Mapping[str, Act] | None = None,
    *,
    headers: Headers = (),
    cookie: Mapping[str, Any] | None = None,
    key: object = KEY,
    store: Any = None,
    secret_key_fallbacks: Any = None,
    **options: Any,
) -> App:
    app = Quart("tests")
    app.config["SECRET_KEY"] = key
    app.config["SECRET_KEY_FALLBACKS"] = secret_key_fallbacks
    for name, value in (cookie or {}).items():
        app.config[f"SESSION_COOKIE_{name.upper()}"] = value
    app.session_interface = ServerSideSessionInterface(  # type: ignore[assignment]
        store or MemoryStore(), **options
    )

    @app.get("/<action>")
    async def endpoint(action: str) -> Response:
        session: Session = quart_session._get_current_object()  # type: ignore[attr-defined]
        ({**ACTIONS, **(actions or {})})[action](session)
        response = Response("")
        for name, value in headers:
            response.headers.add(name, value)
        return response

    return app


@pytest.fixture(params=[on_quart, on_starlette], ids=["quart", "starlette"])
def make_app(request: pytest.FixtureRequest) -> Callable[..., App]:
    made: Callable[..., App] = request.param
    return made


def at(app: App, url: str) -> App:
    """Return the app, as asked for at another scheme and host."""
    scheme, _, host = url.partition("://")

    async def asked(scope: Any, receive: Any, send: Any) -> None:
        others = [item for item in scope["headers"] if item[0] != b"host"]
        headers = [(b"host", host.encode()), *others]
        await app({**scope, "scheme": scheme, "headers": headers}, receive, send)

    return asked


# Refused


def quart_session_of(**config: Any) -> None:
    app = Quart("tests")
    app.config.update({"SECRET_KEY": KEY, "SESSION_TYPE": "memory"} | config)
    QuartSession(app)


def middleware(**options: Any) -> SessionMiddleware:
    options.setdefault("secret_key", KEY)
    options.setdefault("store", MemoryStore())
    return SessionMiddleware(on_starlette(), **options)


def browser_middleware(**options: Any) -> SessionMiddleware:
    return middleware(max_age=None, **options)


def manager(**options: Any) -> SessionManager:
    options.setdefault("secret_key", KEY)
    options.setdefault("store", MemoryStore())
    return SessionManager(**options)


def interface(**options: Any) -> ServerSideSessionInterface:
    options.setdefault("store", MemoryStore())
    return ServerSideSessionInterface(**options)


def extension(**options: Any) -> QuartSession:
    app = Quart("tests")
    app.secret_key = KEY
    options.setdefault("store", MemoryStore())
    return QuartSession(app, **options)


class SecretStr:
    """As pydantic's: shows stars in place of the secret."""

    def get_secret_value(self) -> str:
        return KEY

    def __str__(self) -> str:
        return "**********"


NAN, INF = float("nan"), float("inf")
TIME = "seconds or a timedelta"
NUMBER = "write a number, at least"
WHOLE = "write a whole number, at least"
GOOD_KEY = r"secrets\.token_hex"
A_KEY = "write a str or bytes"
A_LIST = r"write a list, \['the-old-key'\]"
A_POLICY = r"write SessionPolicy\(\.\.\.\)"
A_CLOCK = "such as time.time"
A_STORE = "with async open, save and delete, or a URL"
URL = 'a URL such as "redis://'
HOSTILE = ["a;b", "a,b", "a b", 'a"b', "a\r\nSet-Cookie: x=y", "a\x00", "é", "", None, b"sid", 5]

#: what is made, the option, values that cannot work, what the sentence says to write
REFUSED: list[tuple[Callable[..., object], str, list[Any], str]] = [
    (SessionPolicy, "lifetime", ["3600", None, True, NAN, INF, -INF], TIME),
    (SessionPolicy, "absolute_lifetime", ["1h", True, NAN, INF], TIME),
    (SessionPolicy, "refresh_interval", [-1, "5", True, None, 0.5, NAN], WHOLE),
    (SessionPolicy, "clock_skew", [-1, "5", 0.5, None], WHOLE),
    (SessionPolicy, "max_size", [0, 1023, "1 MB", 1e6], WHOLE),
    (SessionPolicy, "timeout", [0, -1, "1", None, True, NAN], NUMBER),
    (SessionPolicy, "on_conflict", ["replace", None, True], "'merge', 'overwrite', 'raise'"),
    (SessionPolicy, "on_gone", ["ignore", None], "'drop', 'raise'"),
    (SessionPolicy, "on_store_error", ["empty", None], "'raise', 'anonymous'"),
    (SessionPolicy, "merge", [{"hits": 1}], r"a function of \(base, mine, theirs\)"),
    (SessionPolicy, "merge", [None, [("hits", max)], max], r'write \{"hits": merge.add\}'),
    (SessionPolicy, "permanent", ["false", None, 2], "write True or False"),
    (SessionPolicy, "refresh_each_request", ["no", None], "write True or False"),
    (SessionPolicy, "detect_mutation", ["no", None], "write True or False"),
    (CookieOptions, "name", HOSTILE, "letters, digits, '-' and '_'"),
    (CookieOptions, "name", ["n" * 4010], "shorten it"),
    (CookieOptions, "domain", ["a b.com", "a;b", "a\r\n", "-" * 70, "x..y", 5], "for a cookie"),
    (CookieOptions, "domain", [".".join(["abcdefgh"] * 200)], "shorten it"),
    (CookieOptions, "path", ["/" * 1025, "é" * 200], "shorten it"),
    (CookieOptions, "path", [None, b"/", 5], "write '/'"),
    (CookieOptions, "samesite", ["relaxed", True, 5], "'lax', 'strict', 'none' or None"),
    *(
        row
        for make in (manager, middleware)
        for row in (
            (make, "secret_key", ["", b"", None, Secret("")], GOOD_KEY),
            (make, "secret_key", [42, ["a", "b"], object(), {"k": 1}, str], A_KEY),
            (make, "secret_key", [SecretStr()], "get_secret_value"),
            (make, "secret_key_fallbacks", ["old", b"old", 5, object()], A_LIST),
            (make, "secret_key_fallbacks", [[""], [None], [KEY, b""]], GOOD_KEY),
            (make, "secret_key_fallbacks", [[42], [["a"]]], A_KEY),
        )
    ),
    *(
        row
        for make in (manager, middleware, interface, extension)
        for row in (
            (make, "store", ["localhost", ""], "a store URL begins with a scheme"),
            (make, "store", ["gopher://x"], "use one of .*redis://"),
            (make, "store", [{}, 42], URL),
            (make, "store", [MemoryStore], r"write MemoryStore\(\.\.\.\)"),
            (make, "store", [Redis()], r"write RedisStore\(client\)"),
            (make, "store", [SecretStr()], A_STORE),
            (make, "policy", [SessionPolicy, SessionPolicy.strict, {"lifetime": 1}, 5], A_POLICY),
            (make, "clock", [1_900_000_000, None, "now"], A_CLOCK),
        )
    ),
    (manager, "store", [None], URL),
    (middleware, "session_cookie", ["", "a;b", None], "letters, digits, '-' and '_'"),
    (middleware, "max_age", ["60", True, NAN], f"max_age=.*{TIME}"),
    (browser_middleware, "lifetime", ["60", True], TIME),
    (middleware, "same_site", ["relaxed"], "'lax', 'strict', 'none' or None"),
    (middleware, "domain", ["a b"], "for a cookie"),
    (middleware, "path", ["/" * 1025], "shorten it"),
    (middleware, "skip", ["static", ("static",), ("/ok", ""), (5,), 5], r'write \("/static",\)'),
    (quart_session_of, "SESSION_TYPE", ["mongo", 5], "use one of 'null', "),
    (quart_session_of, "SESSION_COOKIE_NAME", ["a;b", ""], "letters, digits, '-' and '_'"),
    (quart_session_of, "SESSION_COOKIE_SAMESITE", ["relaxed"], "'lax', 'strict', 'none'"),
    (quart_session_of, "SESSION_COOKIE_DOMAIN", ["a b"], "for a cookie"),
    (quart_session_of, "PERMANENT_SESSION_LIFETIME", [None, "1h"], TIME),
    (quart_session_of, "SESSION_REFRESH_INTERVAL", ["x", -1, 0.5], WHOLE),
    (quart_session_of, "SECRET_KEY_FALLBACKS", ["old", 5], A_LIST),
    (quart_session_of, "SECRET_KEY", [42, ["a"]], A_KEY),
]


@pytest.mark.parametrize(
    ("make", "option", "value", "words"),
    [
        pytest.param(make, option, value, words, id=f"{make.__name__}-{option}-{n}")
        for make, option, values, words in REFUSED
        for n, value in enumerate(values)
    ],
)
async def test_what_cannot_work_is_refused_when_it_is_made(
    make: Callable[..., object], option: str, value: Any, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        make(**{option: value})
    assert isinstance(caught.value, ValueError)
    assert KEY not in str(caught.value)


async def test_without_a_signer_other_settings_are_still_checked_at_once() -> None:
    with pytest.raises(ConfigurationError, match=TIME):
        quart_session_of(SESSION_USE_SIGNER=False, SECRET_KEY=None, PERMANENT_SESSION_LIFETIME="x")


@pytest.mark.parametrize(
    "secret", [KEY, KEY.encode(), Secret(KEY)], ids=["str", "bytes", "Starlette's Secret"]
)
@pytest.mark.parametrize("fallbacks", [None, (), [], ["old"], ("old", b"older"), {"old"}], ids=str)
def test_secrets_that_work(secret: object, fallbacks: Any) -> None:
    middleware(secret_key=secret, secret_key_fallbacks=fallbacks)


# Warned about once, refused by strict

SAFE = {"secure": True, "httponly": True, "samesite": "lax"}

#: the cookie's options; what is said, or None if that is fine
UNWISE: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    (SAFE, None),
    ({"samesite": "none"}, "SameSite=None that is not Secure"),
    ({"samesite": "None"}, "SameSite=None that is not Secure"),
    ({"samesite": "none", "secure": True}, None),
    ({"samesite": "none", "partitioned": True}, None),  # which forces Secure
    ({"name": "__Secure-sid"}, "__Secure-sid that is not Secure"),
    ({"name": "__Secure-sid", "secure": True}, None),
    ({"name": "__secure-sid"}, "__secure-sid that is not Secure"),  # in any case, as browsers do
    ({"name": "__Host-sid"}, "__Host-sid that is not Secure"),
    ({"name": "__Host-sid", "secure": True}, None),
    ({"name": "__Host-sid", "secure": True, "domain": "example.com"}, "the whole host"),
    ({"name": "__Host-sid", "secure": True, "path": "/app"}, "the whole host"),
    ({"name": "__HOST-sid", "secure": True, "path": "/app"}, "the whole host"),
    ({"name": "__Http-sid", "secure": True}, None),
    ({"name": "__Http-sid", "secure": True, "httponly": False}, "not HttpOnly"),
    ({"name": "__Host-Http-sid", "secure": True, "httponly": False}, "not HttpOnly"),
    ({"name": "__Host-Http-sid", "secure": True, "path": "/app"}, "the whole host"),
]


@pytest.mark.parametrize(("cookie", "words"), UNWISE, ids=str)
async def test_what_browsers_will_not_keep_is_said_once(
    make_app: Any, cookie: dict[str, Any], words: str | None, said: Callable[[], list[str]]
) -> None:
    for _ in range(2):
        client = Client(at(make_app(cookie=cookie), "https://example.com"))
        for action in ("write", "write", "logout"):
            assert (await client.get(action)).status == 200
    assert len(said()) == (words is not None)
    assert words is None or words in said()[0]


EVERY_FLAG = "a cookie that is Secure, HttpOnly and has a SameSite"

#: what differs from a cookie with every flag; why strict refuses it, or None if it does not
STRICT: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"samesite": "strict"}, None),
    ({"samesite": "none"}, None),
    ({"secure": False, "partitioned": True}, None),
    ({"name": "__Host-sid"}, None),
    ({"secure": False}, EVERY_FLAG),
    ({"httponly": False}, EVERY_FLAG),
    ({"samesite": None}, EVERY_FLAG),
    ({"secure": False, "samesite": None}, EVERY_FLAG),
    ({"secure": False, "samesite": "none"}, "SameSite=None that is not Secure"),
    ({"name": "__Secure-sid", "secure": False}, "__Secure-sid that is not Secure"),
    ({"name": "__Host-sid", "domain": "example.com"}, "the whole host"),
    ({"name": "__Host-sid", "path": "/app"}, "the whole host"),
    ({"name": "__Http-sid", "httponly": False}, "not HttpOnly"),
]


@pytest.mark.parametrize(("cookie", "words"), STRICT, ids=str)
async def test_strict_refuses_it(
    make_app: Any, cookie: dict[str, Any], words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    cookie = {**SAFE, **cookie}
    if make_app is on_starlette and words is not None:
        with pytest.raises(ConfigurationError, match=words):
            make_app(cookie=cookie, policy=SessionPolicy.strict())
        return
    app = at(make_app(cookie=cookie, policy=SessionPolicy.strict()), "https://example.com")
    for _ in range(2):  # Quart reads its config when it sends a cookie: each time
        answer = await Client(app).get("write")
        assert answer.status == (200 if words is None else 500)
        assert len(answer.all("set-cookie")) == (words is None)
    assert words is None or words in caplog.text


@pytest.mark.parametrize("make", [manager, middleware])
@pytest.mark.parametrize(("size", "warned", "refused"), [(15, 1, 1), (16, 0, 1), (32, 0, 0)])
def test_a_short_secret(
    make: Any, size: int, warned: int, refused: int, said: Callable[[], list[str]]
) -> None:
    for _ in range(2):
        make(secret_key="k" * size)
    assert len(said()) == warned
    assert not warned or ("has only 15 bytes" in said()[0] and "token_hex" in said()[0])
    strict = {"policy": SessionPolicy.strict()}
    if make is middleware:
        strict["https_only"] = True  # type: ignore[assignment]
    if refused:
        with pytest.raises(ConfigurationError, match="wants 32"):
            make(secret_key="k" * size, **strict)
    else:
        make(secret_key="k" * size, **strict)


TRANSPORTS = [
    ("http://example.com", True, True),
    ("http://example.com:8000", True, True),
    ("http://10.0.0.1", True, True),
    ("http://127.example.com", True, True),  # a name, whatever it begins with
    ("http://example.com", False, False),
    ("https://example.com", True, False),
    ("http://localhost", True, False),
    ("http://localhost:8000", True, False),
    ("http://app.localhost:8000", True, False),
    ("http://127.0.0.1:8000", True, False),
    ("http://[::1]:8000", True, False),
    ("http://[::1]", True, False),
]


@pytest.mark.parametrize(("url", "secure", "wrong"), TRANSPORTS)
async def test_a_secure_cookie_over_plain_http(
    make_app: Any, url: str, secure: bool, wrong: bool, said: Callable[[], list[str]]
) -> None:
    cookie = {**SAFE, "secure": secure}
    client = Client(at(make_app(cookie=cookie), url))
    for action in ("read", "write", "read", "write"):
        answer = await client.get(action)
        assert (answer.sent_id is not None) is (action == "write")
    assert len(said()) == wrong
    assert not wrong or "X-Forwarded-Proto" in said()[0]
    if not secure:
        return
    client = Client(at(make_app(cookie=cookie, policy=SessionPolicy.strict()), url))
    assert (await client.get("read")).status == 200
    try:
        assert (await client.get("write")).status == (500 if wrong else 200)
    except ConfigurationError:
        assert wrong


# Starlette's own way


async def acting(scope: Any, receive: Any, send: Any) -> None:
    ACTIONS[scope["path"][1:]](scope["session"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_starlettes_parameters_by_position() -> None:
    app = SessionMiddleware(
        acting,
        Secret(KEY),
        "sid",
        60,
        "/app",
        "strict",
        True,
        "example.com",
        True,
        store=MemoryStore(),
        clock=Clock(0),
    )
    line = (await Client(app).get("write")).set_cookie
    assert line is not None
    assert line.partition("; ")[0].startswith("sid=")
    assert line.partition("; ")[2] == (
        "Domain=example.com; Expires=Thu, 01 Jan 1970 00:01:00 GMT; Max-Age=60; Secure; HttpOnly; "
        "Path=/app; SameSite=Strict; Partitioned"
    )


async def test_a_subclass() -> None:
    class Ours(SessionMiddleware):
        def __init__(self, app: Any, secret_key: object, **options: Any) -> None:
            super().__init__(app, secret_key, "ours", None, store=MemoryStore(), **options)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            scope["seen"] = True
            await super().__call__(scope, receive, send)

    answer = await Client(Ours(acting, KEY, same_site=None)).get("write")
    assert answer.set_cookie is not None
    assert re.fullmatch(r"ours=[\w.-]{87}; HttpOnly; Path=/", answer.set_cookie)


async def test_name_and_path_may_be_assigned_between_requests(
    said: Callable[[], list[str]],
) -> None:
    app = SessionMiddleware(acting, KEY, store=MemoryStore(), max_age=None)
    cookie = (await Client(app).get("write")).sent_id
    app.session_cookie, app.path = "other", "/app"
    line = (await Client(app).get("write")).set_cookie
    assert line is not None
    assert line.startswith("other=")
    assert "; Path=/app;" in line
    raw = (f"session=x; other={cookie}".encode(),)
    assert (await request(app, "/logout", raw_cookies=raw)).set_cookie == (
        "other=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; HttpOnly; Path=/app; "
        "SameSite=Lax"
    )
    assert said() == []
    app.session_cookie = "__Host-sid"
    for _ in range(2):
        await Client(app).get("write")
    assert sorted(line.partition(" that is not ")[2][:8] for line in said()) == [
        "Secure: ",
        "for the ",
    ]


@pytest.mark.parametrize("inner", ["session", "other"])
async def test_two_middlewares(inner: str) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["session"])
        await acting(scope, receive, send)

    async def between(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["session"])
        await second(scope, receive, send)

    first_store, second_store = RecordingStore(MemoryStore()), RecordingStore(MemoryStore())
    second = SessionMiddleware(app, KEY, inner, store=second_store)
    first = SessionMiddleware(between, KEY, store=first_store)
    answer = await request(first, "/write")
    lines = answer.all("set-cookie")
    assert [line.partition("=")[0] for line in lines] == [inner]
    assert (seen[0] is seen[1]) is (inner == "session")
    assert len(first_store.calls) == (inner == "session")
    assert len(second_store.calls) == (inner == "other")
    assert answer.vary == ["Cookie"]
    answer = await request(first, "/read")
    assert answer.all("set-cookie") == []


# Precedence

FORTNIGHT = 14 * 86400
TEN = SessionPolicy(lifetime=10, permanent=True)

#: Starlette's parameters, and what they come to: lifetime, permanent, refresh each request
PRECEDENCE: list[tuple[dict[str, Any], tuple[int, bool, bool]]] = [
    ({}, (FORTNIGHT, True, False)),  # as Starlette's
    ({"max_age": 60}, (60, True, False)),
    ({"max_age": 60, "lifetime": 90}, (60, True, False)),
    ({"max_age": 60, "policy": TEN}, (60, True, True)),
    ({"max_age": 60, "policy": SessionPolicy()}, (60, True, True)),
    ({"max_age": 0, "policy": TEN}, (0, True, True)),
    ({"max_age": timedelta(minutes=1)}, (60, True, False)),
    ({"max_age": None}, (FORTNIGHT, False, False)),
    ({"max_age": None, "lifetime": 90}, (90, False, False)),
    ({"max_age": None, "lifetime": timedelta(seconds=90)}, (90, False, False)),
    ({"max_age": None, "lifetime": 0}, (0, False, False)),
    ({"max_age": None, "lifetime": 90, "policy": TEN}, (90, True, True)),
    ({"max_age": None, "policy": TEN}, (10, True, True)),
    ({"max_age": None, "policy": SessionPolicy()}, (31 * 86400, False, True)),
    ({"max_age": 60, "refresh_each_request": True}, (60, True, True)),
    ({"max_age": 60, "refresh_each_request": False, "policy": TEN}, (60, True, False)),
    ({"max_age": None, "refresh_each_request": False, "policy": TEN}, (10, True, False)),
]


@pytest.mark.parametrize(("options", "expected"), PRECEDENCE, ids=str)
async def test_precedence_of_starlettes_parameters(
    options: dict[str, Any], expected: tuple[int, bool, bool]
) -> None:
    clock = Clock(0)
    app = SessionMiddleware(acting, KEY, store=MemoryStore(), clock=clock, **options)
    policy = app.manager.policy
    assert (policy.idle, policy.permanent, policy.refresh_each_request) == expected
    line = (await Client(app).get("write")).set_cookie or ""
    assert (f"Max-Age={expected[0]};" in line) is expected[1]
    assert ("Expires=" in line) is expected[1]


# CK: the cookie

COOKIES: list[dict[str, Any]] = [
    {},
    {"secure": True},
    {"httponly": False},
    *({"samesite": samesite, "secure": True} for samesite in ("lax", "strict", "none", "None")),
    {"partitioned": True},
    {"domain": ".Example.com", "path": "/app/é"},
    {"domain": "bücher.example"},
    {"name": "__Host-sid", "secure": True, "samesite": "strict"},
]


@pytest.mark.parametrize("permanent", [False, True])
@pytest.mark.parametrize("cookie", COOKIES, ids=str)
async def test_flags_as_configured_and_repeated_by_a_deletion(
    make_app: Any, cookie: dict[str, Any], permanent: bool
) -> None:
    app = make_app(cookie=cookie, policy=SessionPolicy(permanent=permanent), clock=Clock(0))
    line = (await Client(app).get("write")).set_cookie or ""
    first, *attributes = line.split("; ")
    name = cookie.get("name", "session")
    sent = first.removeprefix(f"{name}=")
    assert re.fullmatch(r"[\w-]{43}\.[\w-]{43}", sent)
    samesite = cookie.get("samesite")
    assert ("Secure" in attributes) is bool(cookie.get("secure") or cookie.get("partitioned"))
    assert ("HttpOnly" in attributes) is cookie.get("httponly", True)
    assert [a for a in attributes if a.startswith("SameSite")] == (
        [f"SameSite={samesite.capitalize()}"] if samesite else []
    )
    assert ("Partitioned" in attributes) is cookie.get("partitioned", False)
    raw = (f"{name}={sent}".encode(),)
    deletion = (await request(app, "/logout", raw_cookies=raw)).set_cookie or ""
    gone, *repeated = deletion.split("; ")
    assert gone == f"{name}="
    lapse = ["Expires=Thu, 01 Jan 1970 00:00:00 GMT", "Max-Age=0"]
    assert [a for a in repeated if a not in lapse] == [
        a for a in attributes if not a.startswith(("Expires=", "Max-Age="))
    ]
    assert [a for a in repeated if a in lapse] == lapse


def test_the_longest_cookie_is_one_that_browsers_keep() -> None:
    options = CookieOptions(
        name="n" * (4096 - 87),
        domain=".".join(["abcdefghi"] * 102),
        path="/" + "p" * 1018,
        samesite="strict",
        partitioned=True,
    )
    value = "v" * 87
    line = options.set_header(value, expires=10**15, max_age=10**15)
    first, *attributes = line.split("; ")
    assert len(first) - 1 <= 4096
    assert all(len(attribute.partition("=")[2]) <= 1024 for attribute in attributes)


@pytest.mark.parametrize("seed", range(5))
def test_no_setting_reaches_into_the_header(seed: int) -> None:
    dice = random.Random(seed)
    alphabet = "ab./-_=;, \"'\\\t\r\n\x00\x7fé€%{}[]()"
    made = 0
    for _ in range(3000):
        text = "".join(dice.choices(alphabet, k=dice.randint(1, 5)))
        option = dice.choice(["name", "domain", "path", "samesite"])
        try:
            options = CookieOptions(**{option: text})  # type: ignore[arg-type]
        except ConfigurationError:
            continue
        made += 1
        deletion = options.delete_header().replace("=Thu, 01 Jan 1970 00:00:00 GMT", "=")
        for line, attributes in ((options.set_header("value"), 2), (deletion, 4)):
            assert not re.search(r'[^\x20-\x7e]|["\\]', line), line
            parts = line.split("; ")
            assert len(parts) == 1 + attributes + (bool(options.domain) and option == "domain")
            assert not any(re.search("[; ]", part) for part in parts), line
            assert option == "path" or "," not in line  # Flask leaves it in a path
    assert made > 300


async def test_one_cookie_at_most_and_none_for_nothing(make_app: Any) -> None:
    client = Client(make_app(headers=[("Set-Cookie", "theirs=1; Path=/")]))
    for action, ours in [("nothing", 0), ("read", 0), ("write", 1), ("read", 0), ("logout", 1)]:
        answer = await request(client.app, f"/{action}", cookie=client.cookie)
        lines = answer.all("set-cookie")
        assert "theirs=1; Path=/" in lines
        assert len(lines) == 1 + ours
        for line in lines:
            if line.startswith("session="):
                client.cookie = line.split(";")[0].partition("=")[2] or None


# CA: caches


@pytest.mark.parametrize("theirs", ["s-maxage=600, public", "no-cache", None])
@pytest.mark.parametrize("strict", [False, True])
async def test_strict_says_no_store_with_our_cookie(
    make_app: Any, strict: bool, theirs: str | None
) -> None:
    headers = [("Cache-Control", theirs)] if theirs else []
    policy = SessionPolicy.strict() if strict else SessionPolicy()
    client = Client(make_app(headers=headers, cookie=SAFE, policy=policy))
    for action, sets in [("read", False), ("write", True), ("read", False), ("logout", True)]:
        answer = await client.get(action)
        assert (answer.set_cookie is not None) is sets
        said = ["no-store"] if strict and sets else [theirs] if theirs else []
        assert answer.all("cache-control") == said


def attempt(act: Act) -> Act:
    def view(session: Session) -> None:
        with contextlib.suppress(KeyError):
            act(session)

    return view


#: all that a dict can do, and what only a session has
USES: dict[str, Act] = {
    "[]": lambda s: s["a"],
    "[]=": lambda s: s.__setitem__("a", 1),
    "del": lambda s: s.__delitem__("a"),
    "in": lambda s: "a" in s,
    "len": len,
    "bool": bool,
    "iter": iter,
    "reversed": reversed,
    "==": lambda s: s == {},
    "!=": lambda s: s != {},
    "|": lambda s: s | {},
    "reversed |": lambda s: {} | s,
    "|=": lambda s: s.__ior__({"b": 1}),
    "get": lambda s: s.get("a"),
    "keys": lambda s: s.keys(),
    "values": lambda s: s.values(),
    "items": lambda s: s.items(),
    "copy": lambda s: s.copy(),
    "clear": lambda s: s.clear(),
    "pop": lambda s: s.pop("a", None),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault("a"),
    "update": lambda s: s.update({}),
    "repr": repr,
    "str": str,
    "format": lambda s: f"{s}",
    "dict": dict,
    "list": list,
    "new": lambda s: s.new,
    "owner": lambda s: s.owner,
    "owner=": lambda s: setattr(s, "owner", "ada"),
    "permanent": lambda s: s.permanent,
    "permanent=": lambda s: setattr(s, "permanent", True),
    "lifetime=": lambda s: setattr(s, "lifetime", 60),
    "modified=": lambda s: setattr(s, "modified", True),
    "login": lambda s: s.login("ada"),
    "regenerate": lambda s: s.regenerate(),
    "logout": lambda s: s.logout(),
    "accessed=": lambda s: setattr(s, "accessed", True),
}


def test_the_list_of_uses_is_whole() -> None:
    methods = {name for name in vars(dict) if not name.startswith("_")} - {"fromkeys"}
    assert methods <= USES.keys()


@pytest.mark.parametrize("loaded", [False, True], ids=["new", "loaded"])
@pytest.mark.parametrize("use", USES)
async def test_every_use_adds_vary_once(make_app: Any, use: str, loaded: bool) -> None:
    actions = {"use": attempt(USES[use])}
    client = Client(make_app(actions))
    if loaded:
        await client.get("write")
    assert (await client.get("use")).vary == ["Cookie"]
    answer = await client.get("nothing")
    assert answer.vary == (["Cookie"] if answer.set_cookie else [])  # as a refresh has


VARIES = [
    ([], ["Cookie"]),
    (["Accept"], ["Accept, Cookie"]),
    (["Accept, Accept-Language"], ["Accept, Accept-Language, Cookie"]),
    (["Accept", "Origin"], ["Accept, Cookie", "Origin"]),
    (["Cookie"], ["Cookie"]),
    (["accept", "Origin, cookie"], ["accept", "Origin, cookie"]),
    (["COOKIE"], ["COOKIE"]),
    (["X-Cookie"], ["X-Cookie, Cookie"]),
]


@pytest.mark.parametrize("action", ["read", "write", "nothing"])
@pytest.mark.parametrize(("theirs", "merged"), VARIES, ids=str)
async def test_vary_is_merged_and_no_line_is_lost(
    make_app: Any, theirs: list[str], merged: list[str], action: str
) -> None:
    app = make_app(headers=[("Vary", line) for line in theirs])
    answer = await request(app, f"/{action}")
    assert answer.vary == (theirs if action == "nothing" else merged)


# KY: keys


async def test_keys_are_rotated_twice(make_app: Any) -> None:
    one, two, three = (letter * 40 for letter in "abc")
    store = RecordingStore(MemoryStore())

    def with_keys(key: str, *fallbacks: str) -> App:
        app: App = make_app({"tell": write}, key=key, secret_key_fallbacks=fallbacks, store=store)
        return app

    async def opens(app: App, cookie: str | None) -> bool:
        """Whether the app asks the store for it: it knows its own signature."""
        store.calls.clear()
        assert (await request(app, "/read", cookie=cookie)).status == 200
        return bool(store.calls)

    first = (await Client(with_keys(one)).get("write")).sent_id
    second = (await Client(with_keys(two, one)).get("write")).sent_id
    assert await opens(with_keys(two, one), first)
    assert await opens(with_keys(three, two, one), first)
    assert await opens(with_keys(three, two, one), second)
    assert await opens(with_keys(two), second)  # the current one has signed it
    assert not await opens(with_keys(one), second)
    assert not await opens(with_keys(three, two), first)  # the oldest is withdrawn
    renewed = (await Client(with_keys(three, two, one), first).get("write")).sent_id
    assert renewed is not None
    assert first is not None
    assert renewed.split(".")[0] == first.split(".")[0]  # one session, under a new signature
    assert await opens(with_keys(three), renewed)


async def test_without_a_secret_quart_has_a_null_session() -> None:
    for key in (None, "", b""):
        app = on_quart(key=key)
        assert (await Client(app).get("nothing")).status == 200
        assert (await Client(app).get("read")).status == 200
        assert (await Client(app).get("write")).status == 500


# ID: ids


async def test_ids_are_256_random_bits_in_one_format(
    make_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int | None] = []
    real = secrets.token_bytes

    def count(size: int | None = None) -> bytes:
        drawn.append(size)
        return real(size)

    monkeypatch.setattr(secrets, "token_bytes", count)
    app = make_app()
    ids = [(await Client(app).get("write")).sent_id or "" for _ in range(200)]
    assert drawn == [32] * 200
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}\.[A-Za-z0-9_-]{43}", sent) for sent in ids)
    assert len({sent.split(".")[0] for sent in ids}) == 200
    assert len({sent[:8] for sent in ids}) == 200


async def test_a_login_draws_an_independent_id(make_app: Any) -> None:
    client = Client(make_app())
    before = (await client.get("write")).sent_id
    after = (await client.get("login")).sent_id
    assert before is not None
    assert after is not None
    assert sum(a == b for a, b in zip(before, after, strict=True)) < 20  # of 87; by chance 1 in 64
    assert "ada" not in after


async def test_no_id_is_ever_logged_or_shown(
    make_app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def look(session: Session) -> None:
        origin = session._origin
        shown.extend(map(repr, (session, origin, session._keeper, vars(session))))
        if client.cookie:
            shown.append(repr(CookieSigner([KEY.encode()]).verify(client.cookie)))
        shown.append(str(session.handle))

    def fail(session: Session) -> None:
        look(session)
        session["a"] = object()

    store = MemoryStore()
    app = make_app({"look": look, "fail": fail}, store=store)
    client = Client(app)
    ids: set[str] = set()
    for action in ("write", "look", "login", "look", "logout", "look", "write", "fail", "read"):
        try:
            await client.get(action)
        except SessionError as error:
            shown.append(repr(error))
        if client.cookie:
            ids.add(client.cookie.split(".")[0])
    stale = client.cookie
    await client.get("logout")
    await client.twin().get("write", cookie=stale)
    shown.append(caplog.text)
    assert len(ids) == 3
    for session_id in ids:
        assert not any(session_id in text for text in shown)


# The rest of the middleware


@pytest.mark.parametrize("given", [False, True], ids=["a URL", "a store"])
@pytest.mark.parametrize("end", ["complete", "failed"])
async def test_a_store_made_from_a_url_is_closed_at_shutdown(
    given: bool, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Closing(MemoryStore):
        async def aclose(self) -> None:
            events.append("closed")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "session" not in scope
        await send({"type": "lifespan.startup.complete"})
        await send({"type": f"lifespan.shutdown.{end}"})

    async def send(message: Any) -> None:
        events.append(message["type"])

    monkeypatch.setitem(urls._BUILDERS, "memory", lambda url: Closing())
    store = Closing() if given else "memory://"
    await SessionMiddleware(app, KEY, store=store)({"type": "lifespan"}, None, send)  # type: ignore[arg-type]
    closed = [] if given else ["closed"]
    assert events == ["lifespan.startup.complete", *closed, f"lifespan.shutdown.{end}"]


@pytest.mark.parametrize("scope", [{}, {"session": {}}], ids=["none", "another's"])
def test_get_session_says_what_is_missing(scope: dict[str, Any]) -> None:
    class Connection:
        def __init__(self) -> None:
            self.scope = scope

    with pytest.raises(SessionError, match=r"add SessionMiddleware.*skip="):
        get_session(Connection())


async def test_other_scopes_pass_untouched() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, send))

    async def send(message: Any) -> None: ...

    scope = {"type": "something.else"}
    await SessionMiddleware(app, KEY, store="memory://")(scope, None, send)  # type: ignore[arg-type]
    assert seen == [({"type": "something.else"}, send)]
