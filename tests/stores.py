"""The stores that tests of sessions run on, one at a time, each fresh."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from async_session import SessionStore
from async_session.stores.dynamodb import DynamoDBStore
from async_session.stores.filesystem import FileSystemStore
from async_session.stores.memcached import MemcachedStore
from async_session.stores.memory import MemoryStore
from async_session.stores.mongodb import MongoStore
from async_session.stores.redis import RedisStore
from async_session.stores.sqlalchemy import SQLAlchemyStore

#: Seconds that a call of a store or a commit may take in tests of something else than time: some
#: servers are emulators, and whatever else a machine has to do makes them slower still.
AMPLE: Final = 30.0


def memory(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore()


def files(request: pytest.FixtureRequest) -> FileSystemStore:
    directory: Path = request.getfixturevalue("tmp_path")
    return FileSystemStore(directory / "sessions", fsync=False)


def redis(request: pytest.FixtureRequest) -> RedisStore:
    return RedisStore(request.getfixturevalue("redis_url"), timeout=AMPLE)


def memcached(request: pytest.FixtureRequest) -> MemcachedStore:
    return MemcachedStore(request.getfixturevalue("memcached_url"), timeout=AMPLE)


def sqlite(request: pytest.FixtureRequest) -> SQLAlchemyStore:
    directory: Path = request.getfixturevalue("tmp_path")
    return SQLAlchemyStore(f"sqlite:///{directory}/sessions.db", timeout=AMPLE)


def postgresql(request: pytest.FixtureRequest) -> SQLAlchemyStore:
    return SQLAlchemyStore(request.getfixturevalue("postgresql_url"), timeout=AMPLE)


def dynamodb(request: pytest.FixtureRequest) -> DynamoDBStore:
    return DynamoDBStore(request.getfixturevalue("dynamodb_url"), timeout=AMPLE)


def mongodb(request: pytest.FixtureRequest) -> MongoStore:
    return MongoStore(request.getfixturevalue("mongodb_url"), timeout=AMPLE)


#: How to make each store. Memory and files run on trio, too.
STORES: dict[str, Callable[[pytest.FixtureRequest], SessionStore]] = {
    "memory": memory,
    "dynamodb": dynamodb,
    "files": files,
    "memcached": memcached,
    "mongodb": mongodb,
    "postgresql": postgresql,
    "redis": redis,
    "sqlite": sqlite,
}
EVERYWHERE = {"memory", "files"}

#: A connection that pymongo's monitors are making when it cancels them keeps its socket.
leaves_sockets = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
