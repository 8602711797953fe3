"""Every store of ours against the contract."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiomcache
import anyio.to_thread
import pytest
from aws import client_at
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from redis.asyncio import Redis
from servers import QUIET, MemcachedServer
from sqlalchemy.ext.asyncio import create_async_engine

from async_session.stores.base import SessionStore
from async_session.stores.dynamodb import DynamoDBStore
from async_session.stores.filesystem import FileSystemStore
from async_session.stores.memcached import MemcachedStore
from async_session.stores.memory import MemoryStore
from async_session.stores.mongodb import MongoStore
from async_session.stores.redis import RedisStore
from async_session.stores.sqlalchemy import SQLAlchemyStore
from async_session.testing import SharedStoreConformance, StoreConformance, SweepConformance


class OnBoth(StoreConformance):
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)


class TestMemory(OnBoth):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestFileSystem(OnBoth, SharedStoreConformance, SweepConformance):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[FileSystemStore]:
        store = FileSystemStore(tmp_path / "sessions")
        yield store
        await store.aclose()

    @pytest.fixture
    def factory(self, tmp_path: Path) -> functools.partial[FileSystemStore]:
        return functools.partial(FileSystemStore, str(tmp_path / "sessions"))


class TestRedisByURL(StoreConformance, SharedStoreConformance):
    @pytest.fixture
    async def store(self, redis_url: str) -> AsyncIterator[RedisStore]:
        store = RedisStore(redis_url, timeout=5)
        yield store
        await store.aclose()

    @pytest.fixture
    def factory(self, redis_url: str) -> functools.partial[RedisStore]:
        return functools.partial(RedisStore, redis_url, timeout=5)


class TestRedisByClient(StoreConformance, SharedStoreConformance):
    @pytest.fixture
    async def store(self, redis_url: str) -> AsyncIterator[RedisStore]:
        # Without it redis-py looks its own version up on the disk for every new connection.
        client = Redis.from_url(redis_url, **QUIET)
        yield RedisStore(client, prefix="client:", timeout=5)
        await client.aclose()

    @pytest.fixture
    def factory(self, redis_url: str) -> functools.partial[RedisStore]:
        return functools.partial(RedisStore, redis_url, prefix="client:", timeout=5)


class TestMemcachedByURL(StoreConformance, SharedStoreConformance):
    @pytest.fixture
    async def store(self, memcached_url: str) -> AsyncIterator[MemcachedStore]:
        store = MemcachedStore(memcached_url, timeout=5)
        yield store
        await store.aclose()

    @pytest.fixture
    def factory(self, memcached_url: str) -> functools.partial[MemcachedStore]:
        return functools.partial(MemcachedStore, memcached_url, timeout=5)


class TestMemcachedOnThreeNodes(StoreConformance, SharedStoreConformance):
    @pytest.fixture
    async def store(self, memcached_nodes: list[MemcachedServer]) -> AsyncIterator[MemcachedStore]:
        clients = [aiomcache.Client("127.0.0.1", node.port) for node in memcached_nodes]
        store = MemcachedStore(clients, prefix="nodes:", timeout=5)
        yield store
        await store.aclose()

    @pytest.fixture
    def factory(self, memcached_nodes: list[MemcachedServer]) -> functools.partial[MemcachedStore]:
        addresses = [node.address for node in memcached_nodes]
        return functools.partial(MemcachedStore, addresses, prefix="nodes:", timeout=5)


class TestSQLiteByURL(StoreConformance, SharedStoreConformance, SweepConformance):
    @pytest.fixture
    def factory(self, tmp_path: Path) -> functools.partial[SQLAlchemyStore]:
        return functools.partial(SQLAlchemyStore, f"sqlite:///{tmp_path}/sessions.db", timeout=5)

    @pytest.fixture
    async def store(
        self, factory: functools.partial[SQLAlchemyStore]
    ) -> AsyncIterator[SQLAlchemyStore]:
        store = factory()
        yield store
        await store.aclose()


class TestPostgreSQLByURL(TestSQLiteByURL):
    @pytest.fixture
    def factory(self, postgresql_url: str) -> functools.partial[SQLAlchemyStore]:
        return functools.partial(SQLAlchemyStore, postgresql_url, timeout=5)


class OnDynamoDB(StoreConformance, SharedStoreConformance):
    # It takes 400 KiB and no more. The emulator counts in base64, and takes 300.
    @pytest.mark.parametrize("size", [16, 17, 4096, 256 * 1024])
    async def test_a_value_comes_back(self, store: SessionStore, size: int) -> None:
        await super().test_a_value_comes_back(store, size)


class TestDynamoDBByURL(OnDynamoDB):
    @pytest.fixture
    async def store(self, dynamodb_url: str) -> AsyncIterator[DynamoDBStore]:
        store = DynamoDBStore(dynamodb_url, timeout=5)
        yield store
        await store.aclose()

    @pytest.fixture
    def factory(self, dynamodb_url: str) -> functools.partial[DynamoDBStore]:
        return functools.partial(DynamoDBStore, dynamodb_url, timeout=20)


class TestDynamoDBByClient(OnDynamoDB):
    @pytest.fixture
    async def store(self, dynamodb_url: str) -> AsyncIterator[DynamoDBStore]:
        # With the retries that botocore has of itself.
        async with client_at(dynamodb_url) as client:
            yield DynamoDBStore(client, table="Clients", timeout=5)

    @pytest.fixture
    def factory(self, dynamodb_url: str) -> functools.partial[DynamoDBStore]:
        url = dynamodb_url.replace("/Sessions", "/Clients")
        return functools.partial(DynamoDBStore, url, timeout=20)


class OnAnAppsEngine(SQLAlchemyStore):
    """A store that is given an engine, and the app that owns it."""

    def __init__(self, url: str) -> None:
        # Long: a SQLite without WAL lets one caller in at a time, and syncs with every write.
        self.engine = create_async_engine(url, connect_args={"timeout": 60})
        super().__init__(self.engine, table="app_sessions", timeout=60)

    async def aclose(self) -> None:
        await super().aclose()
        await self.engine.dispose()


class TestSQLiteByEngine(TestSQLiteByURL):
    @pytest.fixture
    def factory(self, tmp_path: Path) -> Callable[[], SQLAlchemyStore]:
        # With the defaults: no WAL, and a sync to the disk with every write. As a URI, because
        # SQLAlchemy looks a plain path up on the disk, here in the event loop.
        return functools.partial(
            OnAnAppsEngine, f"sqlite+aiosqlite:///file:{tmp_path}/app.db?uri=true"
        )


class TestPostgreSQLByEngine(TestSQLiteByURL):
    @pytest.fixture
    def factory(self, postgresql_url: str) -> Callable[[], SQLAlchemyStore]:
        url = postgresql_url.replace("postgresql", "postgresql+asyncpg").replace("sslmode", "ssl")
        return functools.partial(OnAnAppsEngine, url)


class OnMongoDB(StoreConformance, SharedStoreConformance):
    @pytest.fixture
    def factory(self, mongodb_url: str) -> functools.partial[MongoStore]:
        return functools.partial(MongoStore, mongodb_url, timeout=30)


class TestMongoByURL(OnMongoDB):
    @pytest.fixture
    async def store(self, mongodb_url: str) -> AsyncIterator[MongoStore]:
        store = MongoStore(mongodb_url, timeout=30)
        yield store
        await store.aclose()


class TestMongoByClient(OnMongoDB):
    @pytest.fixture
    async def store(self, mongodb_url: str) -> AsyncIterator[MongoStore]:
        client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(mongodb_url)
        yield MongoStore(client.get_default_database()["sessions"], timeout=30)
        await client.close()


class TestMongoByMotor(OnMongoDB):
    @pytest.fixture
    async def store(self, mongodb_url: str) -> AsyncIterator[MongoStore]:
        client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(mongodb_url)
        yield MongoStore(client.get_default_database()["sessions"], timeout=30)
        await anyio.to_thread.run_sync(client.close)
