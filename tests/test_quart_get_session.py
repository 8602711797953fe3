"""The current session of a Quart app, under its real type."""

from __future__ import annotations

import pytest
import quart
from harness import KEY
from quart import Quart

from async_session import Session, SessionError
from async_session.quart import QuartSession, ServerSideSessionInterface, get_session
from async_session.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def app_with_a_view() -> Quart:
    app = Quart("tests")

    @app.get("/")
    async def view() -> str:
        session = get_session()
        assert session == quart.session
        session["seen"] = session.get("seen", 0) + 1
        return str(session["seen"])

    @app.websocket("/ws")
    async def talk() -> None:
        await quart.websocket.send(str(get_session()["seen"]))

    return app


@pytest.mark.parametrize("bare", [False, True], ids=["extension", "interface"])
async def test_it_is_the_session_of_the_request(bare: bool) -> None:
    app = app_with_a_view()
    app.secret_key = KEY
    if bare:
        app.session_interface = ServerSideSessionInterface(MemoryStore())  # type: ignore[assignment]
    else:
        QuartSession(app, store=MemoryStore())
    client = app.test_client()
    assert [await (await client.get("/")).get_data(as_text=True) for _ in range(2)] == ["1", "2"]


async def test_it_is_the_session_of_the_websocket() -> None:
    app = app_with_a_view()
    app.secret_key = KEY
    QuartSession(app, store=MemoryStore())
    client = app.test_client()
    await client.get("/")
    async with client.websocket("/ws") as websocket:
        assert await websocket.receive() == "1"


async def test_its_type_is_told() -> None:
    app = Quart("tests")
    app.secret_key = KEY
    QuartSession(app, store=MemoryStore())
    async with app.test_request_context("/"):
        session: Session = get_session()
        assert type(session) is Session  # the object, and not a proxy of it


async def test_outside_of_a_request() -> None:
    with pytest.raises(SessionError, match="outside of a request"):
        get_session()


@pytest.mark.parametrize(("key", "named"), [("", "SECRET_KEY"), (KEY, "SESSION_TYPE")])
async def test_a_null_session_is_none(key: str, named: str) -> None:
    app = Quart("tests")
    app.secret_key = key
    QuartSession(app, store=MemoryStore() if not key else None)
    async with app.test_request_context("/"):
        with pytest.raises(SessionError, match=named):
            get_session()
