"""Clients of aiobotocore: described by a URL, made for an event loop, dropped with it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from aiobotocore.client import AioBaseClient
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, ClientCreatorContext
from botocore.exceptions import BotoCoreError
from botocore.loaders import Loader
from botocore.session import Session

from ..errors import ConfigurationError
from ._sockets import close_socket

__all__ = ["Target", "abandon", "check_client", "check_table", "client_of", "read_url"]

# Connections per event loop, when the store makes the client. More callers wait for one.
_MAX_CONNECTIONS: Final = 100
# Seconds to connect, and to read. The store's own deadline ends a session's call long before; the
# making of a table may take its time.
_TIMEOUT: Final = 5.0

_URL_TO_WRITE: Final = (
    "write 'dynamodb:///table?region=eu-west-1' (credentials from the usual AWS places) or "
    "'dynamodb://access:secret@host:port/table?region=eu-west-1'"
)
_CLIENT_TO_WRITE: Final = (
    "write DynamoDBStore('dynamodb:///Sessions?region=eu-west-1'), or enter a client of "
    "aiobotocore and pass that: async with get_session().create_client('dynamodb') as client: "
    "DynamoDBStore(client)"
)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says. None is for what it leaves to others."""

    region: str
    shown: str
    endpoint: str | None = None
    access: str | None = None
    secret: str | None = None
    table: str | None = None
    create_table: bool | None = None


def read_url(url: str) -> Target:
    """Read a store's URL. No error quotes it: any part may turn out to be a piece of a secret."""
    parts = urlsplit(url)
    if parts.scheme != "dynamodb" or not url.startswith("dynamodb://"):
        raise ConfigurationError(f"that is no DynamoDB URL: {_URL_TO_WRITE}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(
            "cannot read host and port of that DynamoDB URL: percent-encode special characters in "
            "the secret key, %2F for a slash and %2B for a plus"
        ) from None
    if (parts.username or parts.password or port) and not host:
        raise ConfigurationError(f"that DynamoDB URL has no host: {_URL_TO_WRITE}")
    if bool(parts.username) != bool(parts.password):
        raise ConfigurationError(f"credentials are an access key and a secret: {_URL_TO_WRITE}")
    if parts.fragment:
        raise ConfigurationError("a DynamoDB URL has no fragment: write %23 for a # in the secret")
    options = _options(parts)
    table = unquote(parts.path.removeprefix("/")) or None
    if table is not None:
        check_table(table)
    region = options.get("region") or _usual_region()
    where = "" if host is None else f"[{host}]" if ":" in host else host
    where += f":{port}" if port else ""
    return Target(
        region=region,
        shown=f"dynamodb://{where}/?region={region}",
        endpoint=_endpoint(host, where, _boolean(options, "tls")),
        access=unquote(parts.username) if parts.username else None,
        secret=unquote(parts.password) if parts.password else None,
        table=table,
        create_table=_boolean(options, "create_table"),
    )


def _options(parts: SplitResult) -> Mapping[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs) or not options.keys() <= {"region", "tls", "create_table"}:
        raise ConfigurationError(
            "the options of a DynamoDB URL are region=, tls=true|false and "
            "create_table=true|false, each once"
        )
    return options


def _boolean(options: Mapping[str, str], name: str) -> bool | None:
    if name not in options:
        return None
    if options[name] not in _BOOLEANS:
        raise ConfigurationError(f"in a DynamoDB URL write {name}=true or {name}=false")
    return _BOOLEANS[options[name]]


def _endpoint(host: str | None, where: str, tls: bool | None) -> str | None:
    if host is None:
        if tls is not None:
            raise ConfigurationError("tls= is for a URL with a host: AWS's own is always encrypted")
        return None
    # Session data crosses a network in clear only if somebody wrote so.
    encrypted = host not in _LOOPBACK if tls is None else tls
    return f"{'https' if encrypted else 'http'}://{where}"


def _usual_region() -> str:
    """Return the region that the AWS environment and configuration name."""
    try:
        region = AioSession().get_config_variable("region")
    except BotoCoreError as exc:
        raise ConfigurationError(f"the AWS configuration cannot be used: {exc}") from exc
    if not region:
        raise ConfigurationError(
            "no region: write ?region=eu-west-1 at the end of the DynamoDB URL, or set "
            "AWS_DEFAULT_REGION"
        )
    return str(region)


def check_table(name: object) -> None:
    """Refuse what DynamoDB does not take as a table's name."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}", name):
        # Not quoted: in a URL it may be a piece of a secret that was not percent-encoded.
        raise ConfigurationError(
            "a DynamoDB table's name has 3 to 255 letters, digits, underscores, hyphens and dots: "
            "write table='Sessions', or 'dynamodb:///Sessions' in a URL"
        )


def check_client(client: object) -> None:
    """Refuse what is no open DynamoDB client of aiobotocore, saying what to write instead."""
    if isinstance(client, AioBaseClient):
        service = client.meta.service_model.service_name
        if service == "dynamodb":
            return
        kind = f"a client for {service}"
    elif isinstance(client, ClientCreatorContext):
        # Nobody will await it any more, which would be a warning.
        unused: Any = client
        unused._coro.close()
        kind = "a client that has not been entered"
    elif isinstance(client, type):
        kind = f"the class {client.__qualname__}"
    else:
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
    raise ConfigurationError(
        f"DynamoDBStore takes a client or a URL, not {kind}: {_CLIENT_TO_WRITE}"
    )


async def client_of(target: Target) -> AsyncGenerator[AioBaseClient]:
    """Yield an open client, and close it when this generator is closed.

    Every runner (`asyncio.run`, anyio, uvicorn, a TestClient that makes a loop a request) closes
    the loop's generators before the loop: it is the one moment at which a client that nobody
    closed can still be closed in its own loop.
    """
    session = AioSession()
    # The descriptions of AWS's services are large files: read once, and not in the event loop.
    session.register_component("data_loader", await asyncio.to_thread(_loader))
    await asyncio.to_thread(session.get_scoped_config)
    config = AioConfig(
        connect_timeout=_TIMEOUT,
        read_timeout=_TIMEOUT,
        max_pool_connections=_MAX_CONNECTIONS,
        # Sent again behind the store's back, a conditional write whose answer was lost would be
        # refused by its own value, and a plain one would undo what others wrote meanwhile.
        retries={"total_max_attempts": 1, "mode": "legacy"},
    )
    async with session.create_client(
        "dynamodb",
        region_name=target.region,
        endpoint_url=target.endpoint,
        aws_access_key_id=target.access,
        aws_secret_access_key=target.secret,
        config=config,
    ) as client:
        yield client


@functools.cache
def _loader() -> Loader:
    """Return a loader that has read what a client for DynamoDB needs."""
    session = Session()
    loader: Loader = session.get_component("data_loader")
    # The files differ from version to version. A client that is made and thrown away reads all.
    with contextlib.suppress(BotoCoreError):  # of the configuration: the real client will tell
        nobody: dict[str, Any] = {"aws_access_key_id": "-", "aws_secret_access_key": "-"}
        session.create_client("dynamodb", region_name="eu-west-1", **nobody)
    return loader


def abandon(client: AioBaseClient) -> None:
    """Drop a client whose event loop was closed without closing its generators.

    A connection can be closed only by its loop. So its socket is closed here, and taken away from
    the objects that would otherwise warn that nobody did.
    """
    http: Any = client._endpoint.http_session  # type: ignore[attr-defined]
    sessions: dict[object, Any] = getattr(http, "_sessions", None) or {}
    # Older versions have one session, newer ones a session for each proxy.
    for session in [*sessions.values(), *filter(None, [getattr(http, "_session", None)])]:
        connector = session.connector
        session.detach()
        if connector is None:
            continue
        idle = [item[0] for queue in connector._conns.values() for item in queue]
        for protocol in [*idle, *connector._acquired]:
            close_socket(getattr(protocol, "transport", None))
        connector._conns.clear()
        connector._acquired.clear()
