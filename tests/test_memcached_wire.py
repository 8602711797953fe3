"""Memcached's protocol as bytes: what is sent, and what is read however it arrives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_session.stores import _memcached_wire as wire

KEY = b"session:" + b"a" * 64
VALUE = b"\x80" + b"0123456789abcdef" + b"\r\nEND\r\n"


def reply_of(*pieces: bytes) -> list[wire.Reply]:
    """Feed the pieces one after the other; return all replies."""
    replies = wire.Replies()
    return [reply for piece in pieces for reply in replies.feed(piece)]


def value(data: bytes, *, cas: bytes = b"") -> bytes:
    head = b"VALUE %b 0 %d" % (KEY, len(data))
    return head + (b" " + cas if cas else b"") + b"\r\n" + data + b"\r\nEND\r\n"


@pytest.mark.parametrize(
    ("request_", "sent"),
    [
        (wire.reading(KEY), b"get " + KEY + b"\r\n"),
        (wire.reading(KEY, with_cas=True), b"gets " + KEY + b"\r\n"),
        (wire.writing(b"set", KEY, b"ab", exptime=31), b"set " + KEY + b" 0 31 2\r\nab\r\n"),
        (wire.writing(b"add", KEY, b"", exptime=31), b"add " + KEY + b" 0 31 0\r\n\r\n"),
        (
            wire.writing(b"cas", KEY, b"ab", exptime=31, cas=b"77"),
            b"cas " + KEY + b" 0 31 2 77\r\nab\r\n",
        ),
        (wire.deletion(KEY), b"delete " + KEY + b"\r\n"),
    ],
    ids=["get", "gets", "set", "add", "cas", "delete"],
)
def test_what_is_sent(request_: wire.Request, sent: bytes) -> None:
    assert b"".join(request_.parts) == sent
    assert request_.size == len(sent)


_LINES = [
    b"STORED",
    b"NOT_STORED",
    b"EXISTS",
    b"NOT_FOUND",
    b"DELETED",
    b"END",
    b"SERVER_ERROR x y",
]
_streams = st.lists(
    st.one_of(
        st.sampled_from(_LINES).map(lambda line: line + b"\r\n"),
        st.one_of(st.just(VALUE), st.binary(max_size=60)).map(lambda data: value(data, cas=b"9")),
    ),
    max_size=6,
)


@given(_streams, st.data())
def test_replies_are_the_same_however_they_are_cut(
    stream: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    ends = [*cuts, len(whole)]
    pieces = [whole[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
    expected = [reply for one in stream for reply in reply_of(one)]
    assert len(expected) == len(stream)
    assert reply_of(*pieces) == expected
    assert reply_of(*(bytes([byte]) for byte in whole)) == expected


def test_what_a_value_says() -> None:
    (reply,) = reply_of(value(VALUE, cas=b"77"))
    assert (reply.status, reply.key, reply.cas, reply.data) == (b"VALUE", KEY, b"77", VALUE)
    (reply,) = reply_of(value(VALUE))
    assert reply.cas == b""


@pytest.mark.parametrize(
    "bytes_",
    [
        b"VALUE \r\n",
        b"VALUE k 0\r\n",
        b"VALUE k 0 x\r\n",
        b"VALUE k 0 -5\r\n" + bytes(20),
        b"VALUE k 0 3\r\nabcd\r\nEND\r\n",
        b"VALUE k 0 3\r\nabc\r\nVALUE",
        b"VALUE k 0 3\r\nabc\r\nSERVER_ERROR out of memory",
        b"x" * 3000,
    ],
)
def test_what_is_not_memcached(bytes_: bytes) -> None:
    with pytest.raises(wire.OutOfStep):
        reply_of(bytes_, b"")


_REQUESTS = {
    "get": (wire.reading(KEY), {b"END"}),
    "gets": (wire.reading(KEY, with_cas=True), {b"END"}),
    "set": (wire.writing(b"set", KEY, b"", exptime=1), {b"STORED"}),
    "add": (wire.writing(b"add", KEY, b"", exptime=1), {b"STORED", b"NOT_STORED"}),
    "cas": (
        wire.writing(b"cas", KEY, b"", exptime=1, cas=b"1"),
        {b"STORED", b"EXISTS", b"NOT_FOUND"},
    ),
    "delete": (wire.deletion(KEY), {b"DELETED", b"NOT_FOUND"}),
}


@pytest.mark.parametrize("verb", _REQUESTS)
def test_each_request_has_its_answers(verb: str) -> None:
    request_, good = _REQUESTS[verb]
    for line in [*_LINES, b"OK", b"ERROR", b"CLIENT_ERROR bad data chunk", b"", VALUE[:10]]:
        (reply,) = reply_of(line + b"\r\n")
        if line in good or reply.is_refusal:
            wire.check(request_, reply)
        else:
            with pytest.raises(wire.OutOfStep):
                wire.check(request_, reply)


def test_the_value_of_another_key_is_no_answer() -> None:
    (reply,) = reply_of(value(VALUE))
    wire.check(wire.reading(KEY), reply)
    with pytest.raises(wire.OutOfStep, match="another key"):
        wire.check(wire.reading(KEY[:-1] + b"b"), reply)
    with pytest.raises(wire.OutOfStep):
        wire.check(wire.deletion(KEY), reply)


def test_only_the_server_is_quoted() -> None:
    # Any other line might be a piece of a session.
    assert wire.spoken(b"CLIENT_ERROR bad \xff") == r"'CLIENT_ERROR bad \\xff'"
    assert "secret" not in wire.spoken(b"secret of ada")
