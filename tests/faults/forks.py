"""Children of the test's process, made by a real fork: to be killed, and to share what they may."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

Say = Callable[[Any], None]


Ending = tuple[list[Any], int]


def forked(job: Callable[[Say], None]) -> Ending:
    """Run `job` in a forked child; return what it said and how it ended (a signal is below 0)."""
    return fork(job)()


def fork(job: Callable[[Say], None], *, seconds: float = 8) -> Callable[[], Ending]:
    """Start `job` in a forked child; return what waits for it, as `forked` does."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: this process has threads
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            job(lambda what: _say(write, what))
            code = 0
        except BaseException:
            _say(write, traceback.format_exc())
        finally:
            os._exit(code)
    os.close(write)
    return lambda: _wait(pid, read, time.monotonic() + seconds)


def _wait(pid: int, read: int, ends: float) -> Ending:
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > ends:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    with os.fdopen(read) as lines:
        return [json.loads(line) for line in lines], os.waitstatus_to_exitcode(done[1])


def _say(pipe: int, what: Any) -> None:
    os.write(pipe, json.dumps(what).encode() + b"\n")
