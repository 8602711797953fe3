"""Server-side sessions for ASGI apps: what Flask-Session is to Flask, for Quart and Starlette.

Names are loaded when they are used: importing this package brings no framework and no driver.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from async_session.errors import (
    ConfigurationError,
    SerializationError,
    SessionConflict,
    SessionError,
    SessionGone,
    SessionTooLarge,
    StoreError,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from async_session import merge
    from async_session.cookies import CookieOptions
    from async_session.events import SessionEvent
    from async_session.manager import SessionManager
    from async_session.policy import SessionPolicy
    from async_session.session import Session
    from async_session.stores.base import Match, SessionStore
    from async_session.stores.urls import store_from_url

__all__ = [
    "ConfigurationError",
    "CookieOptions",
    "Match",
    "SerializationError",
    "Session",
    "SessionConflict",
    "SessionError",
    "SessionEvent",
    "SessionGone",
    "SessionManager",
    "SessionPolicy",
    "SessionStore",
    "SessionTooLarge",
    "StoreError",
    "StoreUnavailable",
    "merge",
    "store_from_url",
]

_HOMES = {
    "CookieOptions": "cookies",
    "Match": "stores.base",
    "Session": "session",
    "SessionEvent": "events",
    "SessionManager": "manager",
    "SessionPolicy": "policy",
    "SessionStore": "stores.base",
    "store_from_url": "stores.urls",
}


def __getattr__(name: str) -> object:
    if name == "merge":
        return importlib.import_module("async_session.merge")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"async_session.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
