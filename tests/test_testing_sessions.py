"""What the package gives to tests of an app: a session to begin with, a look into one."""

from __future__ import annotations

import httpx2
import pytest
from harness import KEY, VIEWS, Client, Clock, quart_app, starlette_app
from starlette.applications import Starlette
from starlette.testclient import TestClient

from async_session import ConfigurationError, SessionPolicy
from async_session.stores.memory import MemoryStore
from async_session.testing import make_cookie, session_transaction


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("make_app", [starlette_app, quart_app])
@pytest.mark.parametrize(
    ("age", "opens"), [(0, True), (60, True), (61, False), (-1, True), (-6, False)]
)
async def test_a_made_cookie_is_as_old_as_it_says(make_app, age: int, opens: bool) -> None:
    store, clock = MemoryStore(), Clock()
    app = make_app(VIEWS, store, policy=SessionPolicy(lifetime=60), clock=clock)
    cookie = await make_cookie(store, {"a": 1}, secret_key=KEY, age=age, clock=clock)
    assert (await Client(app, cookie).get("read")).body == ("{'a': 1}" if opens else "{}")


@pytest.mark.anyio
async def test_a_made_cookie_can_have_an_owner() -> None:
    async def who(session):
        return session.owner, session.authenticated_at

    store, clock = MemoryStore(), Clock()
    app = starlette_app({"who": who}, store, clock=clock)
    cookie = await make_cookie(store, {}, secret_key=KEY, owner="ada", age=5, clock=clock)
    assert (await Client(app, cookie).get("who")).body == str(("ada", int(clock()) - 5))


@pytest.mark.parametrize("inside", [True, False], ids=["with the client entered", "without"])
def test_a_transaction_with_the_test_client(inside: bool) -> None:
    client = TestClient(starlette_app(VIEWS, MemoryStore()))
    if inside:
        client.__enter__()
    with session_transaction(client) as session:
        session["user"] = "ada"
    assert client.get("/read").text == "{'user': 'ada'}"
    client.get("/login")  # the jar keeps one cookie, the newer one
    assert len(list(client.cookies.jar)) == 1
    with session_transaction(client) as session:
        assert session.owner == "ada"
        session.logout()
    assert len(list(client.cookies.jar)) == 0
    assert client.get("/read").text == "{}"
    if inside:
        client.__exit__(None, None, None)


@pytest.mark.anyio
async def test_a_transaction_with_httpx() -> None:
    transport = httpx2.ASGITransport(app=starlette_app(VIEWS, MemoryStore()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://app.test") as client:
        async with session_transaction(client) as session:
            session["user"] = "ada"
        assert (await client.get("/read")).text == "{'user': 'ada'}"


def test_an_error_inside_changes_nothing() -> None:
    client = TestClient(starlette_app(VIEWS, MemoryStore()))
    with pytest.raises(ZeroDivisionError), session_transaction(client) as session:
        session["user"] = 1 / 0
    assert client.get("/read").text == "{}"


def test_an_app_without_the_middleware_is_told() -> None:
    with pytest.raises(ConfigurationError, match="no SessionMiddleware"):
        session_transaction(TestClient(Starlette())).__enter__()
