"""What the replays share, and what they came to: counts at the end of the test run."""

from __future__ import annotations

from pathlib import Path

import pytest
from blockbuster import BlockBuster
from golden_replay.replay import Report
from golden_replay.subjects import STATIC

_lines: list[str] = []


@pytest.fixture(scope="session")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for static files, with one in it."""
    directory = tmp_path_factory.mktemp("static")
    for name, text in STATIC.items():
        (directory / name).write_text(text)
    return directory


@pytest.fixture(autouse=True)
def _quart_may_block(blockbuster: BlockBuster) -> None:
    """Let Quart look for a static file as it does: in the event loop."""
    blockbuster.functions["os.stat"].can_block_in("quart/helpers.py", "send_from_directory")


@pytest.fixture(scope="session")
def report() -> Report:
    """Add a line to what is printed when all tests have run."""
    return _lines.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _lines:
        terminalreporter.section("Flask's cookie rules")
        for line in _lines:
            terminalreporter.write_line(line)
