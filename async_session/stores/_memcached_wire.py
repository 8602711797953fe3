"""Memcached's text protocol as bytes. No I/O: `_memcached_link` moves them."""

from __future__ import annotations

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
    return Request(((b"gets " if with_cas else b"get ") + key + _END_OF_LINE,), key, _READ)


def writing(verb: bytes, key: bytes, value: bytes, *, exptime: int, cas: bytes = b"") -> Request:
    """Store a value: ``set`` always, ``add`` if there is none, ``cas`` if it is still that one."""
    line = b"%b %b 0 %d %d" % (verb, key, exptime, len(value))
    if verb == b"cas":
        line += b" " + cas
    return Request((line + _END_OF_LINE, value, _END_OF_LINE), key, _WRITTEN[verb])


def deletion(key: bytes) -> Request:
    """Remove a value."""
    return Request((b"delete " + key + _END_OF_LINE,), key, _DELETED)


def check(request: Request, reply: Reply) -> None:
    """Raise `OutOfStep` unless `reply` can be the answer to `request`."""
    if reply.status not in request.answers and not reply.is_refusal:
        raise OutOfStep(f"it answered {spoken(reply.line)}")
    if reply.status == b"VALUE" and reply.key != request.key:
        raise OutOfStep("it answered with the value of another key")


class Replies:
    """Cut a stream of bytes into replies, however it was cut on its way."""

    def __init__(self) -> None:
        self._buffer = b""
        #: Where in the buffer the next reply begins.
        self._at = 0
        self._chunks: list[bytes] = []
        #: How many bytes have to come before it is worth looking again.
        self._missing = 0

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._chunks.append(data)
        self._missing -= len(data)

    def next(self) -> Reply | None:
        """Return the next reply, or None until more bytes have come.

        Raises:
            OutOfStep: these bytes are not memcached's.
        """
        if self._missing > 0:
            return None
        if self._chunks:
            if self._at < len(self._buffer):
                self._chunks.insert(0, self._buffer[self._at :])
            self._buffer = b"".join(self._chunks)
            self._at = 0
            self._chunks.clear()
        end = self._buffer.find(_END_OF_LINE, self._at)
        if end < 0:
            if len(self._buffer) - self._at > _MAX_LINE:
                raise OutOfStep("it does not speak memcached's protocol")
            self._missing = 1
            return None
        line = self._buffer[self._at : end]
        status = line.partition(b" ")[0]
        if status == b"VALUE":
            return self._value(line, end + len(_END_OF_LINE))
        self._at = end + len(_END_OF_LINE)
        return Reply(status, line)

    def _value(self, line: bytes, start: int) -> Reply | None:
        """Return the reply whose first line is `line` and whose data begins at `start`."""
        try:
            _, key, _, size, *cas = line.split(b" ")
            stop = start + int(size)
        except ValueError:
            raise OutOfStep("it sent the head of a value that cannot be read") from None
        after = stop + len(_END_OF_VALUE)
        self._missing = after - len(self._buffer)
        if self._missing > 0:
            return None
        # One key was asked for, so nothing else can follow its value.
        if stop < start or self._buffer[stop:after] != _END_OF_VALUE:
            raise OutOfStep("it sent a value that does not end where it said")
        self._at = after
        return Reply(b"VALUE", line, key, cas[0] if cas else b"", self._buffer[start:stop])


def spoken(line: bytes) -> str:
    """Return a line for a person to read, if it is the server that speaks in it."""
    if line.partition(b" ")[0] in _SPOKEN:
        return repr(line[:200].decode("ascii", "backslashreplace"))
    return "something else than was asked"
