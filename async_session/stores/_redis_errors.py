"""What an exception of redis-py or valkey-py means.

Judged by the names of its classes, which are the same in both packages: neither need be installed.
"""

from __future__ import annotations

from typing import Final

from ..errors import StoreError, StoreUnavailable

__all__ = ["is_a", "is_lasting", "translated", "was_refused"]

# A server that says one of these did nothing, and will answer when it or another took over.
_REFUSALS: Final = ("BusyLoadingError", "ClusterDownError", "MasterDownError", "ReadOnlyError")
_REFUSAL_CODES: Final = frozenset({"BUSY", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY"})
# What redis-py's Sentinel connection makes of READONLY.
_DEMOTED: Final = "The previous master is now a slave"

_PASSING: Final = ("ConnectionError", "TimeoutError", "TryAgainError", "OSError", *_REFUSALS)
# These are connection errors to the driver, and stay until somebody changes the configuration.
_LASTING: Final = ("AuthenticationError", "AuthorizationError")


def is_a(exc: BaseException, *names: str) -> bool:
    """Tell whether one of the exception's classes has one of these names."""
    return any(kind.__name__ in names for kind in type(exc).__mro__)


def is_lasting(exc: BaseException) -> bool:
    """Tell whether trying again is of no use, whatever kind of error it looks like."""
    return is_a(exc, *_LASTING)


def was_refused(exc: BaseException) -> bool:
    """Tell whether the server said that it did nothing, so that a write may be sent again."""
    if is_lasting(exc):
        return False
    code = str(exc).partition(" ")[0]
    return is_a(exc, "TryAgainError", *_REFUSALS) or code in _REFUSAL_CODES or _DEMOTED in str(exc)


def translated(exc: Exception) -> StoreError:
    """Return our exception for the driver's; `raise` it `from` that."""
    if isinstance(exc, StoreError):
        return exc
    if was_refused(exc) or (is_a(exc, *_PASSING) and not is_lasting(exc)):
        return StoreUnavailable(f"Redis is not available: {exc}")
    if is_a(exc, "MovedError", "AskError"):
        return StoreError(
            f"that server is one of a cluster ({exc}): write RedisStore('redis+cluster://...'), or "
            "give the store a RedisCluster"
        )
    if "cluster support disabled" in str(exc):
        return StoreError("that server is no cluster: write RedisStore('redis://...')")
    if isinstance(exc, RuntimeError):
        return StoreError(
            f"{exc}. A redis client serves one event loop, and asyncio only: write "
            "RedisStore('redis://...') to have a client per event loop"
        )
    return StoreError(f"Redis refused: {exc}")
