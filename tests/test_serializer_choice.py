"""Which serializer writes is the policy's choice; which one wrote stands in the record."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from harness import ADAPTERS, KEY, Client, Clock

from async_session import Session, SessionManager, SessionPolicy
from async_session import codec as codec_module
from async_session.record import Record, decode
from async_session.serializers import MsgpackSerializer, Serializer, TaggedJSONSerializer
from async_session.stores.memory import MemoryStore
from async_session.testing import RecordingStore, make_cookie

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class SortedJSON:
    """A serializer of somebody else."""

    id: int = 200

    def dumps(self, data: Mapping[object, object], /) -> bytes:
        return json.dumps(dict(data), sort_keys=True).encode()

    def loads(self, payload: bytes, /) -> dict[object, object]:
        data: dict[object, object] = json.loads(payload)
        return data


SERIALIZERS: list[Serializer | None] = [
    None,
    TaggedJSONSerializer(),
    MsgpackSerializer(),
    SortedJSON(),
]
IDS = ["default", "json", "msgpack", "own"]


async def sign_in(session: Session) -> None:
    session.update(user="ada", cart=["book"])


async def look(session: Session) -> object:
    return session["user"], session["cart"]


async def add(session: Session) -> None:
    session["cart"].append("pen")


VIEWS = {view.__name__: view for view in (sign_in, look, add)}


def written_by(store: RecordingStore) -> int:
    ((_, data),) = store.store._items.values()  # type: ignore[attr-defined]  # a MemoryStore
    record = decode(data)
    assert isinstance(record, Record)
    return record.serializer


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
@pytest.mark.parametrize("serializer", SERIALIZERS, ids=IDS)
async def test_the_policy_says_who_writes(adapter: str, serializer: Serializer | None) -> None:
    store = RecordingStore(MemoryStore())
    policy = SessionPolicy(serializer=serializer, refresh_interval=60)
    client = Client(ADAPTERS[adapter](VIEWS, store, policy=policy, clock=Clock()))
    await client.get("sign_in")
    assert written_by(store) == (serializer.id if serializer else 1)
    await client.get("add")
    assert (await client.get("look")).body == "('ada', ['book', 'pen'])"


@pytest.mark.parametrize("reader", SERIALIZERS, ids=IDS)
@pytest.mark.parametrize("writer", SERIALIZERS[:3], ids=IDS[:3])
async def test_workers_that_write_differently_share_their_sessions(
    writer: Serializer | None, reader: Serializer | None
) -> None:
    store, clock = RecordingStore(MemoryStore()), Clock()
    apps = [
        ADAPTERS["starlette"](
            VIEWS, store, policy=SessionPolicy(serializer=each, refresh_interval=60), clock=clock
        )
        for each in (writer, reader)
    ]
    client = Client(apps[0])
    await client.get("sign_in")
    client.app = apps[1]
    store.calls.clear()
    # Handing out a list makes the two forms be compared: that they differ is no change.
    assert (await client.get("look")).body == "('ada', ['book'])"
    assert [verb for verb, _ in store.calls] == ["open"]
    assert written_by(store) == (writer.id if writer else 1)
    await client.get("add")
    assert written_by(store) == (reader.id if reader else 1)
    if reader is None or reader.id != SortedJSON.id:
        client.app = apps[0]
        assert (await client.get("look")).body == "('ada', ['book', 'pen'])"


async def test_without_ormsgpack_its_records_are_new_sessions_and_the_log_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, clock = MemoryStore(), Clock()
    writer = SessionManager(
        store, secret_key=KEY, policy=SessionPolicy(serializer=MsgpackSerializer()), clock=clock
    )
    session = await writer.open(None)
    session["user"] = "ada"
    cookie = (await writer.commit(session)).value
    monkeypatch.setitem(sys.modules, "ormsgpack", None)
    codec_module._msgpack.cache_clear()
    with caplog.at_level(logging.WARNING, "async_session"):
        found = await SessionManager(store, secret_key=KEY, clock=clock).open(cookie)
    assert found.new
    assert not found
    assert "pip install 'async_session[fast]'" in caplog.text


async def test_what_the_test_kit_stores_is_read_by_all() -> None:
    store, clock = MemoryStore(), Clock()
    cookie = await make_cookie(store, {"user": "ada"}, secret_key=KEY, clock=clock)
    policy = SessionPolicy(serializer=MsgpackSerializer())
    manager = SessionManager(store, secret_key=KEY, policy=policy, clock=clock)
    assert await manager.open(cookie) == {"user": "ada"}


def of(name: str, value: Any) -> object:
    return type("Own", (SortedJSON,), {name: value})()


#: for the table of settings that are refused
WRONG = [MsgpackSerializer, "msgpack", 5, object(), of("dumps", None)]
WRONG_IDS = [of("id", value) for value in (1, 2, 63, 256, True, "200", None)]


@pytest.mark.parametrize("value", WRONG + WRONG_IDS, ids=repr)
def test_a_serializer_that_cannot_be_is_refused(value: Any) -> None:
    says = "a whole number from 64 to 255" if value in WRONG_IDS else r"write MsgpackSerializer\(\)"
    with pytest.raises(ValueError, match=says):
        SessionPolicy(serializer=value)
