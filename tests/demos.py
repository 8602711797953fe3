"""The demos as real processes, for the tests that visit them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from servers import free_port

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SECRET = "the secret of the demos, of 32 bytes and more"


def command(name: str, server: str, port: int) -> list[str]:
    where = EXAMPLES / f"{name}_demo"
    if server == "uvicorn":
        return ["uvicorn", "app:app", "--app-dir", str(where), "--port", str(port)]
    return ["hypercorn", f"{where / 'app.py'}:app", "--bind", f"127.0.0.1:{port}"]


@contextmanager
def serving(name: str, server: str, directory: Path) -> Iterator[str]:
    """Run a demo, its sessions in `directory`/sessions, and give its address."""
    port = free_port()
    environment = {**os.environ, "DEMO_SECRET": SECRET, "DEMO_SESSIONS": "sessions"}
    log = directory / f"{name}-{server}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command(name, server, port)],
            cwd=directory,
            env=environment,
            stdout=output,
            stderr=output,
            process_group=0,  # hypercorn serves in a child of its own
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(process, address, log)
        yield address
    finally:
        stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            httpx.get(address, timeout=1)
            return
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the demo does not answer:\n{log.read_text()}")
            time.sleep(0.02)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server as Ctrl-C does; what is left of its process group at once."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def count_shown(page: str) -> int:
    found = re.search(r'data-count="(\d+)"', page)
    assert found is not None
    return int(found[1])
