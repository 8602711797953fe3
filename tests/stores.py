"""The stores that tests of sessions run on, one at a time, each fresh."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from async_session import SessionStore
from async_session.stores.filesystem import FileSystemStore
from async_session.stores.memory import MemoryStore
from async_session.stores.redis import RedisStore


def memory(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore()


def files(request: pytest.FixtureRequest) -> FileSystemStore:
    directory: Path = request.getfixturevalue("tmp_path")
    return FileSystemStore(directory / "sessions", fsync=False)


def redis(request: pytest.FixtureRequest) -> RedisStore:
    return RedisStore(request.getfixturevalue("redis_url"))


#: How to make each store. Memory and files run on trio, too.
STORES = {"memory": memory, "files": files, "redis": redis}
EVERYWHERE = {"memory", "files"}


@asynccontextmanager
async def opened(name: str, request: pytest.FixtureRequest) -> AsyncIterator[SessionStore]:
    """Make a store, and close it afterwards."""
    store = STORES[name](request)
    try:
        yield store
    finally:
        close = getattr(store, "aclose", None)
        if close is not None:
            await close()
