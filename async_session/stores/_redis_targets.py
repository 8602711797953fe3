"""Where a Redis store's connections come from: a client that it was given, or a URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ..errors import ConfigurationError
from ._redis_cluster import Address, Cluster
from ._redis_drivers import Driver, driver_of
from ._redis_lanes import Lane, Primary
from ._redis_urls import lane_maker, refuse_text, without_secrets

__all__ = ["Target", "target_of"]

# What a cluster's connections need of a client's settings, beside everything for TLS.
_OF_A_CLIENT: Final = frozenset(
    {
        "client_name",
        "connection_class",
        "credential_provider",
        "health_check_interval",
        "password",
        "socket_keepalive",
        "socket_keepalive_options",
        "username",
    }
)


class Target(NamedTuple):
    """What a store talks to."""

    #: Makes what is used on the running event loop.
    open_lane: Callable[[], Lane]
    #: Whether the store closes it.
    is_own: bool
    #: For people; without a secret.
    shown: str
    #: Whether calls take place in their order, also those whose caller is cancelled.
    in_order: bool = False


def target_of(client: object) -> Target:
    """Use a URL, or a client that somebody else owns; refuse what cannot work."""
    if isinstance(client, str):
        open_lane, in_order = lane_maker(client)
        shown = repr(without_secrets(client))
        return Target(open_lane, is_own=True, shown=shown, in_order=in_order)
    package = driver_of(client)
    if package is not None:
        shown = f"<{package.name} client>"
        if isinstance(client, package.cluster):
            return _cluster_of(package, client, shown)
        if isinstance(client, package.client):
            pool = client.connection_pool
            refuse_text(pool.connection_kwargs)
            if getattr(pool, "is_master", True) is False:
                raise ConfigurationError(
                    "RedisStore reads from the primary only, and this client reads from replicas: "
                    "write RedisStore(sentinel.master_for('mymaster'))"
                )
            return Target(lambda: Primary(package, pool), is_own=False, shown=shown)
        if isinstance(client, package.sentinel.Sentinel):
            raise ConfigurationError(
                "RedisStore takes a primary, not the Sentinel that knows it: write "
                "RedisStore(sentinel.master_for('mymaster'))"
            )
    kind = f"{type(client).__module__}.{type(client).__qualname__}"
    if isinstance(client, type):
        kind = f"the class {client.__qualname__}"
    raise ConfigurationError(
        f"RedisStore takes a redis.asyncio.Redis or a URL, not {kind}: write "
        "RedisStore('redis://localhost:6379/0') or "
        "RedisStore(redis.asyncio.Redis(host='localhost'))"
    )


def _cluster_of(package: Driver, client: Any, shown: str) -> Target:
    given: dict[str, Any] = client.get_connection_kwargs()
    refuse_text(given)
    settings = {key: given[key] for key in given if key in _OF_A_CLIENT or key.startswith("ssl")}
    nodes = [
        (str(node.host), int(node.port)) for node in client.nodes_manager.startup_nodes.values()
    ]
    remap: Callable[[Address], Address] | None = client.nodes_manager.address_remap
    settings |= package.settings
    return Target(lambda: Cluster(package, nodes, settings, remap), is_own=True, shown=shown)
