"""What the state machines share: hypothesis, an event loop, a clock, and a store to close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..errors import ConfigurationError
from ..stores.base import Match, SessionStore, SupportsClose
from ..stores.memory import MemoryStore
from .recording import RecordingStore

try:
    from hypothesis.stateful import RuleBasedStateMachine
except ImportError as error:
    raise ConfigurationError(
        "the state machines of async_session.testing need hypothesis: pip install hypothesis"
    ) from error

__all__ = ["AgeingStore", "StoreUser"]

T = TypeVar("T")


class StoreUser(RuleBasedStateMachine):
    """A state machine that makes asynchronous calls to a store; one object is one example."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_900_000_000
        self._runner: asyncio.Runner | None = None
        self.store = self.make_store()

    def make_store(self) -> SessionStore:
        """Return the store for one example. Override it; keys are random, nothing is flushed.

        A store that takes a clock gets `clock`, so that time passes for it. For one that does not,
        everything happens at once.
        """
        return MemoryStore(clock=self.clock)

    def clock(self) -> float:
        """Return the time of the example, in seconds."""
        return self.now

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, in an asyncio event loop of the example's own unless overridden."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(coroutine)

    def teardown(self) -> None:
        """Close the store, and the event loop. Override it for what outlives an example."""
        if isinstance(self.store, SupportsClose):
            self.run(self.store.aclose())
        if self._runner is not None:
            self._runner.close()


class AgeingStore(RecordingStore):
    """Take away what has expired by the clock of a machine, from a store that has another one."""

    def __init__(self, store: SessionStore, clock: Callable[[], float]) -> None:
        super().__init__(store)
        self._clock = clock
        self._until: dict[str, float] = {}

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        saved = await super().save(key, data, ttl=ttl, match=match)
        if saved:
            self._until[key] = self._clock() + ttl
        return saved

    async def values(self) -> dict[str, bytes | None]:
        """Return what is stored under each key that was ever saved, after taking away the rest."""
        for key in [key for key, until in self._until.items() if until <= self._clock()]:
            await self.store.delete(key)
            del self._until[key]
        return {key: await self.store.open(key) for key in self._until}
