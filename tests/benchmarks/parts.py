"""What a request is made of: each part by itself, so that it shows where the time goes.

What all parts of a workload take together is what no rearrangement of them can go below.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import apps
from drive import Call
from measure import Key
from raw import KEYS, turns

from async_session import SessionManager, SessionPolicy
from async_session.record import Record
from async_session.serializers import MsgpackSerializer, TaggedJSONSerializer

#: Names of the parts, in the order of a request, and what is in each.
PARTS = {
    "json.loads": "`json.loads` of the session",
    "json.dumps": "`json.dumps` of the session",
    "loads": "our default serializer's `loads`",
    "dumps": "our default serializer's `dumps`",
    "msgpack loads": "`MsgpackSerializer.loads`",
    "msgpack dumps": "`MsgpackSerializer.dumps`",
    "open": "`RedisStore.open`",
    "save": "`RedisStore.save`, guarded by a version",
    "read": "the engine without an adapter, store in memory: open, read a key, commit",
    "write": "the same: open, write a key, commit",
}


async def cases(servers: Any, sizes: list[int]) -> dict[Key, Call]:
    """Return the calls of all parts, in the sizes that they come in."""
    found: dict[Key, Call] = {}
    for size in sizes:
        data = apps.session_of(size)
        for name, call in _of_serializers(data):
            found["part", name, size] = call
        async for name, call in _of_the_store(servers, data):
            found["part", name, size] = call
        async for name, call in _of_the_engine(data):
            found["part", name, size] = call
    return found


def _of_serializers(session: apps.Data) -> Iterator[tuple[str, Call]]:
    data: Any = session
    text = json.dumps(data)
    yield "json.loads", _as_call(partial(json.loads, text))
    yield "json.dumps", _as_call(partial(json.dumps, data))
    for prefix, serializer in (("", TaggedJSONSerializer()), ("msgpack ", MsgpackSerializer())):
        payload = serializer.dumps(data)
        yield f"{prefix}loads", _as_call(partial(serializer.loads, payload))
        yield f"{prefix}dumps", _as_call(partial(serializer.dumps, data))


async def _of_the_store(servers: Any, data: apps.Data) -> AsyncIterator[tuple[str, Call]]:
    from async_session.stores.redis import RedisStore

    store = RedisStore(f"redis://127.0.0.1:{servers.redis_port}/0", prefix=f"part{len(data)}:")
    value = Record(0, 0, json.dumps(data).encode()).encode()
    for key in KEYS:
        await store.save(key, value, ttl=3600)
    yield "open", turns(store.open)
    yield "save", turns(lambda key: store.save(key, value, ttl=3600, match=value[:16]))


async def _of_the_engine(data: apps.Data) -> AsyncIterator[tuple[str, Call]]:
    from async_session.stores.memory import MemoryStore

    policy = SessionPolicy(refresh_each_request=False)
    manager = SessionManager(MemoryStore(), secret_key=apps.KEY, policy=policy)
    session = await manager.open(None)
    session.update(data)
    cookie = (await manager.commit(session)).value

    async def read() -> None:
        session = await manager.open(cookie)
        session["n"]
        await manager.commit(session)

    async def write() -> None:
        session = await manager.open(cookie)
        session["n"] = session["n"] + 1
        await manager.commit(session)

    yield "read", read
    yield "write", write


def _as_call(work: Any) -> Call:
    async def call() -> None:
        work()

    return call
