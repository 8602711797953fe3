"""Many writers of one session at once: a few saves keep them all, and each learns its own fate."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from blockbuster import BlockBuster
from harness import KEY
from writing import START, Factory, LossyStore, Tally, manager, write, write_in_processes

from async_session import (
    SessionStore,
)
from async_session.stores.dynamodb import DynamoDBStore
from async_session.stores.filesystem import FileSystemStore
from async_session.stores.memcached import MemcachedStore
from async_session.stores.mongodb import MongoStore
from async_session.stores.redis import RedisStore
from async_session.stores.sqlalchemy import SQLAlchemyStore
from async_session.testing import RecordingStore, make_cookie

pytestmark = pytest.mark.anyio


async def begin(store: SessionStore, data: Any = START) -> str:
    return await make_cookie(store, data, secret_key=KEY)


async def check(store: SessionStore, cookie: str, writers: int, *tallies: Tally) -> None:
    """All that was acknowledged is there; whatever is there was counted once."""
    kept, lost = sum(t.kept for t in tallies), sum(t.lost for t in tallies)
    assert kept + lost == writers
    left: dict[Any, Any] = dict(await manager(store).open(cookie))
    hits = left.pop("hits")
    assert left.pop("user") == 42
    assert set(left.items()) <= {(f"k{n}", n) for n in range(writers)}
    assert hits == len(left)
    assert kept <= hits <= writers
    if not lost:
        assert hits == writers


# -- on every store, in one process ----------------------------------------------------------------


async def test_all_writers_are_kept_by_a_few_saves(any_store: SessionStore) -> None:
    store = RecordingStore(any_store)
    cookie = await begin(store)
    tally = await write(store, cookie, range(100), save_blindly=False)
    await check(store, cookie, 100, tally)
    assert tally.lost == 0
    # The first for itself, the last for all others; one more where the store never waits.
    assert len([verb for verb, _ in store.calls if verb == "save"]) <= 1 + 3


async def test_a_lost_answer_is_found_again(any_store: SessionStore) -> None:
    store = LossyStore(any_store, 2)
    cookie = await begin(any_store)
    tally = await write(store, cookie, range(20), save_blindly=False)
    await check(store, cookie, 20, tally)
    assert (tally.lost, store.lost > 0) == (0, True)


async def test_what_is_never_acknowledged_is_no_success(any_store: SessionStore) -> None:
    store = LossyStore(any_store, 1)  # what it holds may be gone with the next failover
    cookie = await begin(any_store)
    tally = await write(store, cookie, range(3), save_blindly=False)
    assert (tally.kept, tally.lost) == (0, 3)


@pytest.mark.faults
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_thousand_writers(
    any_store: SessionStore,
    request: pytest.FixtureRequest,
    capsys: Any,
    blockbuster: BlockBuster,
) -> None:
    blockbuster.deactivate()  # its look at every call would be measured, too
    if getattr(any_store, "deadline", None):
        any_store.deadline = 60.0  # type: ignore[attr-defined]  # an emulator takes its time
    tallies = []
    for _ in range(3):
        cookie = await begin(any_store)
        tallies.append(await write(any_store, cookie, range(1000)))
        await check(any_store, cookie, 1000, tallies[-1])
        assert tallies[-1].lost == 0
    name = request.node.callspec.params["made_store"]
    best = min(tallies, key=lambda tally: tally.commits / tally.blind)
    _show(capsys, name, 1, [best])  # printed: no test asks how fast a machine is


def _show(capsys: Any, name: str, processes: int, tallies: list[Tally]) -> None:
    commits, blind = (max(getattr(t, what) for t in tallies) for what in ("commits", "blind"))
    lost = sum(tally.lost for tally in tallies)
    with capsys.disabled():
        print(
            f"\n{name:<12}{processes} process(es)   1000 commits {commits * 1e3:8.1f} ms   "
            f"1000 blind saves {blind * 1e3:8.1f} ms   ratio {commits / blind:5.2f}   "
            f"in doubt {lost}"
        )


# -- in several processes --------------------------------------------------------------------------

SHARED: dict[str, Callable[[pytest.FixtureRequest], Factory]] = {
    "dynamodb": lambda r: functools.partial(
        DynamoDBStore, r.getfixturevalue("dynamodb_url"), timeout=60
    ),
    "files": lambda r: functools.partial(
        FileSystemStore, str(r.getfixturevalue("tmp_path") / "sessions"), fsync=False
    ),
    "memcached": lambda r: functools.partial(
        MemcachedStore, r.getfixturevalue("memcached_url"), timeout=30
    ),
    "mongodb": lambda r: functools.partial(
        MongoStore, r.getfixturevalue("mongodb_url"), timeout=60
    ),
    "postgresql": lambda r: functools.partial(
        SQLAlchemyStore, r.getfixturevalue("postgresql_url"), timeout=30
    ),
    "redis": lambda r: functools.partial(RedisStore, r.getfixturevalue("redis_url"), timeout=30),
    "sqlite": lambda r: functools.partial(
        SQLAlchemyStore, f"sqlite:///{r.getfixturevalue('tmp_path')}/sessions.db", timeout=30
    ),
}


def _in_processes(factory: Factory, writers: int, *, lossy: bool, **options: Any) -> list[Tally]:
    cookie = asyncio.run(_closing(factory, begin))
    tallies = write_in_processes(factory, cookie, writers, lossy=lossy, **options)
    asyncio.run(_closing(factory, check, cookie, writers, *tallies))
    if not lossy:
        assert not any(tally.lost for tally in tallies)
    return tallies


async def _closing(factory: Factory, work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    store: Any = factory()
    try:
        return await work(store, *args)
    finally:
        await store.aclose()


@pytest.mark.parametrize(("name", "lossy"), [("files", False), ("redis", True)])
def test_writers_in_four_processes(name: str, lossy: bool, request: pytest.FixtureRequest) -> None:
    _in_processes(SHARED[name](request), 100, lossy=lossy, save_blindly=False)


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("lossy", [False, True], ids=["", "lossy"])
def test_a_thousand_writers_in_four_processes(
    name: str, lossy: bool, request: pytest.FixtureRequest, capsys: Any
) -> None:
    tallies = _in_processes(SHARED[name](request), 1000, lossy=lossy)
    _show(capsys, f"{name} lossy" if lossy else name, 4, tallies)
