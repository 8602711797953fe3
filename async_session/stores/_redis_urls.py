"""URLs of Redis: one server, a socket, a cluster, or the Sentinels that know the primary."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import ConfigurationError
from ._redis_cluster import Address, Cluster
from ._redis_drivers import Driver, driver
from ._redis_errors import is_a
from ._redis_lanes import Lane, Primary
from ._redis_pipeline import CAN_SHARE
from ._redis_shared import Shared

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ["lane_maker", "refuse_text", "without_secrets"]

_BASES: Final = frozenset({"redis", "rediss", "valkey", "valkeys"})
# Seconds that a Sentinel may take before the next is asked.
_SENTINEL_TIMEOUT: Final = 0.25


class _Parts(NamedTuple):
    driver: Driver
    url: SplitResult
    tls: bool

    @property
    def hosts(self) -> str:
        return self.url.netloc.rpartition("@")[2]

    def settings(self, *, host: str, path: str) -> dict[str, Any]:
        """Let the driver read the URL of one server; its options go before ours."""
        user, at, _ = self.url.netloc.rpartition("@")
        scheme = "unix" if "unix" in self.url.scheme else f"{self.driver.name}{'s' * self.tls}"
        one = self.url._replace(scheme=scheme, netloc=f"{user}{at}{host}", path=path)
        settings: dict[str, Any] = self.driver.settings.copy()
        if self.tls:
            settings["ssl_check_hostname"] = True  # the default of some versions only
        settings.update(self.driver.connection.parse_url(one.geturl()))
        refuse_text(settings)
        return settings


def lane_maker(url: str) -> tuple[Callable[[], Lane], bool]:
    """Read a URL, without connecting.

    Returns:
        What makes the connections of one event loop, and whether there is one for all calls.
    """
    parts = urlsplit(url) if "://" in url else urlsplit("")
    base, _, kind = parts.scheme.partition("+")
    if base == "unix" and not kind:
        base, kind = "redis", "unix"
    if base not in _BASES or kind not in _KINDS:
        raise ConfigurationError(
            "that is no Redis URL: write RedisStore('redis://localhost:6379/0'), with rediss:// "
            "for TLS, redis+unix:///path for a socket, redis+cluster://host,host for a cluster, or "
            "redis+sentinel://host,host/mymaster"
        )
    package = driver("valkey" if base.startswith("valkey") else "redis")
    try:
        make = _KINDS[kind](_Parts(package, parts, base in {"rediss", "valkeys"}))
        return make, _KINDS[kind] is _server and CAN_SHARE
    except ConfigurationError:
        raise
    except Exception:
        # Not chained, and not quoted: the message may hold a piece of a password.
        raise ConfigurationError(
            f"{package.name}-py cannot read that URL: check the port, percent-encode special "
            "characters in user and password, and see redis.asyncio.Redis.from_url for the options"
        ) from None


def _server(parts: _Parts) -> Callable[[], Lane]:
    settings = parts.settings(host=parts.hosts, path=parts.url.path)
    make_pool = parts.driver.connection.ConnectionPool
    make_pool(**settings)
    settings["protocol"] = 2  # in RESP3 a server may speak without being asked
    lane = Shared if CAN_SHARE else Primary
    return lambda: lane(parts.driver, make_pool(**settings))


def _cluster(parts: _Parts) -> Callable[[], Lane]:
    nodes = _addresses(parts.hosts, 6379)
    if parts.url.path.strip("/") not in {"", "0"}:
        raise ConfigurationError("a cluster has no databases: leave out what follows the hosts")
    settings = parts.settings(host="cluster", path="")
    for key in ("host", "port"):
        settings.pop(key, None)
    return lambda: Cluster(parts.driver, nodes, settings)


def _sentinel(parts: _Parts) -> Callable[[], Lane]:
    sentinels = _addresses(parts.hosts, 26379)
    service, _, database = unquote(parts.url.path).strip("/").partition("/")
    if not service:
        raise ConfigurationError(
            "name what the Sentinels watch: write redis+sentinel://host:26379,host/mymaster"
        )
    settings = parts.settings(host="primary", path=f"/{database or 0}")
    for key in ("host", "port", "connection_class"):
        settings.pop(key, None)
    # Sentinels have users and passwords of their own.
    theirs = {"username": None, "password": None}
    for key in theirs:
        theirs[key] = settings.pop(f"sentinel_{key}", None)
    return lambda: _lane_by_sentinel(parts, sentinels, service, settings, theirs)


def _lane_by_sentinel(
    parts: _Parts,
    sentinels: list[Address],
    service: str,
    settings: dict[str, Any],
    theirs: dict[str, Any],
) -> Lane:
    driver, module = parts.driver, parts.driver.sentinel
    tls = {key: value for key, value in settings.items() if key.startswith("ssl_")}
    manager = module.Sentinel(
        sentinels,
        sentinel_kwargs={
            **driver.settings,
            **theirs,
            **({"ssl": True} | tls if parts.tls else {}),
            "socket_timeout": _SENTINEL_TIMEOUT,
            "socket_connect_timeout": _SENTINEL_TIMEOUT,
            "retry": driver.no_retry(),
        },
    )
    pool = module.SentinelConnectionPool(
        service,
        manager,
        ssl=parts.tls,
        **settings,
        **{f"{driver.name}_connect_func": _only_to_a_primary(driver)},
    )
    others = tuple(sentinel.connection_pool for sentinel in manager.sentinels)
    return Primary(driver, pool, others)


def _only_to_a_primary(driver: Driver) -> Callable[[AbstractConnection], Any]:
    async def connected(connection: AbstractConnection) -> None:
        """Make sure of what a Sentinel said: it may be a moment behind."""
        await connection.on_connect()
        try:
            await connection.send_command("ROLE")
            role: Any = await connection.read_response()
        except Exception as exc:
            if is_a(exc, "NoPermissionError"):
                return
            raise
        if role[0] not in {b"master", "master"}:
            raise driver.exceptions.ConnectionError("what Sentinel calls the primary is none")

    return connected


_KINDS: Final[dict[str, Callable[[_Parts], Callable[[], Lane]]]] = {
    "": _server,
    "unix": _server,
    "cluster": _cluster,
    "sentinel": _sentinel,
}


def _addresses(hosts: str, default_port: int) -> list[Address]:
    """Read ``host:port,host,[::1]:port``."""
    found: list[Address] = []
    for item in hosts.split(","):
        one = urlsplit(f"//{item}")
        if not one.hostname:
            raise ConfigurationError("write the hosts with commas between: host:port,host:port")
        found.append((one.hostname, one.port or default_port))
    return found


def refuse_text(settings: dict[str, Any]) -> None:
    """Refuse a client that decodes what we store."""
    if settings.get("decode_responses"):
        raise ConfigurationError(
            "RedisStore stores bytes, and this client turns answers into text: leave out "
            "decode_responses=True, or give the store a client of its own"
        )


def without_secrets(url: str) -> str:
    """Return `url` without user, password and options, for people to read."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
