"""Every networked backend in every way to reach it, with servers that a test may break."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager as Entered
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pymongo
import pytest
import valkey.asyncio
from aws import client_at
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from redis.asyncio import Redis
from redis.asyncio import RedisCluster as RedisClusterClient
from redis.asyncio.cluster import ClusterNode
from redis_groups import RedisCluster, SentinelTrio
from servers import (
    QUIET,
    MemcachedServer,
    MotoServer,
    PostgreSQLServer,
    RedisServer,
    SecantusServer,
)
from sqlalchemy.ext.asyncio import create_async_engine

from async_session import SessionStore
from async_session.stores.base import SupportsClose
from async_session.stores.dynamodb import DynamoDBStore
from async_session.stores.memcached import MemcachedStore
from async_session.stores.mongodb import MongoStore
from async_session.stores.redis import RedisStore
from async_session.stores.sqlalchemy import SQLAlchemyStore

# Seconds: emulators are slow, and so is a machine that runs a cluster beside the tests.
TIMEOUT = 20


class Servers(Protocol):
    """What a store talks to. Its methods block."""

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def restart(self) -> None: ...

    @property
    def ports(self) -> list[int]:
        """All that a proxy has to stand in front of; none where that cannot be."""
        ...


Connect = Callable[[Any, Sequence[int]], Entered[SessionStore]]


@dataclass(frozen=True)
class Backend:
    """One way to have a store."""

    #: Makes the servers, which keep what they have in this directory.
    serve: Callable[[Path], Servers]
    #: Enters a store on them, by these ports in place of their own.
    connect: Connect
    #: Whether a restart keeps what was stored.
    keeps: bool = False
    #: How many connections a store may make in a storm, if that is promised.
    connections: int | None = None
    #: Whether the driver leaves sockets to the garbage collector when it is closed.
    leaves_sockets: bool = False


@contextlib.asynccontextmanager
async def running(backend: Backend, directory: Path) -> AsyncIterator[Servers]:
    """Start a backend's servers, and stop them in the end."""
    servers = await asyncio.to_thread(backend.serve, directory)
    stop = servers.remove if isinstance(servers, PostgreSQLServer) else servers.kill
    try:
        await asyncio.to_thread(servers.start)
        yield servers
    finally:
        await asyncio.to_thread(stop)


def of_url(
    make: Callable[..., SessionStore], url: Callable[[Any], str] = lambda its: str(its.url)
) -> Connect:
    """Connect by a URL."""

    @contextlib.asynccontextmanager
    async def connect(servers: Servers, ports: Sequence[int]) -> AsyncIterator[SessionStore]:
        store = make(moved(url(servers), servers, ports), timeout=TIMEOUT)
        yield store
        assert isinstance(store, SupportsClose)
        await store.aclose()

    return connect


def moved(text: str, servers: Servers, ports: Sequence[int]) -> str:
    """Return an address of the servers with `ports` in place of their own."""
    for old, new in zip(servers.ports, ports, strict=True):
        text = text.replace(f":{old}", f":{new}")
    return text


@contextlib.asynccontextmanager
async def redis_client(server: RedisServer, ports: Sequence[int]) -> AsyncIterator[SessionStore]:
    # Without the last it looks its own version up on the disk for every new connection.
    async with Redis(port=ports[0], **QUIET) as client:
        yield RedisStore(client, timeout=TIMEOUT)


@contextlib.asynccontextmanager
async def valkey_client(server: RedisServer, ports: Sequence[int]) -> AsyncIterator[SessionStore]:
    async with valkey.asyncio.Valkey(port=ports[0]) as client:
        yield RedisStore(client, timeout=TIMEOUT)


@contextlib.asynccontextmanager
async def cluster_client(group: RedisCluster, ports: Sequence[int]) -> AsyncIterator[SessionStore]:
    addresses = dict(zip(group.ports, ports, strict=True))
    # Not connected: the store takes its addresses and settings.
    client = RedisClusterClient(
        startup_nodes=[ClusterNode("127.0.0.1", port) for port in group.ports],
        address_remap=lambda address: (address[0], addresses.get(address[1], address[1])),
        **QUIET,
    )
    store = RedisStore(client, timeout=TIMEOUT)
    yield store
    await store.aclose()
    await client.aclose()


@contextlib.asynccontextmanager
async def mongo_client(server: SecantusServer, ports: Sequence[int]) -> AsyncIterator[SessionStore]:
    client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(
        moved(server.direct_url, server, ports)
    )
    yield MongoStore(client.get_default_database()["sessions"], timeout=TIMEOUT)
    with pymongo.timeout(0.5):  # or it says good-bye to a dead server for half a minute
        await client.close()


@contextlib.asynccontextmanager
async def motor_client(server: SecantusServer, ports: Sequence[int]) -> AsyncIterator[SessionStore]:
    client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(
        moved(server.direct_url, server, ports)
    )
    yield MongoStore(client.get_default_database()["sessions"], timeout=TIMEOUT)
    with pymongo.timeout(0.5):
        await asyncio.to_thread(client.close)


@contextlib.asynccontextmanager
async def sql_engine(server: PostgreSQLServer, ports: Sequence[int]) -> AsyncIterator[SessionStore]:
    url = moved(server.url, server, ports)
    url = url.replace("postgresql", "postgresql+asyncpg").replace("sslmode", "ssl")
    # Those above the size are closed after each use.
    engine = create_async_engine(url, max_overflow=0)
    yield SQLAlchemyStore(engine, timeout=TIMEOUT)
    await engine.dispose()


@contextlib.asynccontextmanager
async def aws_client(server: MotoServer, ports: Sequence[int]) -> AsyncIterator[SessionStore]:
    async with client_at(moved(server.url, server, ports)) as client:
        yield DynamoDBStore(client, timeout=TIMEOUT)


def postgresql(_directory: Path) -> PostgreSQLServer:
    return PostgreSQLServer()  # in a directory that its user can reach


class MemcachedTrio:
    """Three nodes."""

    def __init__(self, directory: Path) -> None:
        self.servers = [MemcachedServer(directory) for _ in range(3)]

    @property
    def ports(self) -> list[int]:
        return [server.port for server in self.servers]

    @property
    def url(self) -> str:
        return "memcached://" + ",".join(server.address for server in self.servers)

    def start(self) -> None:
        for server in self.servers:
            server.start()

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def restart(self) -> None:
        self.kill()
        self.start()


class SQLiteWriter:
    """A file of SQLite's, which has no server: what dies is another process amid its write."""

    def __init__(self, directory: Path) -> None:
        self.ports: list[int] = []
        self.path = directory / "sessions.db"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def start(self) -> None:
        pass

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def restart(self) -> None:
        program = (
            "import sqlite3, sys, time\n"
            "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "database.execute('BEGIN IMMEDIATE')\n"
            "database.execute('DELETE FROM sessions')\n"
            "print('written', flush=True)\n"
            "time.sleep(60)\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, str(self.path)], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"written\n"
        self.kill()


BACKENDS = {
    "redis url": Backend(RedisServer, of_url(RedisStore), connections=1),
    "redis client": Backend(RedisServer, redis_client),
    "redis socket": Backend(RedisServer, of_url(RedisStore, lambda its: f"unix://{its.socket}")),
    "valkey url": Backend(
        RedisServer,
        of_url(RedisStore, lambda its: its.url.replace("redis", "valkey")),
        connections=1,
    ),
    "valkey client": Backend(RedisServer, valkey_client),
    "cluster url": Backend(RedisCluster, of_url(RedisStore)),
    "cluster client": Backend(RedisCluster, cluster_client),
    "sentinel url": Backend(SentinelTrio, of_url(RedisStore)),
    "memcached": Backend(
        MemcachedServer, of_url(MemcachedStore, lambda its: its.address), connections=1
    ),
    "memcached socket": Backend(
        lambda directory: MemcachedServer(directory, unix=True),
        of_url(MemcachedStore, lambda its: its.address),
    ),
    "memcached three": Backend(MemcachedTrio, of_url(MemcachedStore), connections=3),
    "mongodb url": Backend(
        SecantusServer, of_url(MongoStore, lambda its: its.direct_url), keeps=True, connections=110
    ),
    "mongodb pymongo": Backend(
        SecantusServer, mongo_client, keeps=True, connections=110, leaves_sockets=True
    ),
    "mongodb motor": Backend(
        SecantusServer, motor_client, keeps=True, connections=110, leaves_sockets=True
    ),
    "sqlite": Backend(SQLiteWriter, of_url(SQLAlchemyStore), keeps=True),
    "postgresql url": Backend(postgresql, of_url(SQLAlchemyStore), keeps=True, connections=10),
    "postgresql engine": Backend(postgresql, sql_engine, keeps=True, connections=5),
    "dynamodb url": Backend(MotoServer, of_url(DynamoDBStore)),
    "dynamodb client": Backend(MotoServer, aws_client),
}


def on(names: Iterable[str]) -> list[Any]:
    """Return the parameters of a test that runs on these backends."""
    # A connection that pymongo's monitors are making when it cancels them keeps its socket.
    leaves = pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
    )
    return [
        pytest.param(name, marks=[leaves] if BACKENDS[name].leaves_sockets else [])
        for name in sorted(names)
    ]
