"""A cancelled call leaves everything sound: the record, the connection, the next caller's answer.

Each test goes through every way to be cancelled that its event loop has.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from ...stores.base import Match, SessionStore
from ..cancelling import Cancellation, WayToCancel, cancel_everywhere, ways_to_cancel
from ._kit import TTL, KitTests, chosen, random_key, random_value

__all__ = ["CancellationTests"]

# Far more than any call of a store waits.
_MANY_POINTS = 200


class CancellationTests(KitTests):
    """What the contract says of calls that are cancelled."""

    async def test_a_cancelled_open_leaves_the_store_sound(self, store: SessionStore) -> None:
        """An `open` cancelled at any await point harms nothing."""
        key, value = random_key(), random_value(5000)
        await store.save(key, value, ttl=TTL)

        async def prepare() -> None:
            """Leave it as it is."""

        await _check_everywhere(store, lambda: store.open(key), key, {value}, prepare)
        assert await store.open(key) == value

    @pytest.mark.parametrize("kind", ["any", "absent", "version"])
    async def test_a_cancelled_save_is_whole_or_nothing(
        self, store: SessionStore, kind: str
    ) -> None:
        """A `save` cancelled at any await point was made whole or not at all.

        By a store that says `in_order`, it was made.
        """
        key, old, new = random_key(), random_value(5000), random_value(6000)
        matches: dict[str, Match | bytes] = {
            "any": Match.ANY,
            "absent": Match.ABSENT,
            "version": old[:16],
        }
        match = matches[kind]

        async def save() -> None:
            await store.save(key, new, ttl=TTL, match=match)

        async def prepare() -> None:
            await (store.delete(key) if kind == "absent" else store.save(key, old, ttl=TTL))

        allowed: set[bytes | None] = {new}
        if not getattr(store, "in_order", False):
            allowed.add(None if kind == "absent" else old)
        await _check_everywhere(store, save, key, allowed, prepare)

    async def test_a_cancelled_delete_is_whole_or_nothing(self, store: SessionStore) -> None:
        """A `delete` cancelled at any await point was made or was not."""
        key, old = random_key(), random_value(5000)

        async def prepare() -> None:
            await store.save(key, old, ttl=TTL)

        await _check_everywhere(store, lambda: store.delete(key), key, {old, None}, prepare)

    async def test_no_answer_reaches_another_caller(self, store: SessionStore) -> None:
        """With hundreds of calls cancelled in flight, each answer is its own key's."""
        values = {random_key(): random_value(64) for _ in range(20)}
        for key, value in values.items():
            await store.save(key, value, ttl=TTL)
        for way in ways_to_cancel():
            answers = await _answers_amid_cancellations(store, list(values), way)
            assert len(answers) > 50
            wrong = [pair for pair in answers if values[pair[0]] != pair[1]]
            assert wrong == [], f"cancelled by way of {way}"


async def _check_everywhere(
    store: SessionStore,
    call: Callable[[], Coroutine[Any, Any, object]],
    key: str,
    allowed: set[bytes | None],
    prepare: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Cancel `call` in every way, at each of its await points in turn: all must stay sound."""
    for cancellation in cancel_everywhere(at_most=_MANY_POINTS):
        await prepare()
        await cancellation.run(call())
        await _check_soundness(store, key, allowed, repr(cancellation))


async def _check_soundness(
    store: SessionStore, key: str, allowed: set[bytes | None], when: str
) -> None:
    """Check that `key` holds what it may, that another key works, and that nothing comes late."""
    found = await store.open(key)
    assert found in allowed, when
    other, first, second = random_key(), random_value(64), random_value(32)
    assert await store.save(other, first, ttl=TTL) is True, when
    assert await store.open(other) == first, when
    assert await store.save(other, second, ttl=TTL, match=first[:16]) is True, when
    assert await store.open(other) == second, when
    # What was cancelled does not land later, either.
    assert await store.open(key) == found, when


async def _answers_amid_cancellations(
    store: SessionStore, keys: list[str], way: WayToCancel
) -> list[tuple[str, bytes | None]]:
    """Open every key many times, among hundreds of calls that are cancelled while they wait."""
    answers: list[tuple[str, bytes | None]] = []

    async def live(key: str) -> None:
        answers.append((key, await store.open(key)))

    async with anyio.create_task_group() as tasks:
        for key in keys * 15:
            await anyio.lowlevel.checkpoint()
            chance = chosen.random()
            if chance < 0.25:
                tasks.start_soon(live, key)
                continue
            call = store.open(key) if chance < 0.6 else store.delete(random_key())
            tasks.start_soon(Cancellation(way, chosen.randrange(4)).run, call)
    for key in keys:
        await live(key)
    return answers
