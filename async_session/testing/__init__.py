"""Tools to test an app's sessions, and to prove a store.

`StoreConformance` states the store contract as tests. `RecordingStore` and `FaultyStore` stand in
front of a store and note calls, or let them fail. `make_cookie` and `session_transaction` give an
app's tests a session to begin with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .recording import FaultyStore, RecordingStore
from .sessions import make_cookie, session_transaction

if TYPE_CHECKING:
    from .conformance import StoreConformance

__all__ = [
    "FaultyStore",
    "RecordingStore",
    "StoreConformance",
    "make_cookie",
    "session_transaction",
]


def __getattr__(name: str) -> object:
    # The kit needs pytest; the rest is good for any test runner.
    if name == "StoreConformance":
        import pytest

        pytest.register_assert_rewrite(f"{__name__}.conformance")
        from .conformance import StoreConformance

        return StoreConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
