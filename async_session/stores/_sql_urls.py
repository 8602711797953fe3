"""What a database URL asks for: which engine to make, once for every event loop."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qs, urlsplit

from sqlalchemy.ext.asyncio import AsyncEngine

from ..errors import ConfigurationError
from ._sql_engines import DRIVERS, HOW_TO, need_driver, server_engine, sqlite_engine

__all__ = ["EngineSource", "read_url"]

# What asyncpg reads from a URL, beside user, password, host, port and database.
_POSTGRESQL_OPTIONS: Final = {
    "application_name",
    "host",
    "passfile",
    "port",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "target_session_attrs",
}


class EngineSource(NamedTuple):
    """How to make an engine, once for every event loop, and how to speak of it."""

    dialect: str
    make: Callable[[], AsyncEngine]
    shown: str


def read_url(url: str, *, timeout: float) -> EngineSource:
    """Read a store's URL, without connecting; it needs no event loop yet."""
    scheme, _, rest = url.partition("://") if "://" in url else ("", "", "")
    dialect, _, driver = scheme.partition("+")
    dialect = "postgresql" if dialect == "postgres" else dialect
    if dialect not in DRIVERS or driver not in {"", DRIVERS[dialect]}:
        raise ConfigurationError(
            f"that is no URL of a database that SQLAlchemyStore knows: write {HOW_TO}"
        )
    need_driver(dialect)
    try:
        parts = urlsplit(f"{dialect}://{rest}")
        return (_sqlite if dialect == "sqlite" else _postgresql)(parts, timeout)
    except ConfigurationError:
        raise
    except Exception:
        # Not chained, and not quoted: the message may hold a piece of a password.
        raise ConfigurationError(
            f"that URL cannot be read: percent-encode special characters, and write {HOW_TO}"
        ) from None


def _sqlite(parts: SplitResult, timeout: float) -> EngineSource:
    # As SQLAlchemy reads it: what follows the third slash, relative unless it begins with another.
    path = parts.path.removeprefix("/")
    if parts.netloc or parts.query or parts.fragment or path in {"", "/", ":memory:"}:
        raise ConfigurationError(
            "write 'sqlite:///relative.db' or 'sqlite:////absolute/path.db', without options and "
            "without a host; for sessions in memory write 'memory://'"
        )
    if not os.path.isabs(path):  # now, not when it is used: the working directory may change
        path = os.path.abspath(path)
    return EngineSource(
        "sqlite", functools.partial(sqlite_engine, path, timeout), f"sqlite:///{path}"
    )


def _postgresql(parts: SplitResult, timeout: float) -> EngineSource:
    options = parse_qs(parts.query, keep_blank_values=True)
    if unknown := sorted(set(options) - _POSTGRESQL_OPTIONS):
        raise ConfigurationError(
            f"a PostgreSQL URL has no option {unknown[0]!r} here: give the store an AsyncEngine of "
            f"your own for that, or use one of {', '.join(sorted(_POSTGRESQL_OPTIONS))}"
        )
    host = parts.netloc.rpartition("@")[2] or "".join(options.get("host", ()))
    database = parts.path.removeprefix("/")
    if parts.netloc.count("@") > 1 or "@" in database or "/" in database or parts.fragment:
        raise ConfigurationError(
            "percent-encode special characters in user, password and database: %40 for @, %2F for "
            "/, %3F for ?, %23 for #"
        )
    if not host or not database:
        raise ConfigurationError(
            f"the URL names no {'host' if database else 'database'}: write "
            "'postgresql://user:password@host/database', or "
            "'postgresql://user@/database?host=/run/postgresql' for a socket"
        )
    _ = urlsplit(f"//{host.rpartition(',')[2]}").port  # raises if it is no number
    make = functools.partial(
        server_engine,
        parts.geturl(),
        timeout,
        # A standby that still catches up would show what has been ended.
        target=None if "target_session_attrs" in options else "read-write",
    )
    shown = f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return EngineSource("postgresql", make, shown)
