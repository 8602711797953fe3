"""F-17: two versions of the app on one store, as while a new one is being rolled out."""

from __future__ import annotations

from typing import Any

import pytest
from harness import ADAPTERS, KEY, VIEWS, Client, Clock
from stores import AMPLE

from async_session import SessionPolicy, SessionStore, record
from async_session.record import Record, decode
from async_session.testing import make_cookie
from async_session.tokens import CookieSigner

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.usefixtures("quiet")]

#: What the next version may write: a format of its own, or this one with an entry more.
NEXT_FORMAT = 0x82
ENTRY = {"device": {"name": "Ada's phone"}}


@pytest.fixture(params=sorted(ADAPTERS))
def make_app(request: pytest.FixtureRequest) -> Any:
    return ADAPTERS[request.param]


async def _stored(store: SessionStore, cookie: str | None) -> bytes | None:
    assert cookie is not None
    ticket: Any = CookieSigner([KEY.encode()]).verify(cookie)
    return await store.open(ticket.key)


@pytest.mark.parametrize("view", ["read", "write", "login", "regenerate", "logout", "clear"])
async def test_a_record_of_the_next_format_is_left_alone(
    make_app: Any, any_store: SessionStore, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    app = make_app(VIEWS, any_store, clock=Clock())
    with monkeypatch.context() as newer:
        newer.setattr(record, "_RECORD", NEXT_FORMAT)
        newer.setattr(record, "_RECORD_BYTE", bytes([NEXT_FORMAT]))
        cookie = await make_cookie(any_store, {"user": "ada"}, secret_key=KEY, clock=Clock())
        theirs = await _stored(any_store, cookie)
    answer = await Client(app, cookie).get(view)
    assert answer.status == 200
    assert "ada" not in answer.body
    assert answer.sent_id != cookie, "a new session has an id of its own"
    assert await _stored(any_store, cookie) == theirs
    with monkeypatch.context() as newer:  # a request that the other version serves
        newer.setattr(record, "_RECORD", NEXT_FORMAT)
        assert "ada" in (await Client(app, cookie).get("read")).body


async def test_a_session_changed_to_the_next_format_meanwhile_is_left_alone(
    make_app: Any, any_store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie = await make_cookie(any_store, {"user": "ada"}, secret_key=KEY, clock=Clock())
    mine = await _stored(any_store, cookie)
    assert mine is not None
    theirs = bytes([NEXT_FORMAT]) + mine[1:]

    async def overtaken(session: Any) -> None:
        ticket: Any = CookieSigner([KEY.encode()]).verify(cookie)
        await any_store.save(ticket.key, theirs, ttl=600)
        session["written"] = True

    client = Client(make_app({**VIEWS, "overtaken": overtaken}, any_store, clock=Clock()), cookie)
    answer = await client.get("overtaken")
    assert (answer.status, answer.set_cookie) == (200, None)
    assert await _stored(any_store, cookie) == theirs


@pytest.mark.parametrize("view", ["write", "regenerate", "login", "nothing"])
async def test_an_entry_of_the_next_version_is_kept(
    make_app: Any, any_store: SessionStore, view: str
) -> None:
    clock = Clock()
    cookie = await make_cookie(any_store, {"user": "ada"}, secret_key=KEY, clock=clock)
    item = decode(await _stored(any_store, cookie) or b"")
    assert isinstance(item, Record)
    ticket: Any = CookieSigner([KEY.encode()]).verify(cookie)
    await any_store.save(ticket.key, item._replace(extras=ENTRY).encode(), ttl=600)
    policy = SessionPolicy(permanent=True, refresh_interval=60, timeout=AMPLE)
    clock.advance(120)  # so that a request which does nothing refreshes it
    client = Client(make_app(VIEWS, any_store, policy=policy, clock=clock), cookie)
    assert (await client.get(view)).set_cookie is not None
    item = decode(await _stored(any_store, client.cookie) or b"")
    assert isinstance(item, Record)
    assert item.extras["device"] == ENTRY["device"]
