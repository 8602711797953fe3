"""What pymongo raises, as what a store raises."""

from __future__ import annotations

from typing import Any, Final

from pymongo import errors
from pymongo.asynchronous.collection import AsyncCollection

from ..errors import StoreError, StoreUnavailable

__all__ = ["is_duplicate_key", "translated", "unanswered"]

# Whoever asks again later gets an answer without anybody changing anything. The timeouts among
# them may have written: nobody knows.
_PASSING: Final = (
    errors.ConnectionFailure,  # refused, lost, timed out, no primary, no connection free
    errors.ExecutionTimeout,
    errors.WriteConcernError,  # written, and not known to survive a failover
    errors.ConfigurationError,  # settings were checked before: a name that DNS does not resolve
    OSError,
)
# The same, where pymongo has no class for it: a router does not reach a shard or finds no primary
# there, or a member has just started.
_PASSING_CODES: Final = frozenset({6, 7, 64, 89, 133, 134, 262, 9001})
_TOO_LARGE: Final = 10334


def translated(exc: Exception) -> StoreError:
    """Return the store's error for one of the driver's."""
    code = exc.code if isinstance(exc, errors.OperationFailure) else None
    if isinstance(exc, errors.DocumentTooLarge) or code == _TOO_LARGE:
        return StoreError("the value is too large: a document of MongoDB holds 16 MB")
    passing = isinstance(exc, _PASSING) or (isinstance(exc, errors.PyMongoError) and exc.timeout)
    if passing or code in _PASSING_CODES:
        return StoreUnavailable(f"MongoDB is not available: {_reason(exc)}")
    if isinstance(exc, RuntimeError):
        return StoreError(
            f"{exc}. A client of MongoDB serves one event loop, and asyncio only: write "
            "MongoStore('mongodb://host/database') to have a client per event loop"
        )
    return StoreError(f"MongoDB refused: {_reason(exc)}")


def unanswered(
    seconds: float, sessions: AsyncCollection[Any] | None, said: Exception | None
) -> StoreError:
    """Return the error for a call whose time was up, with what the driver knows of the servers."""
    late = f"MongoDB did not answer within {seconds:g} s"
    if sessions is None:
        return StoreUnavailable(late)
    servers = sessions.database.client.topology_description.server_descriptions().values()
    why = next((server.error for server in servers if server.error), said)
    # A server that refuses our user is not asked by the next calls: they wait in vain.
    if isinstance(why, errors.OperationFailure):
        error = translated(why)
    else:
        error = StoreUnavailable(f"{late}: {why}" if why else late)
    error.__cause__ = why
    return error


def _reason(exc: Exception) -> str:
    """Return what the server said, without the copy of its whole answer that pymongo appends."""
    details = getattr(exc, "details", None)
    said = details.get("errmsg") if isinstance(details, dict) else None
    return str(said or exc)


def is_duplicate_key(exc: errors.DuplicateKeyError) -> bool:
    """Tell whether the duplicate is the session's key, and not that of somebody's own index."""
    pattern = (exc.details or {}).get("keyPattern")
    return pattern is None or dict(pattern) == {"_id": 1}
