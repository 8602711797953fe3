"""What the MongoDB store asks a collection: to read, to write under a precondition, to remove.

Each ends of itself soon after `seconds`, but for the first try of a read: whoever waits for that
has to cancel it, if `is_connected`. Else it ends when the driver finds no server in its own time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Final

import pymongo
from pymongo import ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, PyMongoError

from ._mongodb_clients import Collection, Document
from ._mongodb_errors import is_duplicate_key
from .base import Match

__all__ = ["is_connected", "make_index", "read_all", "remove", "write"]

# The record is in one field, because nothing else in the document is for a reader.
_PAYLOAD: Final = {"payload": 1}
# Servers behind which there may be several.
_ROUTERS: Final = frozenset({"Mongos", "LoadBalancer"})
# Upserts of one key that meet: one inserts, the others find it at their next try.
_UPSERTS: Final = 5


def is_connected(sessions: Collection) -> bool:
    """Tell whether the driver knows a server to send a command to; Motor always says so.

    If it does not, a call waits for one, under a timeout of the driver's own: on Python 3.11 that
    is a task. Cancelled while that task is ending, the call leaves the client's lock to it, and
    nobody gives that back: no call would get through ever after.
    """
    if not isinstance(sessions, AsyncCollection):
        return True
    return bool(sessions.database.client.topology_description.has_writable_server())


async def read_all(
    sessions: Collection, keys: Sequence[str], seconds: float, *, bounded: bool = False
) -> list[Document | BaseException | None]:
    """Return what there is of each session: None if there is none, or why it cannot be read.

    With `bounded` the first try, too, ends of itself; each read then goes alone, and costs more.
    """
    if len(keys) == 1 and not bounded:
        return [await _read(sessions, keys[0], seconds)]
    began = time.monotonic()
    found: dict[str, Document | BaseException | None] = {}
    if not bounded and _may_go_together(sessions):
        with contextlib.suppress(Exception):  # each is read by itself, and has its own error
            for document in await _find(sessions, keys, seconds):
                found[document["_id"]] = document
        seconds -= time.monotonic() - began
    # An answer ends at 16 MB, and does not say so: what is not in it may be there.
    left = [key for key in keys if key not in found]
    read = _read_bounded if bounded else _read
    reads = (read(sessions, key, seconds) for key in left)
    found.update(zip(left, await asyncio.gather(*reads, return_exceptions=True), strict=True))
    return [found[key] for key in keys]


def _may_go_together(sessions: Collection) -> bool:
    """Tell whether one command for several sessions keeps the promises for each of them."""
    if not isinstance(sessions, AsyncCollection) or sessions.read_concern.level == "linearizable":
        return False  # "linearizable" is for one document
    # One shard that hangs is nothing to the sessions of others.
    servers = sessions.database.client.topology_description.server_descriptions()
    return not any(server.server_type_name in _ROUTERS for server in servers.values())


async def _read(sessions: Collection, key: str, seconds: float) -> Document | None:
    began = time.monotonic()
    if isinstance(sessions, AsyncCollection):  # Motor has threads, which nobody can cancel
        try:
            found = await _find(sessions, [key], seconds)
            return found[0] if found else None
        except PyMongoError:
            # The driver knows which errors pass, waits for a new primary, and asks again.
            seconds -= time.monotonic() - began
    return await _read_bounded(sessions, key, seconds)


async def _read_bounded(sessions: Collection, key: str, seconds: float) -> Document | None:
    with pymongo.timeout(max(seconds, 0.001)):
        return await sessions.find_one({"_id": key}, _PAYLOAD)


async def _find(sessions: Collection, keys: Sequence[str], seconds: float) -> list[Document]:
    # What `find` sends, without the cursor that it makes around the answer, and without
    # `pymongo.timeout`, which makes a task of every write to a socket on Python 3.11.
    command: Document = {
        "find": sessions.name,
        "filter": {"_id": keys[0] if len(keys) == 1 else {"$in": keys}},
        "projection": _PAYLOAD,
        "limit": len(keys),
        "singleBatch": True,
        "maxTimeMS": max(int(seconds * 1000), 1),
        "readConcern": sessions.read_concern.document,
    }
    reply = await sessions.database.command(command, read_preference=ReadPreference.PRIMARY)
    found: list[Document] = reply["cursor"]["firstBatch"]
    return found


async def write(
    sessions: Collection, document: Document, match: Match | bytes, seconds: float
) -> bool:
    """Make one write that has its precondition in it; return whether that held."""
    key = {"_id": document["_id"]}
    with pymongo.timeout(seconds):
        if match is Match.ANY:
            return await _upsert(sessions, key, document)
        if match is Match.ABSENT:
            return await _insert(sessions, document)
        found = await sessions.replace_one({**key, "version": match}, document)
        return found.matched_count == 1


async def remove(sessions: Collection, key: str, seconds: float) -> None:
    """Remove a session, if there is one."""
    with pymongo.timeout(seconds):
        await sessions.delete_one({"_id": key})


async def make_index(sessions: Collection, seconds: float) -> None:
    """Let MongoDB remove what has expired."""
    with pymongo.timeout(seconds):
        await sessions.create_index("expires", expireAfterSeconds=0)


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
