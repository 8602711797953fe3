"""Which memcached servers there are, and which of them keeps a key."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from aiomcache import Client, FlagClient

from ..errors import ConfigurationError

__all__ = ["Node", "Nodes", "node_of", "parse_nodes"]

#: One server or several, as a user writes them.
Nodes = str | Client | Sequence[str | Client]

_PORT: Final = 11211
_SCHEME: Final = "memcached://"
_EXAMPLES: Final = (
    "write MemcachedStore('127.0.0.1:11211'), MemcachedStore(['a:11211', 'b:11211']), "
    "MemcachedStore('/run/memcached.sock') or MemcachedStore(aiomcache.Client('127.0.0.1'))"
)
# host, host:port, [IPv6], [IPv6]:port
_is_address = re.compile(
    r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\])(?::(?P<port>[0-9]{1,5}))?"
).fullmatch

P = TypeVar("P", bound=asyncio.Protocol)


class Node:
    """One server: a host and a port, or the path of a unix socket."""

    def __init__(
        self,
        host: str,
        port: int | None,
        *,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._options = dict(options or {})
        #: What it is called in messages, and what decides which keys it keeps.
        self.name = (
            host if port is None else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        )

    async def connect(self, make: Callable[[], P]) -> P:
        """Connect on the running event loop, however long that takes."""
        loop = asyncio.get_running_loop()
        if self._port is None:
            _, protocol = await loop.create_unix_connection(make, self._host)
        else:
            _, protocol = await loop.create_connection(
                make, self._host, self._port, **self._options
            )
        return protocol

    def weight(self, key: str) -> bytes:
        """Return how much this node wants `key`: the node that wants it most keeps it."""
        return hashlib.blake2b(f"{self.name} {key}".encode(), digest_size=8).digest()


def node_of(nodes: Sequence[Node], key: str) -> Node:
    """Return the node that keeps `key`, whether it is alive or not.

    It depends on the nodes' names only, not on their order. With a node more or less, only the
    keys that this one keeps have another place (rendezvous hashing).
    """
    return nodes[0] if len(nodes) == 1 else max(nodes, key=lambda node: node.weight(key))


def parse_nodes(nodes: Nodes) -> tuple[Node, ...]:
    """Return the servers that `nodes` names; refuse what cannot work, and show no secret."""
    if isinstance(nodes, str):
        parsed = _from_text(nodes)
    elif isinstance(nodes, FlagClient):
        parsed = [_from_client(nodes)]
    elif isinstance(nodes, list | tuple):
        parsed = [_from_client(n) if isinstance(n, FlagClient) else _from_address(n) for n in nodes]
    else:
        raise _refusal(nodes)
    if not parsed:
        raise ConfigurationError(f"there is no node in the list: {_EXAMPLES}")
    names = [node.name for node in parsed]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{name} is in the list of nodes twice: name it once")
    return tuple(parsed)


def _from_text(text: str) -> list[Node]:
    if not text.startswith(_SCHEME):
        if "://" in text:
            raise ConfigurationError(f"that is no memcached:// URL: {_EXAMPLES}")
        return [_from_address(part.strip()) for part in text.split(",")]
    rest = text.removeprefix(_SCHEME)
    if "@" in rest:
        raise ConfigurationError(
            "memcached's text protocol knows no user and no password: leave them out of the URL, "
            "and let only your app reach the server"
        )
    if "?" in rest or "#" in rest:
        raise ConfigurationError(
            "a memcached URL takes no options: write MemcachedStore(nodes, timeout=...) for those"
        )
    if not rest.startswith("/"):
        rest = rest.removesuffix("/")
    return [_from_address(unquote(part)) for part in rest.split(",")]


def _from_address(address: object) -> Node:
    if not isinstance(address, str):
        raise _refusal(address)
    if address.startswith("/"):
        return Node(address, None)
    found = _is_address(address)
    port = int(found["port"] or _PORT) if found else 0
    if found is None or not 0 < port < 65536:
        # Not quoted: it may hold a password.
        raise ConfigurationError(f"a node is 'host:port' or the path of a socket: {_EXAMPLES}")
    return Node(found["host"].strip("[]").lower(), port)


def _from_client(client: FlagClient[Any]) -> Node:
    pool = client._pool
    options = {name: value for name, value in pool.conn_args.items() if name != "limit"}
    return Node(pool._host.lower(), pool._port, options=options)


def _refusal(value: object) -> ConfigurationError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, type):
        kind = f"the class {value.__qualname__}"
    return ConfigurationError(
        f"MemcachedStore takes addresses or an aiomcache.Client, not {kind}: {_EXAMPLES}"
    )
