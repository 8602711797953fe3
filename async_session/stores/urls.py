"""Stores from URLs. A backend's module is imported when a URL asks for it, and not before."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import ConfigurationError
from .base import SessionStore

__all__ = ["as_store", "store_from_url"]


def store_from_url(url: str) -> SessionStore:
    """Make the store that `url` names. It owns its connections and opens them on first use.

    =======================================  ==================
    ``memory://``                            `MemoryStore`
    ``file:///absolute/directory``           `FileSystemStore`
    ``redis://``, ``rediss://`` (TLS),       `RedisStore`
    ``redis+unix:///path/to/socket``,
    ``redis+cluster://a:6379,b:6379``,
    ``redis+sentinel://a:26379/mymaster``;
    all of these with ``valkey``
    ``memcached://a:11211,b:11211``,         `MemcachedStore`
    ``memcached:///path/to/socket``
    ``mongodb://host/database``,             `MongoStore`
    ``mongodb+srv://host/database``
    ``dynamodb:///table?region=eu-west-1``   `DynamoDBStore`
    ``sqlite:////absolute/path.db``,         `SQLAlchemyStore`
    ``postgresql://user:pw@host/database``
    =======================================  ==================

    Raises:
        ConfigurationError: the scheme is not known, the URL cannot be read, or the package that
            the backend needs is not installed. The message never shows user or password.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    build = _BUILDERS.get(scheme)
    if build is None:
        known = ", ".join(f"{name}://" for name in sorted(_BUILDERS))
        what = f"no store for {scheme}://" if scheme else "a store URL begins with a scheme"
        raise ConfigurationError(f"{what}: use one of {known}")
    return build(url)


def as_store(value: SessionStore | str) -> tuple[SessionStore, bool]:
    """Return the store that `value` is or names, and whether it was made here.

    Whoever makes a store closes it: if the second item is True, the caller does.

    Raises:
        ConfigurationError: `value` is neither a URL nor an object with async `open`, `save` and
            `delete`. The message says what to write.
    """
    if isinstance(value, str):
        return store_from_url(value), True
    if isinstance(value, type) or not all(_is_async(value, verb) for verb in _VERBS):
        raise ConfigurationError(_instead_of(value))
    return value, False


_VERBS = ("open", "save", "delete")


def _is_async(value: object, verb: str) -> bool:
    method = getattr(value, verb, None)
    return inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(
        getattr(method, "__call__", None)  # noqa: B004 - is its call async, not: is it callable
    )


#: The package an object comes from, and what to write instead of it.
_INSTEAD = {
    "aiomcache": "MemcachedStore(client), from async_session.stores.memcached",
    "motor": "MongoStore(collection), from async_session.stores.mongodb",
    "pymongo": "MongoStore(collection), from async_session.stores.mongodb",
    "redis": "RedisStore(client), from async_session.stores.redis",
    "valkey": "RedisStore(client), from async_session.stores.redis",
    "aiobotocore": "DynamoDBStore(client), from async_session.stores.dynamodb",
    "boto3": "DynamoDBStore('dynamodb:///table'), from async_session.stores.dynamodb",
    "sqlalchemy": "SQLAlchemyStore(engine), from async_session.stores.sqlalchemy",
    "pathlib": "FileSystemStore(path), from async_session.stores.filesystem",
    "builtins": 'a URL such as "redis://localhost:6379/0" or "memory://"',
}


def _instead_of(value: object) -> str:
    if isinstance(value, type):
        return f"a store is an object, not the class {value.__name__}: write {value.__name__}(...)"
    package, _, _ = type(value).__module__.partition(".")
    instead = _INSTEAD.get(package, "an object with async open, save and delete, or a URL")
    return f"{type(value).__module__}.{type(value).__qualname__} is no store: write {instead}"


def _memory(url: str) -> SessionStore:
    from .memory import MemoryStore

    if url != "memory://":
        raise ConfigurationError('a memory store takes no options: write "memory://"')
    return MemoryStore()


def _file(url: str) -> SessionStore:
    from .filesystem import FileSystemStore

    parts: SplitResult = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in {"", "localhost"} or not os.path.isabs(path) or path == "/":
        raise ConfigurationError('write an absolute directory, "file:///var/lib/app/sessions"')
    if parts.query or parts.fragment:
        raise ConfigurationError(
            "a file URL takes no options: write FileSystemStore(directory, ...) for those, and "
            "%3F or %23 for a question mark or a hash in the directory's name"
        )
    return FileSystemStore(path)


def _dynamodb(url: str) -> SessionStore:
    from .dynamodb import DynamoDBStore

    return DynamoDBStore(url)


def _redis(url: str) -> SessionStore:
    from .redis import RedisStore

    return RedisStore(url)


def _memcached(url: str) -> SessionStore:
    from .memcached import MemcachedStore

    return MemcachedStore(url)


def _sql(url: str) -> SessionStore:
    from .sqlalchemy import SQLAlchemyStore

    return SQLAlchemyStore(url)


def _mongodb(url: str) -> SessionStore:
    from .mongodb import MongoStore

    return MongoStore(url)


_REDIS = ("redis", "rediss", "valkey", "valkeys")  # an s for TLS

_BUILDERS: dict[str, Callable[[str], SessionStore]] = {
    "dynamodb": _dynamodb,
    "file": _file,
    "memcached": _memcached,
    "memory": _memory,
    "mongodb": _mongodb,
    "mongodb+srv": _mongodb,
    "postgres": _sql,
    "postgresql": _sql,
    **{f"{base}{kind}": _redis for base in _REDIS for kind in ("", "+cluster", "+sentinel")},
    "redis+unix": _redis,
    "sqlite": _sql,
    "valkey+unix": _redis,
}
