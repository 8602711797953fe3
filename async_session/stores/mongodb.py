"""Sessions in MongoDB, by way of pymongo's asynchronous client or of Motor."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from .._aio import run_to_completion
from .._log import warn_once
from ..errors import ConfigurationError, StoreError, StoreUnavailable
from .base import VERSION_SIZE, Match

try:
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.errors import ServerSelectionTimeoutError

    from ._mongodb_calls import Calls, Operation
    from ._mongodb_clients import (
        Address,
        Clients,
        Collection,
        Document,
        is_collection,
        kind_of,
        ours,
    )
    from ._mongodb_commands import make_index, remove, write
    from ._mongodb_errors import translated, unanswered
except ImportError as exc:
    raise ConfigurationError(
        "MongoStore needs pymongo 4.18 or newer: pip install 'async_session[mongo]'"
    ) from exc

if TYPE_CHECKING:
    from motor.motor_asyncio import AsyncIOMotorCollection

__all__ = ["MongoStore"]

T = TypeVar("T")

# MongoDB removes a document by its own clock, which may be ahead of this machine's.
_CLOCKS_DIFFER: Final = 300
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
        self._calls = Calls(self._sessions, self._known, lambda: self.deadline)

    def __repr__(self) -> str:
        return f"MongoStore({self._shown})"

    async def open(self, key: str, /) -> bytes | None:
        """Return the value under `key`, or None if there is none."""
        _check(key)
        found = await self._answered(self._calls.read(key), self.deadline)
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
        await run_to_completion(self._call(lambda sessions, left: remove(sessions, key, left)))

    async def aclose(self) -> None:
        """Close the client that the store made on this event loop; never one it was given.

        Those of other loops are closed when their loop ends. The store may be used again.
        """
        if self._clients is not None:
            await self._clients.aclose()

    async def _save(self, document: Document, match: Match | bytes) -> bool:
        began = time.monotonic()
        saved = await self._call(lambda sessions, left: write(sessions, document, match, left))
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
            async with asyncio.timeout(max(seconds, 0.001)):
                await self._call(make_index, seconds=max(seconds, 0.001))
        except (StoreUnavailable, TimeoutError) as exc:
            warn_once(f"{self!r} could not yet make its index, and tries again: {exc}")
            return False
        except StoreError as exc:
            warn_once(
                f"{self!r} cannot make the index by which MongoDB removes expired sessions: {exc}. "
                "Sessions work and pile up, until somebody makes an index on {expires: 1} with "
                "{expireAfterSeconds: 0}, or turns the one that is there into that by collMod"
            )
        return True

    async def _call(self, operation: Operation[T], *, seconds: float | None = None) -> T:
        """Do one thing within the deadline."""

        async def alone(sessions: Collection, left: float) -> list[T]:
            return [await operation(sessions, left)]

        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.start(alone, [answer], seconds or self.deadline)
        return await self._answered(answer, seconds or self.deadline)

    async def _answered(self, answer: asyncio.Future[T], seconds: float) -> T:
        """Wait for an answer, and translate what fails."""
        selection: ServerSelectionTimeoutError | None = None
        try:
            return await answer
        except TimeoutError:
            pass
        except ServerSelectionTimeoutError as exc:
            selection = exc
        except Exception as exc:
            raise translated(exc) from exc
        raise unanswered(seconds, self._known(), selection)

    def _known(self) -> Collection | None:
        return self._clients.known() if self._clients is not None else self._given

    async def _sessions(self) -> Collection:
        if self._clients is not None:
            return await self._clients.collection()
        return cast("Collection", self._given)


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
