"""The commands of a store, as Redis reads them (RESP, which its documentation describes).

A driver's own way to write a command costs it as much as everything else that a read does.
"""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["get", "packed", "put", "remove", "replace", "with_script"]

#: The only thing Redis cannot do in one command: replace a value that begins with a version.
_SCRIPT: Final = b"""
if redis.call('GETRANGE', KEYS[1], 0, 15) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""


def packed(*items: bytes | str | int) -> bytes:
    """Return any command, from its words."""
    parts = [b"*%d\r\n" % len(items)]
    for item in items:
        data = item if isinstance(item, bytes) else str(item).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def get(name: bytes) -> bytes:
    """Read a value."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name)


def put(name: bytes, data: bytes, ttl: int, *, only_new: bool) -> bytes:
    """Write a value for `ttl` seconds; with `only_new`, only where there is none."""
    condition = (b"NX",) if only_new else ()
    return packed(b"SET", name, data, b"EX", ttl, *condition)


# EVALSHA and EVAL, up to their key.
_BY_HASH: Final = packed(b"EVALSHA", hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest(), 1)
_BY_TEXT: Final = packed(b"EVAL", _SCRIPT, 1)
_WORDS: Final = len(b"*3")


def replace(name: bytes, version: bytes, data: bytes, ttl: int) -> bytes:
    """Write a value for `ttl` seconds, if the one that is there begins with `version`."""
    seconds = b"%d" % ttl
    return b"*7%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        _BY_HASH[_WORDS:],
        *(len(name), name),
        *(len(version), version),
        *(len(data), data),
        *(len(seconds), seconds),
    )


def with_script(command: bytes) -> bytes:
    """Return a `replace` that brings its script along, for a server that does not know it."""
    return command[:_WORDS] + _BY_TEXT[_WORDS:] + command[len(_BY_HASH) :]


def remove(name: bytes) -> bytes:
    """Remove a value."""
    return packed(b"DEL", name)
