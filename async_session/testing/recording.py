"""Stores for tests that stand in front of another: one takes notes, one fails on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import anyio

from ..errors import StoreUnavailable
from ..stores.base import Match, SessionStore

__all__ = ["FaultyStore", "RecordingStore", "Verb"]

Verb = Literal["open", "save", "delete"]


class _InFront:
    """Offer what the store behind offers beyond the three verbs, and nothing that it does not."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        # On the object, because a runtime protocol looks for real attributes.
        for name in ("deadline", "in_order", "sweep", "aclose"):
            if hasattr(store, name):
                setattr(self, name, getattr(store, name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"


class RecordingStore(_InFront):
    """Pass every call on to `store`, and note it.

    Attributes:
        store: the store behind.
        calls: ``(verb, key)`` of every call in the order of their beginning, also of one that
            failed. Empty it with ``calls.clear()``.
    """

    def __init__(self, store: SessionStore) -> None:
        super().__init__(store)
        self.calls: list[tuple[str, str]] = []

    async def open(self, key: str, /) -> bytes | None:
        """Note the call and pass it on."""
        self.calls.append(("open", key))
        return await self.store.open(key)

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Note the call and pass it on."""
        self.calls.append(("save", key))
        return await self.store.save(key, data, ttl=ttl, match=match)

    async def delete(self, key: str, /) -> None:
        """Note the call and pass it on."""
        self.calls.append(("delete", key))
        await self.store.delete(key)


@dataclass(slots=True)
class _Fault:
    verb: Verb
    skip: int
    times: int | None
    after: bool
    error: BaseException | None

    def strikes(self, verb: str) -> bool:
        """Count a call; tell whether this fault is for it."""
        if verb != self.verb or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True

    async def strike(self) -> None:
        if self.error is None:
            await anyio.sleep_forever()
        else:
            raise self.error


class FaultyStore(_InFront):
    """Pass calls on to `store`, except those that `fail` or `hang` choose.

    Of several faults for one call the first that was set strikes; the others do not count it.
    """

    def __init__(self, store: SessionStore) -> None:
        super().__init__(store)
        self._faults: list[_Fault] = []

    def fail(
        self,
        verb: Verb,
        *,
        times: int | None = 1,
        skip: int = 0,
        error: BaseException | None = None,
        after: bool = False,
    ) -> None:
        """Let the next calls of `verb` raise.

        Args:
            verb: ``"open"``, ``"save"`` or ``"delete"``.
            times: how many calls; None for every one until `heal`.
            skip: how many calls to let pass first.
            error: what to raise; a `StoreUnavailable` if None.
            after: make the call, then raise: the answer is lost, the write is not.
        """
        error = error or StoreUnavailable(f"the test let {verb} fail")
        self._faults.append(_Fault(verb, skip, times, after, error))

    def hang(
        self, verb: Verb, *, times: int | None = 1, skip: int = 0, after: bool = False
    ) -> None:
        """Let the next calls of `verb` wait until they are cancelled. Arguments as for `fail`."""
        self._faults.append(_Fault(verb, skip, times, after, None))

    def heal(self) -> None:
        """Forget every fault: from now on all calls pass."""
        self._faults.clear()

    async def open(self, key: str, /) -> bytes | None:
        """Pass the call on, or fail."""
        fault = await self._before("open")
        value = await self.store.open(key)
        if fault is not None:
            await fault.strike()
        return value

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Pass the call on, or fail."""
        fault = await self._before("save")
        saved = await self.store.save(key, data, ttl=ttl, match=match)
        if fault is not None:
            await fault.strike()
        return saved

    async def delete(self, key: str, /) -> None:
        """Pass the call on, or fail."""
        fault = await self._before("delete")
        await self.store.delete(key)
        if fault is not None:
            await fault.strike()

    async def _before(self, verb: Verb) -> _Fault | None:
        """Strike now if that is due; return a fault that strikes after the call."""
        fault = next((fault for fault in self._faults if fault.strikes(verb)), None)
        if fault is None or fault.after:
            return fault
        await fault.strike()
        return None
