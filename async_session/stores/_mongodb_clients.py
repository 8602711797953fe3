"""Collections of MongoDB: taken from a client, or from a client per event loop made from a URL."""

from __future__ import annotations

import asyncio
import selectors
import sys
import warnings
from collections.abc import AsyncGenerator
from typing import Any, Final, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit

import pymongo
from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from ..errors import ConfigurationError

__all__ = [
    "Address",
    "Clients",
    "Collection",
    "Document",
    "collection_of",
    "is_collection",
    "kind_of",
    "ours",
]

Document: TypeAlias = dict[str, Any]
#: One of pymongo's. Motor's has the same methods.
Collection: TypeAlias = AsyncCollection[Document]

_EXAMPLE: Final = "MongoStore('mongodb://localhost/app')"
# What a client of ours is told, unless the URL says otherwise.
_DEFAULTS: Final[dict[str, Any]] = {
    # A call's own deadline ends its waiting before that.
    "connectTimeoutMS": 5000,
    "serverSelectionTimeoutMS": 5000,
    # Two connections less, which pymongo leaves open if the loop ends while it makes them. The
    # first call after a failover notices it, and is sent again.
    "serverMonitoringMode": "poll",
}
#: These read nothing that was not acknowledged before; anything else may on a sharded cluster.
_READ_CONCERNS: Final = frozenset({"majority", "linearizable"})


def is_collection(value: object) -> bool:
    """Tell whether `value` is a collection of pymongo's asynchronous client, or of Motor."""
    motor = sys.modules.get("motor.motor_asyncio")  # whoever has such an object has imported it
    return isinstance(value, AsyncCollection) or (
        motor is not None and isinstance(value, motor.AsyncIOMotorCollection)
    )


def collection_of(client: object, database: str, collection: str) -> Collection:
    """Return a collection of a client, with no settings changed; refuse what is no client."""
    motor = sys.modules.get("motor.motor_asyncio")
    if not isinstance(client, AsyncMongoClient) and not (
        motor is not None and isinstance(client, motor.AsyncIOMotorClient)
    ):
        # A database would make a collection of the two names, and say nothing.
        raise ConfigurationError(
            "SESSION_MONGODB takes a pymongo.AsyncMongoClient, an AsyncIOMotorClient of "
            f"motor.motor_asyncio, or a URL, not {kind_of(client)}: write "
            "SESSION_MONGODB = AsyncMongoClient('mongodb://localhost')"
        )
    try:
        return cast("AsyncMongoClient[Document]", client)[database][collection]
    except PyMongoError as exc:
        raise ConfigurationError(
            f"{exc}: change SESSION_MONGODB_DB or SESSION_MONGODB_COLLECT"
        ) from None


def kind_of(value: object) -> str:
    """Return what to call `value` in an error."""
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    return f"{type(value).__module__}.{type(value).__qualname__}"


def ours(collection: Collection) -> Collection:
    """Return `collection` with the settings that the store's promises rest on.

    Reads go to the primary. A write is acknowledged when a majority has it in its journal, so
    neither a crash nor a failover undoes it. A read concern stronger than "local" stays.
    """
    level = collection.read_concern.level
    return collection.with_options(
        codec_options=CodecOptions(),
        read_preference=ReadPreference.PRIMARY,
        write_concern=WriteConcern("majority", j=True),
        read_concern=ReadConcern(level if level in _READ_CONCERNS else "local"),
    )


class Address:
    """A URL that was read and found good; it holds the password, and never shows it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else "")
        if parts.scheme not in {"mongodb", "mongodb+srv"}:
            raise ConfigurationError(
                f"that is no MongoDB URL: write {_EXAMPLE}, with mongodb+srv:// for a host whose "
                "servers are listed in DNS"
            )
        options = [pair for pair in parts.query.split("&") if pair]
        mine = [pair for pair in options if pair.startswith("collection=")]
        self._url = parts._replace(query="&".join(o for o in options if o not in mine)).geturl()
        if parts.path in {"", "/"} and parts.query:
            # pymongo wants the slash before the question mark, which urlsplit may have dropped.
            self._url = parts._replace(path="/", query=self._url.partition("?")[2]).geturl()
        names = {name.lower() for name, _ in parse_qsl(parts.query)}
        self._options = {name: _DEFAULTS[name] for name in _DEFAULTS if name.lower() not in names}
        self._collection = dict(parse_qsl(mine[-1])).get("collection", "") if mine else "sessions"
        #: For people to read: no user, no password, no options.
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self.shown += f"?collection={self._collection}"
        self._first: AsyncMongoClient[Document] | None = self._checked()

    def client(self) -> AsyncMongoClient[Document]:
        """Make a client, without connecting; it needs no event loop yet."""
        # pymongo looks for files when it makes one: the first is made before there is a loop.
        client, self._first = self._first, None
        return AsyncMongoClient(self._url, **self._options) if client is None else client

    def collection(self, client: AsyncMongoClient[Document]) -> Collection:
        """Return the sessions' collection, with the store's settings."""
        return ours(client.get_default_database()[self._collection])

    def _checked(self) -> AsyncMongoClient[Document]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # pymongo warns about options, and goes on
                client = AsyncMongoClient[Document](self._url, **self._options)
        except Exception:
            # Not chained, and not quoted: the message may hold a piece of a password.
            raise ConfigurationError(
                "pymongo cannot read that URL: check port and options, percent-encode special "
                "characters in user and password, and see MongoDB's 'Connection Strings'"
            ) from None
        try:
            client.get_default_database()
        except PyMongoError:
            raise ConfigurationError(
                f"the URL names no database: write it behind the host, {_EXAMPLE}"
            ) from None
        try:
            self.collection(client)
        except PyMongoError as exc:
            raise ConfigurationError(f"{exc}: write ?collection=sessions in the URL") from None
        return client


class Clients:
    """A client per running event loop, made when the loop first asks.

    Args:
        address: where they connect to.
        patience: seconds that closing a client may wait for the server.
    """

    def __init__(self, address: Address, *, patience: float) -> None:
        self._address = address
        self._patience = patience
        self._lanes: dict[asyncio.AbstractEventLoop, _Lane] = {}

    async def collection(self) -> Collection:
        """Return the running loop's collection."""
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(loop)
        if lane is None:
            lane = self._lanes[loop] = _Lane(self._address, self._patience)
            await anext(lane.guard)  # does not wait: no other caller comes in between
            await self._forget_closed_loops()
        if not lane.is_open:
            await lane.open()
        return lane.collection

    def known(self) -> Collection | None:
        """Return the running loop's collection if there is one already."""
        lane = self._lanes.get(asyncio.get_running_loop())
        return None if lane is None or not lane.is_open else lane.collection

    async def _forget_closed_loops(self) -> None:
        for loop in [loop for loop in self._lanes if loop.is_closed()]:
            lane = self._lanes.pop(loop)
            if not lane.is_closed:
                await asyncio.to_thread(_bury, loop, lane.client)

    async def aclose(self) -> None:
        """Close the running loop's client."""
        lane = self._lanes.pop(asyncio.get_running_loop(), None)
        if lane is not None:
            await lane.guard.aclose()


class _Lane:
    """What the store uses on one event loop."""

    __slots__ = ("_opening", "client", "collection", "guard", "is_closed", "is_open")

    def __init__(self, address: Address, patience: float) -> None:
        self.client = address.client()
        self.collection = address.collection(self.client)
        self.guard = self._until_loop_ends(patience)
        self.is_open = self.is_closed = False
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Let the client look its servers up: once, for all that wait for it.

        It is not connected then. With ``mongodb+srv://`` it is a question to DNS, and each who
        asked it would throw away the connections of those before.
        """
        if self._opening is None or self._opening.done():
            self._opening = asyncio.ensure_future(self.client.aconnect())
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._opening)  # whoever gives up leaves it to the others
        self.is_open = True

    async def _until_loop_ends(self, patience: float) -> AsyncGenerator[None]:
        """Close the client when this generator is closed.

        Every runner (`asyncio.run`, anyio, uvicorn, a TestClient that makes a loop a request)
        closes the loop's generators before the loop: it is the one moment at which a client that
        nobody closed can still be closed in its own loop.
        """
        try:
            yield
        finally:
            self.is_closed = True
            # It says good-bye to the server, which may be frozen.
            with pymongo.timeout(patience):
                closing = asyncio.ensure_future(self.client.close())
            await asyncio.wait([closing], timeout=2 * patience)
            if closing.cancel():  # it waits for a lock that a cancelled call has kept: see `Calls`
                _unburied.append(self.client)
                await asyncio.wait([closing], timeout=patience)
            else:
                closing.result()


def _bury(loop: asyncio.AbstractEventLoop, client: AsyncMongoClient[Document]) -> None:
    """Close, in a thread, a client whose event loop was closed without closing its generators.

    A client can be closed only in its own loop: its monitors are tasks there. So the loop is
    opened once more. Where that is not possible the client stays as it is.
    """
    if not isinstance(loop, asyncio.SelectorEventLoop):
        _unburied.append(client)
        return
    closed: Any = loop
    closed._closed = False
    closed._selector = selectors.DefaultSelector()
    closed._make_self_pipe()
    try:
        # Its connections are not watched any more, so there is no saying good-bye.
        client._topology.pop_all_sessions()
        loop.run_until_complete(client.close())
    finally:
        loop.close()


# Kept, because Python would complain about each at its end, and nobody could do anything.
_unburied: list[AsyncMongoClient[Document]] = []
