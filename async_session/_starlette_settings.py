"""What the parameters of the Starlette middleware come to."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from async_session._checks import seconds
from async_session.errors import ConfigurationError
from async_session.policy import SessionPolicy, as_policy

__all__ = ["effective_policy", "path_prefixes"]


def effective_policy(
    policy: SessionPolicy | None,
    max_age: int | None,
    lifetime: int | timedelta | None,
    refresh: bool | None,
) -> SessionPolicy:
    """Return what Starlette's parameters and a policy come to; the parameters win."""
    changes: dict[str, Any] = {}
    if max_age is not None:
        seconds("max_age", max_age)  # named as the caller knows it
        changes |= {"lifetime": max_age, "permanent": True}
    elif lifetime is not None:
        changes |= {"lifetime": lifetime}
    elif policy is None:
        changes |= {"lifetime": 14 * 24 * 60 * 60}
    if refresh is not None or policy is None:
        changes |= {"refresh_each_request": bool(refresh)}
    return as_policy(policy).replace(**changes)


def path_prefixes(skip: Iterable[str]) -> tuple[str, ...]:
    """Return the prefixes of paths that have no session; refuse what would skip nothing."""
    prefixes = (skip,) if isinstance(skip, str) or not isinstance(skip, Iterable) else tuple(skip)
    for prefix in prefixes:
        if not isinstance(prefix, str) or not prefix.startswith("/"):
            raise ConfigurationError(
                f'skip={skip!r} would skip nothing: write ("/static",), prefixes that begin with /'
            )
    return tuple(prefix.rstrip("/") for prefix in prefixes)
