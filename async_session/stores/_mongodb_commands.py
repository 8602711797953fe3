"""What the MongoDB store asks a collection: to read, to write under a precondition, to remove.

Each ends of itself within `seconds`, but for the first try of a read: whoever waits for that has
to cancel it.
"""

from __future__ import annotations

import time
from typing import Final

import pymongo
from pymongo import ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, PyMongoError

from ._mongodb_clients import Collection, Document
from ._mongodb_errors import is_duplicate_key
from .base import Match

__all__ = ["make_index", "read", "remove", "write"]

# The record is in one field, because nothing else in the document is for a reader.
_PAYLOAD: Final = {"_id": 0, "payload": 1}
# Upserts of one key that meet: one inserts, the others find it at their next try.
_UPSERTS: Final = 5


async def read(sessions: Collection, key: str, seconds: float) -> Document | None:
    """Return what there is of a session, or None."""
    began = time.monotonic()
    if isinstance(sessions, AsyncCollection):  # Motor has threads, which nobody can cancel
        try:
            return await _read_plainly(sessions, key, seconds)
        except PyMongoError:
            # The driver knows which errors pass, waits for a new primary, and asks again.
            seconds -= time.monotonic() - began
    with pymongo.timeout(max(seconds, 0.001)):
        return await sessions.find_one({"_id": key}, _PAYLOAD)


async def _read_plainly(sessions: Collection, key: str, seconds: float) -> Document | None:
    # What `find_one` sends, without the cursor that it makes around the answer, and without
    # `pymongo.timeout`, which makes a task of every write to a socket on Python 3.11.
    command: Document = {
        "find": sessions.name,
        "filter": {"_id": key},
        "projection": _PAYLOAD,
        "limit": 1,
        "singleBatch": True,
        "maxTimeMS": int(seconds * 1000) or 1,
        "readConcern": sessions.read_concern.document,
    }
    reply = await sessions.database.command(command, read_preference=ReadPreference.PRIMARY)
    found: list[Document] = reply["cursor"]["firstBatch"]
    return found[0] if found else None


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
