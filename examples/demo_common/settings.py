"""Where the sessions are kept, what signs their cookies, and what happens in doubt."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from async_session import SessionPolicy, merge

EXAMPLES = Path(__file__).resolve().parents[1]
TEMPLATES = EXAMPLES / "demo_common" / "templates"

#: The name that both adapters give the cookie unless told otherwise.
COOKIE = "session"

#: A click in two tabs at the very same moment counts two. Notes need no such entry: lists that
#: both requests appended to are merged anyway.
POLICY = SessionPolicy(merge={"count": merge.add})

MAX_NAME = 40
MAX_NOTE = 100
MAX_NOTES = 12


def secret_key() -> str:
    """Return DEMO_SECRET, or a key that is drawn now.

    A drawn key lives as long as this process: after a restart every cookie is a stranger's, and
    two processes would not know each other's. An app of yours reads its key from its
    configuration.
    """
    return os.environ.get("DEMO_SECRET") or secrets.token_hex()


def session_directory() -> Path:
    """Return DEMO_SESSIONS, or the directory `sessions` among the examples, which both share."""
    return Path(os.environ.get("DEMO_SESSIONS") or EXAMPLES / "sessions")


def clean(text: str, longest: int) -> str:
    """Return what a visitor wrote, on one line and not too long. Empty if there is nothing."""
    return " ".join(text.split())[:longest]
