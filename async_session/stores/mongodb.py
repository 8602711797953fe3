"""Sessions in MongoDB, by way of pymongo's asynchronous client or of Motor."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from .._aio import run_to_completion
from .._log import warn_once
from ..errors import ConfigurationError, StoreError, StoreUnavailable
from .base import VERSION_SIZE, Match

try:
    import pymongo
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.errors import DuplicateKeyError, ServerSelectionTimeoutError

    from ._mongodb_clients import (
        Address,
        Clients,
        Collection,
        Document,
        is_collection,
        kind_of,
        ours,
    )
    from ._mongodb_errors import is_duplicate_key, translated, unanswered
except ImportError as exc:
    raise ConfigurationError(
        "MongoStore needs pymongo 4.18 or newer: pip install async_session[mongo]"
    ) from exc

if TYPE_CHECKING:
    from motor.motor_asyncio import AsyncIOMotorCollection

__all__ = ["MongoStore"]

T = TypeVar("T")

# MongoDB removes a document by its own clock, which may be ahead of this machine's.
_CLOCKS_DIFFER: Final = 300
# The record is in one field, because nothing else in the document is for a reader.
_PAYLOAD: Final = {"_id": 0, "payload": 1}
# The driver stops a little before the deadline, because it can say why.
_DRIVERS_SHARE: Final = 0.95
# Upserts of one key that meet: one inserts, the others find it at their next try.
_UPSERTS: Final = 5
# Seconds until an index that could not be made is tried again.
_INDEX_AGAIN: Final = 60.0


class MongoStore:
    """Keep sessions in MongoDB, one document a session. Runs on asyncio.

    Args:
        collection: a collection of `pymongo.AsyncMongoClient` or of Motor's asyncio client, which
            is used and never closed; or a URL, ``mongodb://[user:password@]host/database`` or
            ``mongodb+srv://...``, with ``?collection=`` if it is not "sessions". From a URL the
            store makes a client of its own for every event loop it is used on, when it is first
            used there.
        timeout: seconds. Every call ends by then, with `StoreUnavailable` if MongoDB has not
            answered. Also readable as `deadline`.
        clock: the time in seconds since the epoch.

    Raises:
        ConfigurationError: `collection` is neither, or the URL cannot work.

    Whatever the client is set to, reads go to the primary and writes are acknowledged by the
    journals of a majority. A ``readConcernLevel`` of "majority" or "linearizable" is kept.

    The first save makes an index by which MongoDB removes documents some time after their ttl. If
    it cannot, sessions work all the same, and a line in the log says what to do.
    """

    def __init__(
        self,
        collection: AsyncCollection[Any] | AsyncIOMotorCollection[Any] | str,
        *,
        timeout: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if timeout <= 0:
            raise ConfigurationError(f"timeout must be more than 0 seconds, not {timeout}")
        #: Every call ends within this many seconds.
        self.deadline = float(timeout)
        self._clock = clock
        self._given: Collection | None = None
        self._clients: Clients | None = None
        if isinstance(collection, str):
            address = Address(collection)
            self._clients = Clients(address, patience=self.deadline)
            self._shown = repr(address.shown)
        elif is_collection(collection):
            self._given = ours(cast("Collection", collection))
            package = type(collection).__module__.partition(".")[0]
            self._shown = f"<{package} collection {self._given.full_name}>"
        else:
            raise ConfigurationError(_instead_of(collection))
        self._index_due = 0.0
        # The loop itself keeps weak references only.
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"MongoStore({self._shown})"

    async def open(self, key: str, /) -> bytes | None:
        """Return the value under `key`, or None if there is none."""
        _check(key)
        found = await self._call(lambda sessions: sessions.find_one({"_id": key}, _PAYLOAD))
        if found is None:
            return None
        payload = found.get("payload")
        if not isinstance(payload, bytes):
            raise StoreError("the document with this key is no session")
        return payload

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Store `data` under `key` for `ttl` seconds if `match` holds; return whether it did.

        Cancelled, it ends when MongoDB has answered: nothing is written afterwards.
        """
        _check(key)
        if isinstance(match, bytes) and len(match) != VERSION_SIZE:
            raise ValueError(f"a version is {VERSION_SIZE} bytes, not {match!r}")
        until = math.ceil(self._clock()) + ttl + _CLOCKS_DIFFER
        document: Document = {
            "_id": key,
            "version": data[:VERSION_SIZE],
            "payload": data,
            "expires": datetime.fromtimestamp(until, UTC),
        }
        return await run_to_completion(self._save(document, match))

    async def delete(self, key: str, /) -> None:
        """Remove `key`. A key that is not there is no error.

        Cancelled, it ends when MongoDB has answered.
        """
        _check(key)
        await run_to_completion(self._call(lambda sessions: sessions.delete_one({"_id": key})))

    async def aclose(self) -> None:
        """Close the client that the store made on this event loop; never one it was given.

        Those of other loops are closed when their loop ends. The store may be used again.
        """
        if self._clients is not None:
            await self._clients.aclose()

    async def _save(self, document: Document, match: Match | bytes) -> bool:
        began = time.monotonic()
        saved = await self._call(lambda sessions: _write(sessions, document, match))
        if began >= self._index_due:
            self._index_due = math.inf  # one tries, and the others go on
            if not await self._make_index(self.deadline - (time.monotonic() - began)):
                self._index_due = time.monotonic() + _INDEX_AGAIN
        return saved

    async def _make_index(self, seconds: float) -> bool:
        """Let MongoDB remove what has expired; return False if it may work another time.

        What was saved is saved, so nothing is raised.
        """
        try:
            await self._call(
                lambda sessions: sessions.create_index("expires", expireAfterSeconds=0),
                seconds=max(seconds, 0.001),
            )
        except StoreUnavailable as exc:
            warn_once(f"{self!r} could not yet make its index, and tries again: {exc}")
            return False
        except StoreError as exc:
            warn_once(
                f"{self!r} cannot make the index by which MongoDB removes expired sessions: {exc}. "
                "Sessions work and pile up, until somebody makes an index on {expires: 1} with "
                "{expireAfterSeconds: 0}, or turns the one that is there into that by collMod"
            )
        return True

    async def _call(
        self, operation: Callable[[Collection], Awaitable[T]], *, seconds: float | None = None
    ) -> T:
        """Do one thing within the deadline, and translate what fails.

        In a task of its own, which nobody cancels: a connection that pymongo is making when it is
        cancelled is left open. The driver ends the task itself, a little before the deadline.
        """
        seconds = seconds or self.deadline
        selection: ServerSelectionTimeoutError | None = None
        try:
            task = asyncio.ensure_future(self._operate(operation, seconds * _DRIVERS_SHARE))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
            await asyncio.wait([task], timeout=seconds)
            if task.done():
                return task.result()
        except ServerSelectionTimeoutError as exc:
            selection = exc
        except Exception as exc:
            raise translated(exc) from exc
        sessions = self._clients.known() if self._clients else self._given
        raise unanswered(seconds, sessions, selection)

    async def _operate(self, operation: Callable[[Collection], Awaitable[T]], seconds: float) -> T:
        # Collections refuse to be asked whether they are true.
        sessions = self._given if self._clients is None else await self._clients.collection()
        with pymongo.timeout(seconds):
            return await operation(cast("Collection", sessions))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # mark it as seen: the caller may be gone


async def _write(sessions: Collection, document: Document, match: Match | bytes) -> bool:
    """Make one write that has its precondition in it; return whether that held."""
    key = {"_id": document["_id"]}
    if match is Match.ANY:
        return await _upsert(sessions, key, document)
    if match is Match.ABSENT:
        return await _insert(sessions, document)
    found = await sessions.replace_one({**key, "version": match}, document)
    return found.matched_count == 1


async def _insert(sessions: Collection, document: Document) -> bool:
    try:
        await sessions.insert_one(document)
    except DuplicateKeyError as exc:
        if not is_duplicate_key(exc):
            raise
        return False
    return True


async def _upsert(sessions: Collection, key: Document, document: Document) -> bool:
    for left in reversed(range(_UPSERTS)):
        try:
            await sessions.replace_one(key, document, upsert=True)
        except DuplicateKeyError as exc:
            # Two that found nothing both insert. Who comes second finds the other's document.
            if left == 0 or not is_duplicate_key(exc):
                raise
        else:
            return True
    raise AssertionError("unreachable: the last try returns or raises")


def _check(key: str) -> None:
    # MongoDB takes any type for an _id, and operators for a condition.
    if not isinstance(key, str):
        raise ValueError(f"a key is a str, not {type(key).__name__}")


def _instead_of(value: object) -> str:
    return (
        "MongoStore takes a collection of pymongo.AsyncMongoClient or of "
        f"motor.motor_asyncio.AsyncIOMotorClient, or a URL, not {kind_of(value)}: write "
        "MongoStore(client['app']['sessions']) or MongoStore('mongodb://localhost/app')"
    )
