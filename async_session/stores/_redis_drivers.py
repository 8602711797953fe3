"""redis-py and valkey-py: the same package under two names, each used if it is what was asked for.

Types are written as redis-py's. Nothing is imported before a store is made.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool, Redis, RedisCluster
    from redis.asyncio.connection import AbstractConnection

__all__ = ["CONNECT_TIMEOUT", "MAX_CONNECTIONS", "Driver", "driver", "driver_of", "take_over"]

#: Connections per event loop and server, when the store makes them. More callers wait for one.
MAX_CONNECTIONS: Final = 100
CONNECT_TIMEOUT: Final = 5.0


class Driver(NamedTuple):
    """One of the two packages."""

    name: str
    client: type[Redis]
    cluster: type[RedisCluster]
    connection: ModuleType
    sentinel: ModuleType
    crc: ModuleType
    exceptions: ModuleType
    #: Settings of every connection that the store makes.
    settings: dict[str, Any]

    def no_retry(self) -> object:
        """Return what the package takes for: try once."""
        backoff = importlib.import_module(f"{self.name}.backoff")
        return importlib.import_module(f"{self.name}.asyncio.retry").Retry(backoff.NoBackoff(), 0)

    async def take(self, pool: ConnectionPool) -> AbstractConnection:
        """Take a connection out of the pool, and connect it if it is not."""
        # Some versions of the drivers have no types here.
        if self.name == "valkey":
            connection = await pool.get_connection("")  # type: ignore[no-untyped-call]
        else:
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        if connection._reader is not None and connection._reader.at_eof():
            # The server has closed it. A pool of RESP3 connections hands it out all the same.
            try:
                await connection.disconnect(nowait=True)
                await connection.connect()
            except BaseException:
                await pool.release(connection)
                raise
        return connection  # type: ignore[no-any-return]


@functools.cache
def driver(name: str) -> Driver:
    """Import a package: ``redis`` or ``valkey``; for ``valkey`` without valkey-py, redis-py."""
    try:
        client = importlib.import_module(f"{name}.asyncio")
    except ImportError as exc:
        if name == "valkey":
            try:
                return driver("redis")
            except ConfigurationError:
                pass
        raise ConfigurationError(
            f"RedisStore needs {name}-py: pip install 'async_session[{name}]'"
        ) from exc
    title = name.capitalize()
    connection = importlib.import_module(f"{name}.asyncio.connection")
    return Driver(
        name,
        getattr(client, title),
        getattr(client, f"{title}Cluster"),
        connection,
        importlib.import_module(f"{name}.asyncio.sentinel"),
        importlib.import_module(f"{name}.crc"),
        importlib.import_module(f"{name}.exceptions"),
        {
            "max_connections": MAX_CONNECTIONS,
            # One trip less to connect with each: no HELLO, no CLIENT SETINFO.
            "protocol": 2,
            **_no_setinfo(connection.AbstractConnection),
            # One deadline a call: a socket timeout is a task for every command on Python 3.11.
            "socket_timeout": None,
            "socket_connect_timeout": CONNECT_TIMEOUT,
        },
    )


def _no_setinfo(connection: Callable[..., object]) -> dict[str, None]:
    # redis-py renamed the option.
    if "driver_info" in inspect.signature(connection).parameters:
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}


def driver_of(client: object) -> Driver | None:
    """Return the package that made a client or anything else; None if it is neither of them."""
    for kind in type(client).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in {"redis", "valkey"} and f"{name}.asyncio" in sys.modules:
            return driver(name)
    return None


def take_over(
    connection: AbstractConnection, protocol: asyncio.Protocol
) -> tuple[asyncio.Transport, object, Callable[[str], Exception]]:
    """Give what a connection receives from now on to `protocol`; the connection is then empty.

    Returns:
        Its transport; what has to be kept as long as that is open, because it closes it when it is
        collected; and how the driver reads a refusal.
    """
    parser: Any = connection._parser
    writer: Any = connection._writer
    connection._reader = connection._writer = None
    writer.transport.set_protocol(protocol)
    return writer.transport, writer, parser.parse_error
