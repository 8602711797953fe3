"""The package's logger, and warnings that are given once.

A Python warning would break test suites that turn warnings into errors; a log line does not.
"""

from __future__ import annotations

import logging

__all__ = ["log", "warn_once"]

log = logging.getLogger("async_session")

_given: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning, unless the same was given before in this process."""
    if message not in _given:
        _given.add(message)
        log.warning(message)
