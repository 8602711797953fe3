"""Closing the socket of a connection whose event loop was closed before it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

__all__ = ["close_socket"]


def close_socket(transport: asyncio.BaseTransport | None) -> None:
    """Close a transport's socket, which otherwise only its event loop could.

    The socket is taken away from the transport, which would warn that nobody closed it.
    """
    if transport is None:
        return
    aborting: Any = transport
    with contextlib.suppress(RuntimeError):  # marks it as closing, then misses its loop
        aborting.abort()
    raw: Any = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
    if getattr(raw, "_sock", None) is not None:
        raw._sock.close()
        raw._sock = None
