"""Every store after a crash of its servers: the next call succeeds, on the same store object."""

from __future__ import annotations

import asyncio
import contextlib
from hashlib import sha256
from pathlib import Path

import pytest
from backends import BACKENDS, on, running

from async_session import Match, SessionStore

OLD, NEW = b"old-version-0001" + b"o" * 500, b"new-version-0002" + b"n" * 500
FIRST = ["open", "any", "absent", "version", "delete"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def call(store: SessionStore, kind: str, key: str) -> object:
    if kind == "open":
        return await store.open(key)
    if kind == "delete":
        await store.delete(key)
        return None
    match = {"any": Match.ANY, "absent": Match.ABSENT, "version": OLD[:16]}[kind]
    return await store.save(key, NEW, ttl=60, match=match)  # type: ignore[arg-type]


@pytest.mark.anyio
@pytest.mark.parametrize("name", on(BACKENDS.keys()))
async def test_the_first_call_after_a_restart_succeeds(name: str, tmp_path: Path) -> None:
    backend = BACKENDS[name]
    keys = {kind: sha256(kind.encode()).hexdigest() for kind in FIRST}
    async with running(backend, tmp_path) as servers, contextlib.AsyncExitStack() as stack:
        stores = {
            kind: await stack.enter_async_context(backend.connect(servers, servers.ports))
            for kind in FIRST
        }
        for kind, store in stores.items():
            # Several at once, so that a pool has several connections that die.
            await asyncio.gather(*(store.save(keys[kind], OLD, ttl=60) for _ in range(15)))
        await asyncio.to_thread(servers.restart)
        # What was acknowledged is there, or nothing is.
        kept = backend.keeps
        found = {kind: await call(store, kind, keys[kind]) for kind, store in stores.items()}
        assert found == {
            "open": OLD if kept else None,
            "any": True,
            "absent": not kept,
            "version": kept,
            "delete": None,
        }
        for kind, store in stores.items():
            # So do those on the other connections; and the server may have lost a script.
            saves = (store.save(keys[kind], OLD, ttl=60) for _ in range(15))
            assert await asyncio.gather(*saves) == [True] * 15
            assert await store.save(keys[kind], NEW, ttl=60, match=OLD[:16]) is True
            assert await store.open(keys[kind]) == NEW
