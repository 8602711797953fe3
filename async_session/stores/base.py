"""The contract between the session manager and a backend: three verbs over bytes.

A store knows nothing of sessions, cookies or policy. It keeps bytes under a key, and it can make
a write depend on what it keeps. `async_session.testing.StoreConformance` states every sentence of
this file as a test; a store is right if it passes.
"""

from __future__ import annotations

import enum
from typing import Protocol, runtime_checkable

__all__ = ["VERSION_SIZE", "Match", "SessionStore", "SupportsClose", "SupportsSweep"]

#: A value's first bytes are its version: what a conditional `save` compares.
VERSION_SIZE = 16


class Match(enum.Enum):
    """A precondition of `SessionStore.save` that needs no version."""

    #: Store whatever is there.
    ANY = "any"
    #: Store only if nothing is there.
    ABSENT = "absent"


@runtime_checkable
class SessionStore(Protocol):
    """Keeps bytes under a key. Anything with these three methods is a store.

    A *key* is 64 lower-case hexadecimal digits: the hash of a session id, never the id itself.
    A store puts its own prefix in front.

    A *value* is at least `VERSION_SIZE` (16) bytes long; its first 16 bytes are its version.

    Every failure is a `StoreError` with the driver's exception as its cause; a backend that cannot
    be reached or does not answer in time is a `StoreUnavailable`. No driver's exception leaves a
    store, and a failure never looks like an absent key.

    A call that is cancelled leaves the connection, the pool and the record sound: the write was
    made whole or not at all, and no later call is answered with its reply.

    A store may say in an attribute `deadline` (seconds, float) that each of its calls ends by then
    of itself; a caller need not time those calls again. And it may say in an attribute `in_order`
    (bool) that its calls take place in the order in which one event loop makes them, each of them
    also if its caller is cancelled meanwhile: then a write needs no task of its own.
    """

    async def open(self, key: str, /) -> bytes | None:
        """Return the value under `key`, or None if there is none.

        Shows every `save` and `delete` that was acknowledged, to anybody, before it was called. A
        value whose ttl has passed may still be returned: whether a session is alive is written in
        the value.
        """
        ...

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Store `data` under `key` if the precondition holds; return whether it did.

        Args:
            key: where.
            data: at least 16 bytes, stored as they are.
            ttl: seconds, at least 1. The value is kept for at least this long, and collected some
                time after.
            match: `Match.ANY`; `Match.ABSENT`, to create only; or 16 bytes, the version that the
                stored value must begin with. Checked in one atomic step with the write.

        Returns:
            True if it was stored. False if the precondition did not hold, and for nothing else.
        """
        ...

    async def delete(self, key: str, /) -> None:
        """Remove `key`. A key that is not there is no error."""
        ...


@runtime_checkable
class SupportsSweep(Protocol):
    """A store whose backend does not collect expired values by itself."""

    async def sweep(self) -> int:
        """Remove values whose ttl has passed, in bounded batches; return how many."""
        ...


@runtime_checkable
class SupportsClose(Protocol):
    """A store that holds connections or threads of its own."""

    async def aclose(self) -> None:
        """Give back what the store opened itself. A client it was given stays open."""
        ...
