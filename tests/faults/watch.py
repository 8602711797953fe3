"""How late an event loop is: what a request waited that no store is to blame for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Self

_PULSE = 0.005


class LoopWatch:
    """Measure the longest time for which the running loop did nothing else.

    Attributes:
        worst: that, in seconds.
    """

    worst = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        await asyncio.sleep(2 * _PULSE)  # it has begun, and what is blocked now is seen
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.sleep(2 * _PULSE)  # a loop that was blocked until now is seen, too
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_PULSE)
            self.worst = max(self.worst, time.monotonic() - began - _PULSE)
