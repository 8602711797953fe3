"""The stores that are behind a network: a server of each, to be killed, frozen and cut off."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers import (
    MemcachedServer,
    MotoServer,
    PostgreSQLServer,
    RedisServer,
    SecantusServer,
    Server,
)

from async_session.stores.dynamodb import DynamoDBStore
from async_session.stores.memcached import MemcachedStore
from async_session.stores.mongodb import MongoStore
from async_session.stores.redis import RedisStore
from async_session.stores.sqlalchemy import SQLAlchemyStore


@dataclass
class Networked:
    """A server, not yet started, and how stores on it are made.

    Attributes:
        server: of its own for this test.
        make: from a URL and a timeout.
        durable: whether what it acknowledged survives its crash.
    """

    server: Server
    make: Callable[..., Any]
    durable: bool = True
    _made: list[Any] = field(default_factory=list)

    def store(self, *, timeout: float = 1.0, port: int | None = None) -> Any:
        """Return a store on the server; on another port, if a proxy listens there."""
        url = self.server.url.replace(f":{self.server.port}", f":{port or self.server.port}")
        if url.startswith("mongodb:"):
            url += "?directConnection=true"  # else it would ask the server, and go past the proxy
        store = self.make(url, timeout=timeout)
        self._made.append(store)
        return store

    async def aclose(self) -> None:
        for store in self._made:
            await store.aclose()

    def remove(self) -> None:
        self.server.kill()
        if isinstance(self.server, PostgreSQLServer):
            shutil.rmtree(self.server.directory)


def _redis(directory: Path) -> Networked:
    # As somebody sets it up who minds what a crash undoes.
    options = ("--appendonly", "yes", "--appendfsync", "always")
    return Networked(RedisServer(directory, *options), RedisStore)


NETWORKED: dict[str, Callable[[Path], Networked]] = {
    "dynamodb": lambda path: Networked(MotoServer(path), DynamoDBStore, durable=False),
    "memcached": lambda path: Networked(MemcachedServer(path), MemcachedStore, durable=False),
    "mongodb": lambda path: Networked(SecantusServer(path), MongoStore),
    "postgresql": lambda path: Networked(PostgreSQLServer(), SQLAlchemyStore),
    "redis": _redis,
}
