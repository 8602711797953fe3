"""Apps to replay recordings on: Flask itself, and our sessions behind Quart and Starlette.

A *subject* takes one request at a time, exactly as given, and has a memory store whose calls are
noted. Apps are driven through WSGI and ASGI themselves: no test client adds or merges a header.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mimetypes
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from unittest import mock

import flask
import flask.sessions
import itsdangerous
import quart
import starlette.exceptions
import werkzeug.exceptions
import werkzeug.test
from flask.json.tag import TaggedJSONSerializer as FlaskJSON
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.responses import Response as StarletteResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket
from stores import AMPLE

from async_session import Match, SessionPolicy, SessionStore
from async_session.quart import QuartSession, ServerSideSessionInterface
from async_session.record import Record, Tombstone, decode
from async_session.serializers import TaggedJSONSerializer
from async_session.starlette import SessionMiddleware
from async_session.stores.memory import MemoryStore
from async_session.tokens import CookieSigner, new_id, store_key

from .ops import Framework, Stage, at_once

__all__ = [
    "KEY",
    "METHODS",
    "Clock",
    "FlaskSubject",
    "Notes",
    "QuartSubject",
    "Reply",
    "StarletteSubject",
    "Subject",
    "Talk",
]

KEY = "golden-secret-key"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
STATIC = {"file.txt": "static\n"}
mimetypes.init()  # reads files at its first use, which is no business of a request here


class Clock:
    """The time of both sides, which passes when told to."""

    def __init__(self, now: int = 1_900_000_000) -> None:
        self.now = now

    def __call__(self) -> float:
        return float(self.now)


class Reply(NamedTuple):
    """What went over the wire, header by header."""

    status: int
    headers: list[tuple[str, str]]
    #: what left the app after it had answered
    raised: BaseException | None = None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


class Talk(NamedTuple):
    """What went over a websocket."""

    sent: list[dict[str, Any]]
    log: list[str]
    calls: list[str]


class Subject(Protocol):
    """Something to replay a scenario on."""

    stage: Stage
    clock: Clock

    def configure(self, config: dict[str, Any]) -> None: ...
    def forge(self, incoming: dict[str, Any]) -> str: ...
    def ask(self, step: dict[str, Any], cookie: str | None) -> Reply: ...
    def cookie_name(self) -> str: ...


class Notes:
    """A store that notes what is asked of it, in the recordings' words; in memory by default."""

    def __init__(self, clock: Clock, store: SessionStore | None = None) -> None:
        self.kept = store or MemoryStore(clock=clock)
        self.deadline: float | None = getattr(self.kept, "deadline", None)
        self.calls: list[str] = []

    async def open(self, key: str, /) -> bytes | None:
        self.calls.append("read")
        return await self.kept.open(key)

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        ends = isinstance(decode(data), Tombstone)
        self.calls.append("delete" if ends else f"write ttl={ttl}")
        return await self.kept.save(key, data, ttl=ttl, match=match)

    async def delete(self, key: str, /) -> None:
        raise AssertionError("a session is ended by a tombstone, not by delete")

    def record_of(self, cookie: str) -> Record:
        """Return what is stored for a cookie value."""
        data = asyncio.run(self.kept.open(store_key(cookie.partition(".")[0])))
        assert data is not None, "the cookie leads nowhere"
        record = decode(data)
        assert isinstance(record, Record)
        return record


def setting(value: Any) -> Any:
    """Return a config value as an app would write it; some cannot stand in JSON."""
    if isinstance(value, dict) and len(value) == 1:
        ((kind, content),) = value.items()
        if kind == "timedelta":
            return timedelta(seconds=content)
        if kind == "bytes":
            return content.encode()
    return value


def tampered(value: str) -> str:
    """Change one character in the middle, where every bit of it counts."""
    middle = len(value) // 2
    middle += value[middle] == "."
    return f"{value[:middle]}{'A' if value[middle] != 'A' else 'B'}{value[middle + 1 :]}"


def pair(incoming: dict[str, Any], name: str, make: Callable[[dict[str, Any]], str]) -> str:
    """Return what stands in the Cookie header for an entry of `incoming`."""
    if "header" in incoming:
        return str(incoming["header"])
    value = str(incoming["raw"]) if "raw" in incoming else make(incoming)
    if incoming.get("tamper"):
        value = tampered(value)
    return f'{name}="{value}"' if incoming.get("quote") else f"{name}={value}"


# ------------------------------------------------------------------------------------------ Flask


class FlaskSubject:
    """Flask's own sessions, in its signed cookie.

    Args:
        clock: the time.
        static: a directory with `STATIC` in it.
        sort_keys: Flask sorts the keys of what it stores; False leaves them as the app had them.
    """

    def __init__(self, clock: Clock, static: Path, *, sort_keys: bool = True) -> None:
        self.clock = clock
        self.stage = Stage(
            Framework(
                flash=flask.flash,
                flashed=flask.get_flashed_messages,
                touch=lambda proxy: proxy._get_current_object(),
            )
        )
        self.app = flask.Flask("golden-flask", static_folder=str(static), static_url_path="/static")
        self.app.secret_key = KEY
        self.app.json.sort_keys = sort_keys  # type: ignore[attr-defined]
        self.app.logger.disabled = True
        self._routes(self.app)

    def cookie_name(self) -> str:
        return str(self.app.config["SESSION_COOKIE_NAME"])

    def configure(self, config: dict[str, Any]) -> None:
        self.app.config.update({key: setting(value) for key, value in config.items()})

    def _routes(self, app: flask.Flask) -> None:
        stage = self.stage

        @app.before_request
        def before() -> None:
            at_once(stage.act("before", lambda: flask.session))

        @app.after_request
        def after(response: Any) -> Any:
            at_once(stage.act("after", lambda: flask.session))
            return response

        @app.teardown_request
        def teardown(error: BaseException | None) -> None:
            at_once(stage.act("teardown", lambda: flask.session))

        @app.errorhandler(Exception)
        def error(error: Exception) -> Any:
            if not isinstance(error, werkzeug.exceptions.HTTPException):
                if not stage.step.get("error"):
                    raise error  # nobody handles it
                at_once(stage.act("error", lambda: flask.session))
                return "error", 500
            at_once(stage.act("error", lambda: flask.session))
            return error

        @app.route("/", methods=METHODS)
        def view() -> Any:
            at_once(stage.act("ops", lambda: flask.session))
            reply = stage.reply
            kind = reply.get("kind", "text")
            if kind == "abort":
                flask.abort(reply["status"])
            if kind == "redirect":
                return flask.redirect(reply.get("location", "/elsewhere"))
            if kind == "template":
                text = flask.render_template_string(stage.template())
                return _with_headers(flask.make_response(text, reply.get("status", 200)), reply)
            if kind == "stream":

                def late() -> Iterator[str]:
                    yield "first"
                    at_once(stage.act("stream", lambda: flask.session))
                    yield "last"

                return flask.Response(flask.stream_with_context(late()))
            return _with_headers(flask.make_response("text", reply.get("status", 200)), reply)

    def forge(self, incoming: dict[str, Any]) -> str:
        return pair(incoming, self.cookie_name(), self._sign)

    def _sign(self, incoming: dict[str, Any]) -> str:
        from .ops import python

        signer = itsdangerous.URLSafeTimedSerializer(
            incoming.get("secret", self.app.secret_key or KEY),
            salt=incoming.get("salt", "cookie-session"),
            serializer=FlaskJSON(),
            signer_kwargs={"key_derivation": "hmac"},
        )
        then = int(self.clock()) - incoming.get("age", 0)
        with self.app.app_context(), self._frozen(then):
            value = signer.dumps(python(incoming["data"]))
        return value if isinstance(value, str) else value.decode()

    def _frozen(self, now: int) -> contextlib.ExitStack:
        """Stop the clocks that Flask reads: the cookie's expiry, and the signature's time."""
        stack = contextlib.ExitStack()
        time = mock.Mock(wraps=datetime)
        time.now = lambda tz: datetime.fromtimestamp(now, tz)
        stack.enter_context(mock.patch.object(flask.sessions, "datetime", time))
        signer = itsdangerous.TimestampSigner
        stack.enter_context(mock.patch.object(signer, "get_timestamp", return_value=now))
        return stack

    def ask(self, step: dict[str, Any], cookie: str | None) -> Reply:
        self.stage.enter(step)
        client = werkzeug.test.Client(self.app, use_cookies=False)
        headers = {} if cookie is None else {"Cookie": cookie}
        with self._frozen(int(self.clock())):
            response = client.open(
                step.get("path", "/"), method=step.get("method", "GET"), headers=headers
            )
            response.get_data()
            response.close()
        return Reply(response.status_code, list(response.headers.items()))


def _with_headers(response: Any, reply: dict[str, Any]) -> Any:
    for name, value in reply.get("headers") or ():
        response.headers.add(name, value)
    return response


# ------------------------------------------------------------------------- what ours have in common


class _ASGISubject:
    """Drives an ASGI app with a store of ours behind it."""

    secret: Any = KEY

    def __init__(self, clock: Clock, store: SessionStore | None = None) -> None:
        self.clock = clock
        self.store = Notes(clock, store)

    @property
    def calls(self) -> list[str]:
        return self.store.calls

    def app_for(self, step: dict[str, Any]) -> Any:
        raise NotImplementedError

    def cookie_name(self) -> str:
        raise NotImplementedError

    def forge(self, incoming: dict[str, Any]) -> str:
        return pair(incoming, self.cookie_name(), self._store)

    def _store(self, incoming: dict[str, Any]) -> str:
        """Store what was written `age` seconds ago, and return its cookie."""
        from .ops import python

        then = int(self.clock()) - incoming.get("age", 0)
        payload = TaggedJSONSerializer().dumps(python(incoming["data"]))
        session_id, record = new_id(), Record(then, then, payload)
        key, data = store_key(session_id), record.encode()
        asyncio.run(self.store.kept.save(key, data, ttl=400 * 86400))
        secret = incoming.get("secret", self.secret or KEY)
        secret = secret.encode() if isinstance(secret, str) else secret
        if "salt" not in incoming:
            return CookieSigner([secret]).sign(session_id)
        other = itsdangerous.Signer(secret, salt=incoming["salt"], key_derivation="hmac")
        return other.sign(session_id).decode()

    def ask(self, step: dict[str, Any], cookie: str | None) -> Reply:
        self.store.calls.clear()
        return asyncio.run(self._ask(self.app_for(step), step, cookie))

    async def _ask(self, app: Any, step: dict[str, Any], cookie: str | None) -> Reply:
        start: dict[str, Any] = {}
        asked = False
        ended = asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await ended.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif not message.get("more_body", False):
                ended.set()

        raised = None
        try:
            await app(_scope("http", step, cookie), receive, send)
        except Exception as error:
            raised = error
        if not start:
            assert raised is not None, "the app did not answer"
            raise raised
        headers = [(name.decode(), value.decode()) for name, value in start["headers"]]
        return Reply(start["status"], headers, raised)

    def talk(self, scenario: dict[str, Any], cookie: str | None) -> Talk:
        """Hold a conversation over a websocket."""
        self.store.calls.clear()
        return asyncio.run(self._talk(self.app_for(scenario), scenario, cookie))

    async def _talk(self, app: Any, scenario: dict[str, Any], cookie: str | None) -> Talk:
        sent: list[dict[str, Any]] = []
        client = list(scenario.get("client") or ())
        connected = False
        log = _Log()

        async def receive() -> dict[str, Any]:
            nonlocal connected
            if not connected:
                connected = True
                return {"type": "websocket.connect"}
            await asyncio.sleep(0.01)  # let the app have the floor
            if not client:
                await asyncio.Event().wait()
            text = client.pop(0)
            if text == "DISCONNECT":
                return {"type": "websocket.disconnect", "code": 1001}
            return {"type": "websocket.receive", "text": text}

        async def send(message: dict[str, Any]) -> None:
            sent.append(dict(message))

        scope = _scope("websocket", scenario | {"path": "/ws"}, cookie)
        if scenario.get("deny_ext") is False:
            del scope["extensions"]["websocket.http.response"]
        with log.listening():
            try:
                await app(scope, receive, send)
            except Exception as error:
                log.lines.append(f"RAISED: {type(error).__name__}: {error}")
        return Talk(sent, log.lines, [])


def _scope(kind: str, step: dict[str, Any], cookie: str | None) -> dict[str, Any]:
    path = step.get("path", "/")
    headers = [(b"host", b"localhost")]
    if cookie is not None:
        headers.append((b"cookie", cookie.encode("latin-1")))
    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("localhost", 80),
        "extensions": {},
    }
    if kind == "http":
        return scope | {"method": step.get("method", "GET")}
    return scope | {"subprotocols": [], "extensions": {"websocket.http.response": {}}}


class _Log(logging.Handler):
    """The errors that an app logs, in the recordings' form."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname}: {record.getMessage()}")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        logger = logging.getLogger("golden")
        logger.addHandler(self)
        logger.propagate, propagate = False, logger.propagate
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.propagate = propagate


# ------------------------------------------------------------------------------------------ Quart


class _Spy(ServerSideSessionInterface):
    """Our interface; notes what Quart calls."""

    calls: list[str]

    async def open_session(self, app: Any, request: Any) -> Any:
        self.calls.append("open")
        return await super().open_session(app, request)

    async def save_session(self, app: Any, session: Any, response: Any) -> None:
        self.calls.append(f"save(response={None if response is None else 'Response'})")
        await super().save_session(app, session, response)


class QuartSubject(_ASGISubject):
    """Our interface on Quart.

    Args:
        clock: the time.
        static: a directory with `STATIC` in it.
        policy: Flask's letter, unless given.
        extension: set up by `QuartSession` instead of by hand.
        store: in memory, unless given.
    """

    def __init__(
        self,
        clock: Clock,
        static: Path,
        *,
        policy: SessionPolicy | None = None,
        extension: bool = False,
        store: SessionStore | None = None,
    ) -> None:
        super().__init__(clock, store)
        self.stage = Stage(
            Framework(
                flash=quart.flash,
                flashed=quart.get_flashed_messages,
                touch=lambda proxy: proxy._get_current_object(),
            )
        )
        app = self.app = quart.Quart("golden", static_folder=str(static), static_url_path="/static")
        app.secret_key = KEY
        app.logger.propagate = False
        policy = policy or SessionPolicy.flask().replace(timeout=AMPLE)
        self._calls: list[str] = []
        if extension:
            app.config |= {"SESSION_PERMANENT": False, "SESSION_REFRESH_INTERVAL": 0}
            QuartSession(app, self.store, policy=policy, clock=clock)
        else:
            interface = _Spy(self.store, policy=policy, clock=clock)
            interface.calls = self._calls
            app.session_interface = interface  # type: ignore[assignment]
        self._routes(app)

    @property
    def secret(self) -> Any:
        return self.app.secret_key

    def cookie_name(self) -> str:
        return str(self.app.config["SESSION_COOKIE_NAME"])

    def configure(self, config: dict[str, Any]) -> None:
        self.app.config.update({key: setting(value) for key, value in config.items()})

    def app_for(self, step: dict[str, Any]) -> Any:
        self.stage.enter(step)
        return self.app

    async def _talk(self, app: Any, scenario: dict[str, Any], cookie: str | None) -> Talk:
        self._calls.clear()
        talk = await super()._talk(app, scenario, cookie)
        return talk._replace(calls=[*self._calls])

    def _routes(self, app: quart.Quart) -> None:
        stage = self.stage

        @app.before_request
        async def before() -> None:
            await stage.act("before", lambda: quart.session)

        @app.after_request
        async def after(response: Any) -> Any:
            await stage.act("after", lambda: quart.session)
            return response

        @app.teardown_request
        async def teardown(error: BaseException | None) -> None:
            await stage.act("teardown", lambda: quart.session)

        @app.errorhandler(Exception)
        async def error(error: Exception) -> Any:
            if not isinstance(error, werkzeug.exceptions.HTTPException):
                if not stage.step.get("error"):
                    raise error  # nobody handles it
                await stage.act("error", lambda: quart.session)
                return "error", 500
            await stage.act("error", lambda: quart.session)
            return error

        @app.route("/", methods=METHODS)
        async def view() -> Any:
            await stage.act("ops", lambda: quart.session)
            reply = stage.reply
            kind = reply.get("kind", "text")
            if kind == "abort":
                quart.abort(reply["status"])
            if kind == "redirect":
                return quart.redirect(reply.get("location", "/elsewhere"))
            if kind == "template":
                text = await quart.render_template_string(stage.template())
                response = await quart.make_response(text, reply.get("status", 200))
                return _with_headers(response, reply)
            if kind == "stream":

                @quart.stream_with_context
                async def late() -> AsyncIterator[str]:
                    yield "first"
                    await stage.act("stream", lambda: quart.session)
                    yield "last"

                return quart.Response(late())
            response = await quart.make_response("text", reply.get("status", 200))
            return _with_headers(response, reply)

        @app.websocket("/ws")
        async def ws() -> Any:
            for op in stage.step["ws"]:
                name, *args = op
                if name == "accept":
                    await quart.websocket.accept()
                elif name == "send":
                    await quart.websocket.send(*args)
                elif name == "receive":
                    stage.saw.append(repr(await quart.websocket.receive()))
                elif name == "reject":
                    quart.abort(args[0])
                elif name == "save":
                    await quart.session.save()  # type: ignore[attr-defined]
                else:
                    await stage.run(op, lambda: quart.session)


# -------------------------------------------------------------------------------------- Starlette


class StarletteSubject(_ASGISubject):
    """Our middleware around a Starlette app, with the cookie that Flask's config describes."""

    def __init__(
        self,
        clock: Clock,
        static: Path,
        *,
        policy: SessionPolicy | None = None,
        store: SessionStore | None = None,
    ) -> None:
        super().__init__(clock, store)
        self.stage = Stage()
        self._policy = policy or SessionPolicy.flask().replace(timeout=AMPLE)
        self._static = static
        self._config: dict[str, Any] = dict(flask.Flask.default_config)
        self._config["SECRET_KEY"] = KEY

    @property
    def secret(self) -> Any:
        return self._config["SECRET_KEY"]

    def cookie_name(self) -> str:
        return str(self._config["SESSION_COOKIE_NAME"])

    def configure(self, config: dict[str, Any]) -> None:
        self._config |= {key: setting(value) for key, value in config.items()}

    def parameters(self) -> dict[str, Any]:
        """Return the middleware's parameters for Flask's config."""
        config = self._config
        return {
            "secret_key": config["SECRET_KEY"],
            "session_cookie": config["SESSION_COOKIE_NAME"],
            "max_age": None,
            "path": config["SESSION_COOKIE_PATH"] or config["APPLICATION_ROOT"],
            "same_site": config["SESSION_COOKIE_SAMESITE"],
            "https_only": config["SESSION_COOKIE_SECURE"],
            "domain": config["SESSION_COOKIE_DOMAIN"],
            "partitioned": config["SESSION_COOKIE_PARTITIONED"],
            "secret_key_fallbacks": config["SECRET_KEY_FALLBACKS"] or (),
            "lifetime": config["PERMANENT_SESSION_LIFETIME"],
            "refresh_each_request": config["SESSION_REFRESH_EACH_REQUEST"],
            "http_only": config["SESSION_COOKIE_HTTPONLY"],
        }

    def app_for(self, step: dict[str, Any]) -> Any:
        """Build the app anew: its settings may be other ones than for the last request."""
        stage = self.stage
        stage.enter(step)

        async def view(request: Request) -> StarletteResponse:
            await stage.act("ops", lambda: request.session)
            reply = stage.reply
            kind = reply.get("kind", "text")
            if kind == "abort":
                raise starlette.exceptions.HTTPException(reply["status"])
            if kind == "redirect":
                return RedirectResponse(reply.get("location", "/elsewhere"), 302)
            if kind == "stream":

                async def late() -> AsyncIterator[str]:
                    yield "first"
                    await stage.act("stream", lambda: request.session)
                    yield "last"

                return StreamingResponse(late())
            response = PlainTextResponse("text", reply.get("status", 200))
            for name, value in reply.get("headers") or ():
                response.headers.append(name, value)
            return response

        async def handled(request: Request, error: Exception) -> StarletteResponse:
            assert isinstance(error, starlette.exceptions.HTTPException)
            await stage.act("error", lambda: request.session)
            return PlainTextResponse("error", error.status_code)

        async def ws(websocket: WebSocket) -> None:
            for op in stage.step["ws"]:
                name, *args = op
                if name == "accept":
                    await websocket.accept()
                elif name == "send":
                    await websocket.send_text(*args)
                elif name == "receive":
                    stage.saw.append(repr(await websocket.receive_text()))
                elif name == "reject":
                    await websocket.send_denial_response(PlainTextResponse("", args[0]))
                elif name == "save":
                    await websocket.session.save()  # type: ignore[attr-defined]
                else:
                    await stage.run(op, lambda: websocket.session)

        app = Starlette(
            routes=[
                Route("/", view, methods=METHODS),
                Mount("/static", StaticFiles(directory=self._static)),
                WebSocketRoute("/ws", ws),
            ],
            exception_handlers={starlette.exceptions.HTTPException: handled},
        )
        app.add_middleware(
            SessionMiddleware,
            **self.parameters(),
            store=self.store,
            policy=self._policy,
            clock=self.clock,
        )
        return app
