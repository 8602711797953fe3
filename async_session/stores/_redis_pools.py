"""Connection pools of redis-py: made from a URL, taken from a client, dropped with their loop."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection

from ..errors import ConfigurationError

__all__ = ["abandon", "make_pool", "pool_of", "without_secrets"]

# Connections per event loop, when the store makes them. More callers wait for one.
_MAX_CONNECTIONS: Final = 100
_CONNECT_TIMEOUT: Final = 5.0

# redis-py renamed the option that turns CLIENT SETINFO off.
_NO_SETINFO: Final[dict[str, None]] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)


def make_pool(url: str) -> ConnectionPool:
    """Make a pool from a URL, without connecting; it needs no event loop yet."""
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme not in {"redis", "rediss", "redis+unix", "unix"}:
        raise ConfigurationError(
            "that is no Redis URL: write RedisStore('redis://localhost:6379/0'), with rediss:// "
            "for TLS or redis+unix:///path for a socket"
        )
    try:
        pool = ConnectionPool.from_url(
            url.removeprefix("redis+"),
            max_connections=_MAX_CONNECTIONS,
            # One trip less to connect with each: no HELLO, no CLIENT SETINFO.
            protocol=2,
            **_NO_SETINFO,
            # One deadline a call: a socket timeout is a task for every command on Python 3.11.
            socket_timeout=None,
            socket_connect_timeout=_CONNECT_TIMEOUT,
        )
    except Exception:
        # Not chained, and not quoted: the message may hold a piece of a password.
        raise ConfigurationError(
            "redis-py cannot read that URL: check the port, percent-encode special characters in "
            "user and password, and see redis.asyncio.Redis.from_url for the options"
        ) from None
    _refuse_text(pool)
    return pool


def pool_of(client: object) -> ConnectionPool:
    """Return the pool of a client that somebody else owns; refuse what cannot work."""
    if not isinstance(client, Redis):
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        if isinstance(client, type):
            kind = f"the class {client.__qualname__}"
        raise ConfigurationError(
            f"RedisStore takes a redis.asyncio.Redis or a URL, not {kind}: write "
            "RedisStore('redis://localhost:6379/0') or "
            "RedisStore(redis.asyncio.Redis(host='localhost'))"
        )
    pool = client.connection_pool
    _refuse_text(pool)
    return pool


def _refuse_text(pool: ConnectionPool) -> None:
    if pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError(
            "RedisStore stores bytes, and this client turns answers into text: leave out "
            "decode_responses=True, or give the store a client of its own"
        )


def without_secrets(url: str) -> str:
    """Return `url` without user, password and options, for people to read."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def abandon(pool: ConnectionPool) -> None:
    """Drop connections whose event loop was closed without closing its generators.

    A stream can be closed only by its loop. So its socket is closed here, and taken away from the
    objects that would otherwise warn that nobody did.
    """
    for connection in [*pool._available_connections, *pool._in_use_connections]:
        writer, connection._writer, connection._reader = connection._writer, None, None
        if writer is None:
            continue
        transport = writer.transport
        with contextlib.suppress(RuntimeError):  # marks it as closing, then misses its loop
            transport.abort()
        raw: Any = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
        if getattr(raw, "_sock", None) is not None:
            raw._sock.close()
            raw._sock = None
