"""One small app on either adapter, driven through raw ASGI, and clients with a cookie jar.

A *view* is an async function of the session; what it returns is shown by the response. The same
views run behind `SessionMiddleware` and behind Quart's interface.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from quart import Quart
from quart import session as quart_session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from stores import AMPLE

from async_session import Session, SessionPolicy, SessionStore
from async_session.quart import ServerSideSessionInterface
from async_session.starlette import SessionMiddleware, get_session

KEY = "a secret key that is long enough for all"
View = Callable[[Session], Awaitable[object]]
ASGIApp = Callable[..., Awaitable[None]]


class Clock:
    """Epoch seconds that pass when told to."""

    def __init__(self, now: float = 1_900_000_000) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def starlette_app(
    views: Mapping[str, View],
    store: SessionStore,
    *,
    policy: SessionPolicy | None = None,
    clock: Clock | None = None,
    **options: Any,
) -> ASGIApp:
    async def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse(
            repr(await views[request.path_params["view"]](get_session(request)))
        )

    app = Starlette(routes=[Route("/{view}", endpoint)])
    app.add_middleware(
        SessionMiddleware,
        secret_key=KEY,
        max_age=None,
        store=store,
        policy=policy or SessionPolicy(timeout=AMPLE),
        clock=clock or Clock(),
        **options,
    )
    return app


def quart_app(
    views: Mapping[str, View],
    store: SessionStore,
    *,
    policy: SessionPolicy | None = None,
    clock: Clock | None = None,
    **options: Any,
) -> Quart:
    app = Quart(__name__)
    app.secret_key = KEY
    policy = policy or SessionPolicy(timeout=AMPLE)
    app.config["PERMANENT_SESSION_LIFETIME"] = policy.lifetime
    app.config["SESSION_REFRESH_EACH_REQUEST"] = policy.refresh_each_request
    app.session_interface = ServerSideSessionInterface(  # type: ignore[assignment]
        store, policy=policy, clock=clock or Clock(), **options
    )

    @app.get("/<view>")
    async def endpoint(view: str) -> str:
        session: Session = quart_session._get_current_object()  # type: ignore[attr-defined]
        return repr(await views[view](session))

    return app


ADAPTERS: dict[str, Callable[..., ASGIApp]] = {"starlette": starlette_app, "quart": quart_app}


@dataclass
class Answer:
    """What a response said."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def set_cookie(self) -> str | None:
        """The one Set-Cookie line, or None; never two."""
        lines = self.all("set-cookie")
        assert len(lines) <= 1, lines
        return lines[0] if lines else None

    @property
    def sent_id(self) -> str | None:
        """The cookie value that was set; None if none was, or it was deleted."""
        if self.set_cookie is None:
            return None
        return self.set_cookie.split(";")[0].partition("=")[2] or None

    @property
    def vary(self) -> list[str]:
        return self.all("vary")


class Client:
    """A browser's view of the app: sends its cookie, keeps what it is sent."""

    def __init__(self, app: ASGIApp, cookie: str | None = None) -> None:
        self.app = app
        self.cookie = cookie

    def twin(self) -> Client:
        """Return another client that holds the same cookie now."""
        return Client(self.app, self.cookie)

    async def get(self, view: str, *, cookie: str | None = None) -> Answer:
        value = self.cookie if cookie is None else cookie
        answer = await request(self.app, f"/{view}", cookie=value)
        self.receive(answer)
        return answer

    def receive(self, answer: Answer) -> None:
        if answer.set_cookie is not None:
            self.cookie = answer.sent_id


async def request(
    app: ASGIApp,
    path: str,
    *,
    cookie: str | None = None,
    raw_cookies: tuple[bytes, ...] = (),
    answer: Answer | None = None,
    hang_up: anyio.Event | None = None,
) -> Answer:
    """Send one GET through ASGI and return the answer.

    Args:
        app: any ASGI app.
        path: what is asked for.
        cookie: the value of the session cookie.
        raw_cookies: whole headers instead.
        answer: is filled, so that it is known how far a cancelled request came.
        hang_up: the client goes away when it is set.
    """
    lines = [f"session={cookie}".encode("latin-1")] if cookie is not None else list(raw_cookies)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *((b"cookie", line) for line in lines)],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "state": {},
        "extensions": {},
    }
    answer = Answer() if answer is None else answer
    asked = False
    ended = anyio.Event()

    async def receive() -> dict[str, object]:
        nonlocal asked
        if asked:
            await (ended if hang_up is None else hang_up).wait()
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in message["headers"]
            ]
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"").decode()
            if not message.get("more_body", False):
                ended.set()

    await app(scope, receive, send)
    return answer


# Views that most tests use


async def nothing(session: Session) -> None:
    pass


async def read(session: Session) -> object:
    return dict(session)


async def write(session: Session) -> None:
    session["written"] = True


async def sign_in(session: Session) -> None:
    session["user"] = "ada"
    session["theme"] = "dark"


async def login(session: Session) -> None:
    session.login("ada")
    session["user"] = "ada"


async def regenerate(session: Session) -> None:
    session.regenerate()


async def logout(session: Session) -> None:
    session.logout()


async def clear(session: Session) -> None:
    session.clear()


async def pop_user_and_flash(session: Session) -> None:
    session.pop("user", None)
    session["_flashes"] = [*session.get("_flashes", []), ("message", "signed out")]


VIEWS: dict[str, View] = {
    view.__name__: view
    for view in (
        nothing,
        read,
        write,
        sign_in,
        login,
        regenerate,
        logout,
        clear,
        pop_user_and_flash,
    )
}
