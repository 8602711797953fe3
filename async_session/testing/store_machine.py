"""Any sequence of calls to a store, compared with a dict that knows when its values may go."""

from __future__ import annotations

import asyncio
import secrets
from typing import NamedTuple, get_args

from ..stores.base import VERSION_SIZE, Match, SupportsSweep
from ._machine import StoreUser
from .cancelling import Cancellation, WayToCancel

# `_machine` comes first: it says what to install where hypothesis is missing.
from hypothesis import strategies as st  # isort: skip
from hypothesis.stateful import precondition, rule  # isort: skip

__all__ = ["StoreMachine"]

_SLOTS = st.integers(0, 2)
_TTLS = st.sampled_from([60, 600])
_TAILS = st.binary(max_size=20)
_MATCHES = st.sampled_from(["any", "absent", "current", "replaced", "never"])


class _Kept(NamedTuple):
    """What was stored last under a key, and until when the store has to keep it."""

    value: bytes
    until: float


class StoreMachine(StoreUser):
    """Make any sequence of calls to a store, and compare every answer with a model.

    The model is a dict: a value is there until its ttl has passed, and from then on it may be
    there. Calls are made one after the other, several at once with one precondition, and cancelled
    at an await point.

    A state machine of hypothesis: override `make_store`, and run the attribute ``TestCase`` with
    unittest or pytest, or the class with `hypothesis.stateful.run_state_machine_as_test`. Needs
    hypothesis; runs on asyncio.
    """

    def __init__(self) -> None:
        super().__init__()
        common = secrets.token_hex(32)[:-1]
        # They differ in one digit only, and are nobody else's.
        self._keys = [f"{common}{digit:x}" for digit in range(3)]
        self._model: dict[str, _Kept] = {}
        self._versions: dict[str, list[bytes]] = {key: [] for key in self._keys}
        self._drawn = 0

    # What may be found

    def _possible(self, key: str) -> set[bytes | None]:
        kept = self._model.get(key)
        if kept is None:
            return {None}
        return {kept.value} if self.now < kept.until else {kept.value, None}

    def _now_holds(self, key: str, value: bytes | None, ttl: int = 0) -> None:
        if value is None:
            self._model.pop(key, None)
        elif ttl:
            self._model[key] = _Kept(value, self.now + ttl)

    async def _look(self) -> None:
        for key in self._keys:
            possible = self._possible(key)
            found = await self.store.open(key)
            assert found in possible, f"open({key}) is {found!r}, not one of {possible}"
            self._now_holds(key, found)

    # What is asked for

    def _value(self, key: str, tail: bytes) -> bytes:
        self._drawn += 1
        version = self._drawn.to_bytes(VERSION_SIZE, "big")
        self._versions[key].append(version)
        return version + tail

    def _match(self, key: str, kind: str) -> Match | bytes:
        kept, versions = self._model.get(key), self._versions[key]
        if kind == "current" and kept is not None:
            return kept.value[:VERSION_SIZE]
        if kind == "replaced" and len(versions) > 1:
            return versions[-2]
        return {"any": Match.ANY, "absent": Match.ABSENT}.get(kind, b"\xff" * VERSION_SIZE)

    @rule(slot=_SLOTS, ttl=_TTLS, tail=_TAILS, kind=_MATCHES)
    def save(self, slot: int, ttl: int, tail: bytes, kind: str) -> None:
        """Save a value under each sort of precondition."""
        key = self._keys[slot]
        match, value = self._match(key, kind), self._value(key, tail)
        saved = self.run(self.store.save(key, value, ttl=ttl, match=match))
        left = {found for found in self._possible(key) if _holds(found, match) is saved}
        assert left, f"save(match={match!r}) is {saved} where {self._possible(key)} may be"
        if saved:
            self._now_holds(key, value, ttl)
        elif left == {None}:
            self._now_holds(key, None)
        self.run(self._look())

    @rule(slot=_SLOTS)
    def delete(self, slot: int) -> None:
        """Delete a value."""
        self.run(self.store.delete(self._keys[slot]))
        self._now_holds(self._keys[slot], None)
        self.run(self._look())

    @rule(slot=_SLOTS, ttl=_TTLS, kind=_MATCHES.filter(lambda kind: kind != "any"))
    def save_at_once(self, slot: int, ttl: int, kind: str) -> None:
        """Save three values at once, all with the same precondition: at most one is stored."""
        key = self._keys[slot]
        match = self._match(key, kind)
        values = [self._value(key, b"") for _ in range(3)]

        async def at_once() -> list[bool]:
            calls = (self.store.save(key, value, ttl=ttl, match=match) for value in values)
            return await asyncio.gather(*calls)

        saved = self.run(at_once())
        possible = {int(_holds(found, match)) for found in self._possible(key)}
        assert sum(saved) in possible, f"{saved} of three saves at once with match={match!r}"
        if any(saved):
            self._now_holds(key, values[saved.index(True)], ttl)
        self.run(self._look())

    @rule(
        slot=_SLOTS,
        ttl=_TTLS,
        tail=_TAILS,
        kind=_MATCHES,
        point=st.integers(0, 3),
        way=st.sampled_from(get_args(WayToCancel)),
    )
    def save_cancelled(
        self, slot: int, ttl: int, tail: bytes, kind: str, point: int, way: WayToCancel
    ) -> None:
        """Cancel a save at an await point: it was made whole, or not at all."""
        key = self._keys[slot]
        match, value = self._match(key, kind), self._value(key, tail)
        possible = self._possible(key)
        self.run(Cancellation(way, point).run(self.store.save(key, value, ttl=ttl, match=match)))
        found = self.run(self.store.open(key))
        if any(_holds(before, match) for before in possible):
            possible |= {value}
        assert found in possible, f"after a cancelled save {found!r}, not one of {possible}"
        self._now_holds(key, found, ttl if found == value else 0)
        self.run(self._look())

    @rule(seconds=st.sampled_from([1, 59, 60, 541]))
    def advance(self, seconds: int) -> None:
        """Let time pass, for a store that reads this machine's clock."""
        self.now += seconds
        self.run(self._look())

    @precondition(lambda self: isinstance(self.store, SupportsSweep))
    @rule()
    def sweep(self) -> None:
        """Let the store collect what has expired."""
        assert isinstance(self.store, SupportsSweep)
        assert self.run(self.store.sweep()) >= 0
        self.run(self._look())


def _holds(found: bytes | None, match: Match | bytes) -> bool:
    if isinstance(match, bytes):
        return found is not None and found[:VERSION_SIZE] == match
    return match is Match.ANY or found is None
