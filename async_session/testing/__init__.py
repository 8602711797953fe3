"""Tools to test an app's sessions, and to prove a store.

`StoreConformance` states the store contract as tests, with `SharedStoreConformance` and
`SweepConformance` for what only some stores have. `RecordingStore` and `FaultyStore` stand in front
of a store and note calls, or let them fail; `FaultyProxy` stands in front of a server.
`cancel_everywhere` and `interleavings` are for loops: each await point to be cancelled at, each
order of store calls. `StoreMachine` and `ManagerMachine` are state machines of hypothesis, which
compare any sequence of calls or requests with a model. `make_cookie` and `session_transaction` give
an app's tests a session to begin with.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .cancelling import Cancellation, WayToCancel, cancel_everywhere, ways_to_cancel
from .interleaving import Schedule, TurnStore, interleavings
from .proxy import FaultyProxy
from .recording import FaultyStore, RecordingStore
from .sessions import make_cookie, session_transaction

if TYPE_CHECKING:
    from .conformance import SharedStoreConformance, StoreConformance, SweepConformance
    from .manager_machine import ManagerMachine
    from .store_machine import StoreMachine

__all__ = [
    "Cancellation",
    "FaultyProxy",
    "FaultyStore",
    "ManagerMachine",
    "RecordingStore",
    "Schedule",
    "SharedStoreConformance",
    "StoreConformance",
    "StoreMachine",
    "SweepConformance",
    "TurnStore",
    "WayToCancel",
    "cancel_everywhere",
    "interleavings",
    "make_cookie",
    "session_transaction",
    "ways_to_cancel",
]


# These need pytest, or hypothesis; the rest is good for any test runner.
_KIT = {"SharedStoreConformance", "StoreConformance", "SweepConformance"}
_MACHINES = {"ManagerMachine": "manager_machine", "StoreMachine": "store_machine"}


def __getattr__(name: str) -> object:
    if name in _KIT:
        import pytest

        pytest.register_assert_rewrite(f"{__name__}.conformance")
        from . import conformance

        return getattr(conformance, name)
    if name in _MACHINES:
        return getattr(importlib.import_module(f"{__name__}.{_MACHINES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
