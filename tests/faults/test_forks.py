"""F-21: one store object, used in a process and then in a child that was forked from it."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any

import pytest
from faults.forks import Say, fork, forked
from stores import STORES

from async_session import StoreUnavailable

pytestmark = [pytest.mark.faults]


@pytest.fixture(autouse=True)
def blockbuster() -> None:
    """Let a child write to its pipe."""


@pytest.fixture(params=sorted(set(STORES) - {"memory"}))
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param](request)


def _key(who: str, number: int) -> str:
    return sha256(f"{who} {number}".encode()).hexdigest()


async def _use(store: Any, who: str) -> bool:
    """Write and read 30 values at once, five times; tell whether each answer was its own key's."""
    right = True
    for turn in range(5):
        values = {_key(who, n): b"%016d" % turn + f"{who} {n}".encode() for n in range(30)}
        await asyncio.gather(*(store.save(key, data, ttl=60) for key, data in values.items()))
        found = await asyncio.gather(*map(store.open, values))
        right = right and found == list(values.values())
    return right


def test_a_child_shares_no_connection_with_its_parent(store: Any) -> None:
    """Forked between two calls: the child makes connections of its own; the parent's stay sound."""
    with asyncio.Runner() as runner:
        assert runner.run(_use(store, "parent"))

        def child(say: Say) -> None:
            # The runner's loop is not the child's: it goes on in the parent.
            say(asyncio.run(_use(store, "child")))

        for _ in range(3):
            assert forked(child) == ([True], 0)
            assert runner.run(_use(store, "parent"))
        runner.run(store.aclose())


def test_a_child_forked_while_calls_are_in_flight(store: Any) -> None:
    """A server forks when it likes: it works, or it is a clear error, and the parent is sound.

    (SQLite in the child remembers locks of its parent's, and says that the database is locked.)
    """
    asyncio.run(_fork_amid(store))


async def _fork_amid(store: Any) -> None:
    def child(say: Say) -> None:
        asyncio._set_running_loop(None)
        try:
            say(asyncio.run(_use(store, "child")))
        except StoreUnavailable:
            say("a clear error")

    calls = [asyncio.ensure_future(_use(store, f"parent {n}")) for n in range(5)]
    await asyncio.sleep(0.005)
    # The parent goes on meanwhile; it may hold a lock.
    said, code = await asyncio.to_thread(fork(child))
    assert code == 0, said
    assert said in ([True], ["a clear error"])
    assert await asyncio.gather(*calls) == [True] * 5
    await store.aclose()
