"""What must be met with a clear error or none at all: cookies, records, values."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from harness import ADAPTERS, KEY, VIEWS, Answer, Client, Clock, request

from async_session import (
    ConfigurationError,
    SerializationError,
    Session,
    SessionManager,
    SessionStore,
    SessionTooLarge,
)
from async_session.record import Ended, Record, Tombstone
from async_session.stores.memory import MemoryStore
from async_session.testing import RecordingStore, make_cookie
from async_session.tokens import CookieSigner, new_id, store_key

pytestmark = pytest.mark.anyio

SIGNER = CookieSigner([KEY.encode()])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=sorted(ADAPTERS))
def make_app(request: pytest.FixtureRequest) -> Any:
    return ADAPTERS[request.param]


def _good() -> bytes:
    return SIGNER.sign(new_id()).encode()


#: name of the kind, and what is in the cookie header
FORGED = {
    "empty": b"session=",
    "only the name": b"session",
    "short": b"session=abc",
    "no signature": b"session=" + new_id().encode(),
    "empty signature": b"session=" + new_id().encode() + b".",
    "another key": b"session=" + CookieSigner([b"another key"]).sign(new_id()).encode(),
    "truncated": b"session=" + _good()[:-1],
    "lengthened": b"session=" + _good() + b"A",
    "padded": b"session=" + _good() + b"=",
    "two dots": b"session=" + _good() + b"." + _good(),
    "another's signature": b"session=" + new_id().encode() + _good()[43:],
    "5000 characters": b"session=" + b"A" * 5000,
    "a megabyte": b"session=" + b"A" * 1_000_000,
    "non-ASCII": "session=é€".encode(),
    "Latin-1": b"session=\xe9\xff",
    "digits of another script": "session=٣".encode() * 43,
    "NUL": b"session=a\x00b",
    "traversal": b"session=../../etc/passwd",
    "an operator": b"session=$ne",
    "JSON": b'session={"$gt": ""}',
    "a glob": b"session=*",
    "a signed cookie of Flask": b"session=eyJhIjoxfQ.cT-zAA.rZOKzos7W4OZUhaiFubnngwCG7g",
    "quotes without end": b'session="' + _good(),
    "another case": b"SESSION=" + _good(),
    "a longer name": b"xsession=" + _good(),
    "separators only": b";;;===;;;",
}


@pytest.mark.parametrize("kind", FORGED)
async def test_a_forged_cookie_is_no_session_and_no_store_call(make_app: Any, kind: str) -> None:
    store = RecordingStore(MemoryStore())
    app = make_app(VIEWS, store)
    for view in ("nothing", "read"):
        answer = await request(app, f"/{view}", raw_cookies=(FORGED[kind],))
        assert answer.status == 200
        assert answer.set_cookie is None
    assert store.calls == []


@pytest.mark.parametrize("view", ["read", "write", "login"])
async def test_an_id_that_we_signed_but_do_not_know_is_never_adopted(
    make_app: Any, view: str
) -> None:
    store = RecordingStore(MemoryStore())
    planted = SIGNER.sign(new_id())
    answer = await Client(make_app(VIEWS, store), planted).get(view)
    assert answer.sent_id != planted
    assert ("save", store_key(planted.split(".")[0])) not in store.calls


@pytest.mark.parametrize("lines", ["one", "two"])
@pytest.mark.parametrize(("first", "opens"), [("good", True), ("bad", False)])
async def test_the_first_of_two_cookies_wins(
    make_app: Any, lines: str, first: str, opens: bool
) -> None:
    store = RecordingStore(MemoryStore())
    good = (await make_cookie(store, {"a": 1}, secret_key=KEY, clock=Clock())).encode()
    pairs = [b"session=" + good, b"session=bad"]
    if first == "bad":
        pairs.reverse()
    raw = tuple(pairs) if lines == "two" else (b"; ".join([b"x=1", *pairs, b"y=2"]),)
    store.calls.clear()
    answer = await request(make_app(VIEWS, store), "/read", raw_cookies=raw)
    assert answer.body == ("{'a': 1}" if opens else "{}")
    assert len(store.calls) == (1 if opens else 0)


async def test_fifty_duplicates_cost_one_look_up(make_app: Any) -> None:
    store = RecordingStore(MemoryStore())
    raw = tuple(b"session=" + _good() for _ in range(50))
    assert (await request(make_app(VIEWS, store), "/read", raw_cookies=raw)).status == 200
    assert len(store.calls) == 1


async def test_a_cookie_in_many_spellings_opens_and_is_remembered_once() -> None:
    manager = SessionManager(MemoryStore(), secret_key=KEY)
    session = await manager.open(None)
    session["a"] = 1
    value = (await manager.commit(session)).value or ""
    sent = value.encode()
    for spelling in (value, sent, b'"%b"' % sent, sent + b" " * 9, b'"%b" ' % sent, sent):
        assert dict(await manager.open(spelling)) == {"a": 1}, spelling
    assert list(manager._signer.known) == [sent]


@pytest.mark.parametrize("place", ["query", "header"])
async def test_an_id_elsewhere_than_in_the_cookie_is_ignored(make_app: Any, place: str) -> None:
    store = RecordingStore(MemoryStore())
    good = await make_cookie(store, {"a": 1}, secret_key=KEY, clock=Clock())
    store.calls.clear()
    path = f"/read?session={good}" if place == "query" else "/read"
    raw = (b"other=" + good.encode(),) if place == "header" else ()
    answer = await request(make_app(VIEWS, store), path.partition("?")[0], raw_cookies=raw)
    assert answer.body == "{}"
    assert store.calls == []


def _record(payload: bytes = b'{"a":1}', **changes: Any) -> bytes:
    now = int(Clock()())
    return Record(now, now, payload, **changes).encode()


#: what stands in the store where a record was; a pickle must never be run
CORRUPT = {
    "nothing": b"\x00" * 16,
    "another program's": b"hello, this is not a session at all",
    "a pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94",
    "cut off in the version": _record()[:15] + b"\x00",
    "cut off in the header": _record()[:30],
    "cut off in the payload": _record()[:-1],
    "no JSON": _record(b"{'a': 1}"),
    "not an object": _record(b"[1, 2]"),
    "deep": _record(b"[" * 100_000),
    "deep in an object": _record(b'{"a":' * 50_000),
    "not UTF-8": _record(b'{"a":"\xff"}'),
    "an unknown serializer": _record(serializer=250),
    "a header of lies": _record()[:33] + b"\xff\xff" + _record()[35:],
    "a header that is no JSON": _record(extras={"owner": "a"}).replace(b'"owner"', b"'owner'"),
    "a newer format": b"\x8f" + _record()[1:],
    "a huge number": _record(b'{"a":' + b"9" * 5000 + b"}"),
    "a tombstone without a reason": Tombstone(Ended.ENDED).encode()[:16],
    "a tombstone of an unknown kind": Tombstone(Ended.ENDED).encode()[:16] + b"\xee",
    "a tag without a value": _record(b'{"a":{" b":1}}'),
}


@pytest.mark.parametrize("kind", CORRUPT)
async def test_a_record_that_cannot_be_used_is_a_new_session_and_one_warning(
    make_app: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    session_id = new_id()
    await store.save(store_key(session_id), CORRUPT[kind], ttl=60)
    client = Client(make_app(VIEWS, store, clock=Clock()), SIGNER.sign(session_id))
    with caplog.at_level(logging.WARNING, logger="async_session"):
        answer = await client.get("read")
    assert (answer.status, answer.body) == (200, "{}")
    warnings = [record for record in caplog.records if record.name == "async_session"]
    assert len(warnings) == 1
    assert session_id not in caplog.text
    answer = await client.get("write")
    assert answer.sent_id not in {None, SIGNER.sign(session_id)}
    # It is left alone: it may belong to another version of the app.
    assert await store.open(store_key(session_id)) == CORRUPT[kind]


@pytest.mark.parametrize("loaded", [False, True], ids=["new", "loaded"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), SerializationError),
        (lambda: 1, SerializationError),
        ([1, {"deep": {object()}}], SerializationError),
        ("x" * 300_000, SessionTooLarge),
    ],
    ids=["object", "function", "nested", "large"],
)
async def test_a_value_that_cannot_be_stored_names_its_key(
    make_app: Any, loaded: bool, value: object, error: type[SerializationError]
) -> None:
    caught: list[SerializationError] = []

    async def view(session: Session) -> None:
        session["fine"] = 1
        session["cart"] = value
        try:
            await session.save()
        except SerializationError as problem:
            caught.append(problem)

    store = RecordingStore(MemoryStore())
    client = Client(make_app({**VIEWS, "view": view}, store))
    if loaded:
        await client.get("sign_in")
    store.calls.clear()
    answer = await _survive(client)
    assert type(caught[0]) is error
    assert caught[0].key == "cart"
    assert "cart" in str(caught[0])
    assert answer is None or (answer.status == 500 and answer.set_cookie is None)
    assert "save" not in [verb for verb, _ in store.calls]


async def _survive(client: Client) -> Answer | None:
    """Return the answer; None where the error leaves the app, as Starlette lets it."""
    try:
        return await client.get("view")
    except SerializationError:
        return None


async def test_what_save_could_not_store_can_be_mended(make_app: Any) -> None:
    async def view(session: Session) -> None:
        session["cart"] = object()
        try:
            await session.save()
        except SerializationError:
            session["cart"] = []

    client = Client(make_app({**VIEWS, "view": view}, MemoryStore()))
    await client.get("view")
    assert (await client.get("read")).body == "{'cart': []}"


@pytest.mark.parametrize("owner", ["", None, 1.5, b"ada", ["ada"]])
def test_login_wants_a_users_id(owner: Any) -> None:
    with pytest.raises(TypeError, match=r"login\(str\(user\.id\)\)"):
        Session().login(owner)


async def test_a_wrong_store_is_named(make_app: Any) -> None:
    for wrong in (None, 42, dict, "localhost", "gopher://x"):
        with pytest.raises(ConfigurationError):  # Starlette makes its middleware when it is asked
            await request(make_app(VIEWS, wrong), "/read")


async def test_stores_hold_no_id_and_no_secret(any_store: SessionStore, make_app: Any) -> None:
    store = RecordingStore(any_store)
    client = Client(make_app(VIEWS, store))
    await client.get("login")
    assert client.cookie is not None
    session_id = client.cookie.split(".")[0]
    for _, key in list(store.calls):
        assert session_id not in key
        data = await store.open(key)
        assert data is None or session_id.encode() not in data
