"""Memcached's text protocol as bytes. No I/O: `_memcached_link` moves them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = [
    "OutOfStep",
    "Replies",
    "Reply",
    "Request",
    "check",
    "deletion",
    "reading",
    "spoken",
    "writing",
]

# A value's line is at most as long as its key and three numbers; an error's is a sentence.
_MAX_LINE: Final = 2048
_END_OF_LINE: Final = b"\r\n"
_END_OF_VALUE: Final = b"\r\nEND\r\n"
# Its reply when it could not do what it understood: one line, and the connection stays sound.
_REFUSAL: Final = b"SERVER_ERROR"
# What a server says about itself. Any other line might be a piece of somebody's data.
_SPOKEN: Final = (b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")


class OutOfStep(Exception):
    """The bytes are no answer to the request at the head of the line: give the connection up."""


class Request(NamedTuple):
    """What to send, and what may come back."""

    #: In pieces, so that a value is not copied until it is sent.
    parts: tuple[bytes, ...]
    size: int
    key: bytes
    answers: frozenset[bytes]


class Reply(NamedTuple):
    """One answer: its first word, and what came with it."""

    status: bytes
    #: The whole line, for a person to read.
    line: bytes
    key: bytes = b""
    cas: bytes = b""
    data: bytes = b""

    @property
    def is_refusal(self) -> bool:
        """Tell whether the server could not do what it was asked."""
        return self.status == _REFUSAL


_READ: Final = frozenset({b"VALUE", b"END"})
_DELETED: Final = frozenset({b"DELETED", b"NOT_FOUND"})
_WRITTEN: Final = {
    b"set": frozenset({b"STORED"}),
    b"add": frozenset({b"STORED", b"NOT_STORED"}),
    b"cas": frozenset({b"STORED", b"EXISTS", b"NOT_FOUND"}),
}


def reading(key: bytes, *, with_cas: bool = False) -> Request:
    """Ask for a value; `with_cas`, also for the number that a guarded write needs."""
    line = (b"gets %b\r\n" if with_cas else b"get %b\r\n") % key
    # As `Request(...)`, without a call of Python's: this is the path of every request.
    return tuple.__new__(Request, ((line,), len(line), key, _READ))


def writing(verb: bytes, key: bytes, value: bytes, *, exptime: int, cas: bytes = b"") -> Request:
    """Store a value: ``set`` always, ``add`` if there is none, ``cas`` if it is still that one."""
    line = b"%b %b 0 %d %d" % (verb, key, exptime, len(value))
    if verb == b"cas":
        line += b" " + cas
    parts = (line + _END_OF_LINE, value, _END_OF_LINE)
    return Request(parts, sum(map(len, parts)), key, _WRITTEN[verb])


def deletion(key: bytes) -> Request:
    """Remove a value."""
    line = b"delete %b\r\n" % key
    return Request((line,), len(line), key, _DELETED)


def check(request: Request, reply: Reply) -> None:
    """Raise `OutOfStep` unless `reply` can be the answer to `request`."""
    status, line, key, _, _ = reply
    if status not in request.answers and status != _REFUSAL:
        raise OutOfStep(f"it answered {spoken(line)}")
    if status == b"VALUE" and key != request.key:
        raise OutOfStep("it answered with the value of another key")


class Replies:
    """Cut a stream of bytes into replies, however it was cut on its way."""

    def __init__(self) -> None:
        #: What came and is no whole reply yet.
        self._pieces: list[bytes] = []
        #: How many bytes have to come before it is worth looking again.
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[Reply]:
        """Take what came; yield each reply that is whole now. Take all of them.

        Raises:
            OutOfStep: these bytes are not memcached's.
        """
        self._pieces.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return
        buffer, at, self._missing = b"".join(self._pieces), 0, 1
        while (end := buffer.find(_END_OF_LINE, at)) >= 0:
            line = buffer[at:end]
            words = line.split(b" ")
            start = end + len(_END_OF_LINE)
            if words[0] != b"VALUE":
                at = start
                yield Reply(words[0], line)
                continue
            try:
                stop = start + int(words[3])
            except (IndexError, ValueError):
                raise OutOfStep("it sent the head of a value that cannot be read") from None
            after = stop + len(_END_OF_VALUE)
            if after > len(buffer):
                self._missing = after - len(buffer)
                break
            # One key was asked for, so nothing else can follow its value.
            if stop < start or not buffer.startswith(_END_OF_VALUE, stop):
                raise OutOfStep("it sent a value that does not end where it said")
            at = after
            cas = words[4] if len(words) > 4 else b""
            # As `Reply(...)`; see `reading`.
            yield tuple.__new__(Reply, (b"VALUE", line, words[1], cas, buffer[start:stop]))
        self._pieces = [buffer[at:]]
        if end < 0 and len(buffer) - at > _MAX_LINE:
            raise OutOfStep("it does not speak memcached's protocol")


def spoken(line: bytes) -> str:
    """Return a line for a person to read, if it is the server that speaks in it."""
    if line.partition(b" ")[0] in _SPOKEN:
        return repr(line[:200].decode("ascii", "backslashreplace"))
    return "something else than was asked"
