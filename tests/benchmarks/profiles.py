"""Where the time of a request goes: a timer interrupts the run and notes which function is at work.

What a function of C does counts for the function of Python that called it. The garbage collector
is told apart by a callback of its own, in which Python takes note of an interruption that came
while it was running.
"""

from __future__ import annotations

import functools
import gc
import signal
import time
from collections import Counter
from collections.abc import Mapping
from types import FrameType
from typing import Any

from drive import Call
from measure import Key, many

__all__ = ["GROUPS", "PROFILED", "shares"]

#: Seconds between two looks: no divisor of what else is regular.
_EVERY = 0.00073

#: What is told apart, by parts of the paths of its files. The first that fits is taken.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "collector": (__file__,),
    "view": ("/tests/benchmarks/", "<string>"),
    "store": ("/async_session/stores/",),
    "record": ("/async_session/record.py",),
    "serializer": (
        *("/async_session/serializers.py", "/async_session/codec.py", "/async_session/_json.py"),
        *("/async_session/_packing.py", "/async_session/_tags.py", "/json/"),
    ),
    "engine": (
        *("/async_session/tokens.py", "/async_session/opening.py", "/async_session/manager.py"),
        *("/async_session/plan.py", "/async_session/policy.py", "/async_session/events.py"),
    ),
    "dict": ("/async_session/session.py", "/async_session/tracking.py"),
    "writes": (
        *("/async_session/commits.py", "/async_session/updates.py", "/async_session/guarded.py"),
        *("/async_session/turns.py", "/async_session/writers.py", "/async_session/_aio.py"),
    ),
    "adapter": ("/async_session/",),
    "loop": ("/asyncio/", "/selectors.py"),
    "framework": ("",),
}

_LEAST, _OURS = "the least", "async_session"
#: What is looked at, as keys of the run: the least, ours, and the bare apps that both stand on.
PROFILED: tuple[Key, ...] = (
    ("bare", "starlette", 0),
    *((who, "starlette", "memory", "C", 200) for who in (_LEAST, _OURS)),
    *((who, "starlette", "redis", "C", 200) for who in (_LEAST, _OURS)),
    *((who, "starlette", "redis", "C", 4096) for who in (_LEAST, _OURS)),
    *((who, "starlette", "redis", "E", 200) for who in (_LEAST, _OURS)),
    *((who, "starlette", "redis", "D", 200) for who in (_LEAST, _OURS)),
    *((who, "starlette", "redis", "D", 4096) for who in (_LEAST, _OURS)),
    *((who, "starlette", "memcached", "C", 200) for who in (_LEAST, _OURS)),
    ("bare", "quart", 0),
    *((who, "quart", "redis", "C", 200) for who in (_LEAST, _OURS)),
)


@functools.cache
def _group_of(path: str) -> str:
    return next(name for name, parts in GROUPS.items() if any(part in path for part in parts))


def _seen_by_the_collector(phase: str, info: Mapping[str, Any]) -> None:
    """Give Python a function to be in when the collector has done its work."""


async def shares(call: Call, *, at_once: int, seconds: float) -> Mapping[str, float]:
    """Return what part of a call's time each of `GROUPS` takes, looking for so many seconds."""
    counts: Counter[str] = Counter()

    def look(number: int, frame: FrameType | None) -> None:
        if frame is not None:
            counts[_group_of(frame.f_code.co_filename)] += 1

    await many(call, 1000, at_once)
    gc.collect()
    gc.freeze()
    gc.callbacks.append(_seen_by_the_collector)
    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _EVERY, _EVERY)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            await many(call, 2000, at_once)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.callbacks.remove(_seen_by_the_collector)
        gc.unfreeze()
    return {name: counts[name] / counts.total() for name in GROUPS}
