"""Fixtures for the tests of faults."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from faults.networked import NETWORKED, Networked
from stores import leaves_sockets


@pytest.fixture
def anyio_backend() -> str:
    """Drivers of networked stores, and Quart, know asyncio only."""
    return "asyncio"


@pytest.fixture
def quiet() -> Iterator[None]:
    """Log nothing: Quart's traceback for each of many failures takes longer than they do."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(
    params=[
        pytest.param(name, marks=leaves_sockets if name == "mongodb" else ())
        for name in sorted(NETWORKED)
    ]
)
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Networked]:
    """Start a server of each kind in turn; the test may kill, restart and freeze it."""
    subject = NETWORKED[str(request.param)](tmp_path)
    try:
        subject.server.start()
        yield subject
    finally:
        subject.remove()
        gc.collect()  # here, where sockets that pymongo left are expected


@pytest.fixture
async def networked(started: Networked) -> AsyncIterator[Networked]:
    """The same; its stores are closed at the end."""
    yield started
    await started.aclose()
