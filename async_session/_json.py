"""JSON text by the functions in C that the `json` module keeps behind its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder
from typing import Any, NoReturn, cast

__all__ = ["encode", "scanner"]

Scan = Callable[[str, int], tuple[Any, int]]


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} is no JSON")


# What `JSONEncoder(separators=(",", ":"), check_circular=False)` makes anew for every call. No
# sorting, so that a dict keeps its order; no look-out for cycles: depth is bounded before.
_in_chunks = cast("Any", encoder).c_make_encoder(
    None, _refuse, encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)


def encode(value: object) -> str:
    """Return compact ASCII JSON."""
    return "".join(_in_chunks(value, 0))


def scanner(object_hook: Callable[[dict[str, Any]], object] | None = None) -> Scan:
    """Return what reads one value from a place in a text and says where it ends."""
    scan: Scan = cast("Any", json.JSONDecoder(object_hook=object_hook)).scan_once
    return scan
