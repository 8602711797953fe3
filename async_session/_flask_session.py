"""Flask-Session's config keys: which store an app's config asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from async_session.errors import ConfigurationError
from async_session.stores.base import SessionStore
from async_session.stores.urls import store_from_url

__all__ = ["DEFAULTS", "store_from_config"]

#: Keys that count at every request, with their defaults. The interval is ours: seconds between
#: two refreshes of a sliding session, None for a hundredth of the lifetime.
DEFAULTS: Final[Mapping[str, object]] = {
    "SESSION_PERMANENT": True,
    "SESSION_USE_SIGNER": True,
    "SESSION_REFRESH_INTERVAL": None,
}

Config = Mapping[str, Any]


def store_from_config(config: Config) -> SessionStore | None:
    """Return the store that ``SESSION_TYPE`` names; None for ``null``, and if it is not set.

    Raises:
        ConfigurationError: the type is not known, or a key that it needs cannot work.
    """
    kind = config.get("SESSION_TYPE") or "null"
    if kind not in _STORES:
        known = ", ".join(repr(name) for name in _STORES)
        raise ConfigurationError(f"SESSION_TYPE={kind!r} is not known: use one of {known}")
    return _STORES[kind](config)


def _null(config: Config) -> None:
    return None


def _memory(config: Config) -> SessionStore:
    return store_from_url("memory://")


def _filesystem(config: Config) -> SessionStore:
    from async_session.stores.filesystem import FileSystemStore

    return FileSystemStore(
        # Flask-Session's default, looked up when it is needed.
        config.get("SESSION_FILE_DIR") or os.path.join(os.getcwd(), "flask_session"),
        threshold=config.get("SESSION_FILE_THRESHOLD", 500),
        mode=config.get("SESSION_FILE_MODE", 0o600),
    )


def _redis(config: Config) -> SessionStore:
    from async_session.stores.redis import RedisStore

    client = config.get("SESSION_REDIS") or config.get("SESSION_URI")
    if client is None:
        raise ConfigurationError(
            "SESSION_TYPE is 'redis' and there is no server: set SESSION_REDIS to a "
            "redis.asyncio.Redis, or to a URL such as 'redis://localhost:6379/0'"
        )
    return RedisStore(client, prefix=config.get("SESSION_KEY_PREFIX", "session:"))


def _memcached(config: Config) -> SessionStore:
    from async_session.stores.memcached import MemcachedStore

    nodes = config.get("SESSION_MEMCACHED") or config.get("SESSION_URI")
    if nodes is None:
        raise ConfigurationError(
            "SESSION_TYPE is 'memcached' and there is no server: set SESSION_MEMCACHED to an "
            "address such as '127.0.0.1:11211', a list of them, a URL such as "
            "'memcached://127.0.0.1:11211', or an aiomcache.Client"
        )
    return MemcachedStore(nodes, prefix=config.get("SESSION_KEY_PREFIX", "session:"))


def _dynamodb(config: Config) -> SessionStore:
    from async_session.stores.dynamodb import DynamoDBStore

    client = config.get("SESSION_DYNAMODB") or config.get("SESSION_URI")
    if client is None:
        raise ConfigurationError(
            "SESSION_TYPE is 'dynamodb' and there is no client: set SESSION_DYNAMODB to an open "
            "DynamoDB client of aiobotocore, or to a URL such as "
            "'dynamodb:///Sessions?region=eu-west-1'"
        )
    return DynamoDBStore(client, table=config.get("SESSION_DYNAMODB_TABLE"))


def _sqlalchemy(config: Config) -> SessionStore:
    from async_session.stores.sqlalchemy import SQLAlchemyStore

    engine = config.get("SESSION_SQLALCHEMY") or config.get("SESSION_URI")
    if engine is None:
        raise ConfigurationError(
            "SESSION_TYPE is 'sqlalchemy' and there is no database: set SESSION_SQLALCHEMY to an "
            "AsyncEngine of SQLAlchemy, or to a URL such as 'sqlite:////var/lib/app/sessions.db' "
            "or 'postgresql://user:password@host/database'"
        )
    return SQLAlchemyStore(
        engine,
        table=config.get("SESSION_SQLALCHEMY_TABLE", "sessions"),
        schema=config.get("SESSION_SQLALCHEMY_SCHEMA"),
    )


def _mongodb(config: Config) -> SessionStore:
    from async_session.stores import mongodb  # first: it names the extra that is missing
    from async_session.stores._mongodb_clients import collection_of

    client = config.get("SESSION_MONGODB")
    if client is None:  # a client's database or collection would not say whether it is true
        client = config.get("SESSION_URI")
    if client is None:
        raise ConfigurationError(
            "SESSION_TYPE is 'mongodb' and there is no server: set SESSION_MONGODB to a "
            "pymongo.AsyncMongoClient, or to a URL such as 'mongodb://localhost/app'"
        )
    names = {key: config.get(key) for key in ("SESSION_MONGODB_DB", "SESSION_MONGODB_COLLECT")}
    if not isinstance(client, str):
        database, collection = names.values()
        return mongodb.MongoStore(
            collection_of(client, database or "flask_session", collection or "sessions")
        )
    for key, name in names.items():
        if name is not None:
            raise ConfigurationError(
                f"leave out {key}={name!r}: a URL names both, 'mongodb://host/DB?collection=COLLECT'"
            )
    return mongodb.MongoStore(client)


_STORES: Mapping[str, Callable[[Config], SessionStore | None]] = {
    "null": _null,
    "memory": _memory,
    "filesystem": _filesystem,
    "redis": _redis,
    "dynamodb": _dynamodb,
    "memcached": _memcached,
    "mongodb": _mongodb,
    "sqlalchemy": _sqlalchemy,
}
