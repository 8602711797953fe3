"""What settings must be, and what is said of those that cannot work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import UnionType
from typing import Any

from async_session.errors import ConfigurationError
from async_session.serializers import OUR_IDS, MsgpackSerializer, TaggedJSONSerializer

__all__ = ["as_clock", "check_choices", "seconds"]

_CHOICES = {
    "on_conflict": ("merge", "overwrite", "raise"),
    "on_gone": ("drop", "raise"),
    "on_store_error": ("raise", "anonymous"),
}
_SWITCHES = ("permanent", "refresh_each_request", "detect_mutation", "reject_unsafe")
_WHOLE: tuple[type | UnionType, str] = (int, "whole number")
_LEAST: Mapping[str, tuple[float, type | UnionType, str]] = {
    "refresh_interval": (0, *_WHOLE),
    "timeout": (0.001, int | float, "number"),
    "clock_skew": (0, *_WHOLE),
    "max_size": (1024, *_WHOLE),
}


def check_choices(policy: Any) -> None:
    """Refuse a `SessionPolicy` with a value that cannot work; the message says what to write."""
    for name, choices in _CHOICES.items():
        if getattr(policy, name) not in choices:
            raise ConfigurationError(
                f"{name}={getattr(policy, name)!r} is not known: use one of {choices}"
            )
    for name, (least, kind, what) in _LEAST.items():
        value = getattr(policy, name)
        wrong = isinstance(value, bool) or not isinstance(value, kind)
        if wrong or not value >= least:  # no bound is met by nan
            raise ConfigurationError(
                f"{name}={value!r} cannot work: write a {what}, at least {least}"
            )
    for name in _SWITCHES:
        if not isinstance(getattr(policy, name), bool):
            raise ConfigurationError(
                f"{name}={getattr(policy, name)!r} cannot work: write True or False"
            )
    if not isinstance(policy.merge, Mapping):
        raise ConfigurationError(
            f'merge={policy.merge!r} is no dict of resolvers: write {{"hits": merge.add}}'
        )
    for key, resolver in policy.merge.items():
        if not callable(resolver):
            raise ConfigurationError(
                f"merge[{key!r}] is {resolver!r}: write a function of (base, mine, theirs)"
            )
    if policy.serializer is not None:
        _check_serializer(policy.serializer)


def _check_serializer(value: Any) -> None:
    if isinstance(value, type) or not all(
        callable(getattr(value, name, None)) for name in ("dumps", "loads")
    ):
        raise ConfigurationError(
            f"serializer={value!r} is no serializer: write MsgpackSerializer() or an object with "
            "id, dumps() and loads()"
        )
    if isinstance(value, TaggedJSONSerializer | MsgpackSerializer):
        return
    own_id = getattr(value, "id", None)
    if type(own_id) is not int or not OUR_IDS <= own_id < 256:
        raise ConfigurationError(
            f"serializer.id={own_id!r} cannot work: write a whole number from {OUR_IDS} to 255, "
            "and never change it"
        )


def seconds(name: str, value: object) -> int:
    """Return a lifetime in whole seconds, rounded down as in Flask."""
    if isinstance(value, timedelta):
        return int(value.total_seconds())
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigurationError(
            f"{name}={value!r} is no length of time: write seconds or a timedelta"
        )
    return int(value)


def as_clock(value: Callable[[], float]) -> Callable[[], float]:
    """Return `value` if it can be a clock; refuse all else."""
    if not callable(value):
        raise ConfigurationError(
            f"clock={value!r} is no clock: write a function of no arguments, such as time.time"
        )
    return value
