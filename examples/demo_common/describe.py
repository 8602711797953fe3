"""What the page "Under the hood" shows of a visitor's own session.

An app has no business with any of this: a session is a dict. This file opens the stored record
beside the library's back, to show that there is no magic in it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from async_session import Session, SessionStore, StoreError
from async_session.record import CorruptRecord, Record, decode

from .settings import COOKIE, session_directory
from .watch import Watch

#: What browsers do with each attribute.
MEANINGS = {
    "Expires": "kept until then",
    "Max-Age": "the same, in seconds",
    "Secure": "sent over HTTPS only",
    "HttpOnly": "no script on a page can read it",
    "Path": "sent with every address below this one",
    "SameSite": "forms on other sites cannot send it",
}


@dataclass(frozen=True)
class CookieView:
    """The visitor's own cookie, shortened: a screenshot of it opens nothing."""

    name: str
    id: str
    signature: str
    #: (name, value, meaning)
    attributes: list[tuple[str, str, str]]
    secure: bool


@dataclass(frozen=True)
class RecordView:
    """A stored record, field by field."""

    path: str
    size: int
    format_byte: str
    version: str
    created: datetime
    written: datetime
    written_ago: str
    owner: str | None
    extras: Mapping[str, object]
    serializer: int
    payload: str


@dataclass(frozen=True)
class Hood:
    """All that the page shows of a session that is stored."""

    handle: str
    cookie: CookieView
    record: RecordView | None


async def look(
    session: Session, *, cookie: str | None, store: SessionStore, watch: Watch
) -> Hood | None:
    """Return what there is to see of a session; None if it is not stored.

    Args:
        session: the request's.
        cookie: the value that came with it.
        store: the store itself, not the one that takes notes: this reading is not the library's.
        watch: knows what the cookie was sent with.
    """
    handle = session.handle
    if not cookie or session.new or handle is None:
        return None
    try:
        data = await store.open(handle) or b""
        record = decode(data)
    except (StoreError, CorruptRecord):
        data, record = b"", None
    view = _record_view(handle, data, record) if isinstance(record, Record) else None
    return Hood(handle, _cookie_view(cookie, watch.attributes(handle)), view)


def _cookie_view(value: str, attributes: str | None) -> CookieView:
    session_id, _, signature = value.partition(".")
    parts = [part.partition("=")[::2] for part in attributes.split("; ")] if attributes else []
    return CookieView(
        COOKIE,
        session_id[:5],
        signature[:5],
        [(name, text, MEANINGS.get(name, "")) for name, text in parts],
        any(name == "Secure" for name, _ in parts),
    )


def _record_view(handle: str, data: bytes, record: Record) -> RecordView:
    return RecordView(
        # How FileSystemStore lays out its directory.
        path=os.path.join(session_directory(), handle[:2], handle),
        size=len(data),
        format_byte=record.version[:1].hex(),
        version=record.version[1:].hex(),
        created=datetime.fromtimestamp(record.created, UTC),
        written=datetime.fromtimestamp(record.written, UTC),
        written_ago=_ago(time.time() - record.written),
        owner=str(record.extras["owner"]) if "owner" in record.extras else None,
        extras=record.extras,
        serializer=record.serializer,
        payload=_pretty(record.payload),
    )


def _pretty(payload: bytes) -> str:
    try:
        return json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    except ValueError:
        return payload.decode("utf-8", "replace")


def _ago(seconds: float) -> str:
    if seconds < 2:
        return "just now"
    if seconds < 120:
        return f"{seconds:.0f} seconds ago"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes ago"
    return f"{seconds / 3600:.0f} hours ago"
