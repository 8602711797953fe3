"""Writers of one session, all of which have read it before the first one commits."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
from harness import KEY

from async_session import (
    Match,
    SessionManager,
    SessionPolicy,
    SessionStore,
    StoreUnavailable,
    merge,
)
from async_session._aio import on_asyncio
from async_session.stores.base import SupportsClose
from async_session.testing import RecordingStore
from async_session.tokens import CookieSigner, store_key

#: What every such session begins with.
START = {"user": 42, "hits": 0}
POLICY = SessionPolicy(merge={"hits": merge.add}, timeout=30)

Factory = Callable[[], SessionStore]


@dataclass
class Tally:
    """What became of some writers, and how long that took."""

    kept: int = 0
    #: told that nobody knows what became of their write
    lost: int = 0
    #: seconds for all commits, and for as many blind saves of what is stored in the end
    commits: float = 0.0
    blind: float = 0.0


class LossyStore(RecordingStore):
    """Makes every guarded save, and loses the answer of every `nth`."""

    def __init__(self, store: SessionStore, nth: int = 3) -> None:
        super().__init__(store)
        self.nth = nth
        self.saves = self.lost = 0

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        saved = await super().save(key, data, ttl=ttl, match=match)
        if match is Match.ANY:
            return saved
        self.saves += 1
        if self.saves % self.nth == 0:
            self.lost += 1
            raise StoreUnavailable("the test lost this answer")
        return saved


def manager(store: SessionStore, policy: SessionPolicy = POLICY) -> SessionManager:
    return SessionManager(store, secret_key=KEY, policy=policy)


async def write(
    store: SessionStore,
    cookie: str,
    numbers: Sequence[int],
    *,
    meet: Callable[[], object] = int,
    save_blindly: bool = True,
) -> Tally:
    """Let each number write a key of its own and count itself; `meet` waits for other processes."""
    engine, tally = manager(store), Tally()
    sessions = [await engine.open(cookie) for _ in numbers]
    for number, session in zip(numbers, sessions, strict=True):
        session[f"k{number}"] = number
        session["hits"] += 1

    async def commit(session: Any) -> None:
        try:
            action = await engine.commit(session)
        except StoreUnavailable:
            tally.lost += 1
        else:
            tally.kept += action.value is not None

    meet()
    tally.commits = await _seconds(commit(session) for session in sessions)
    if not save_blindly:
        return tally
    meet()
    ticket = CookieSigner([KEY.encode()]).verify(cookie)
    assert ticket is not None
    data, key = await store.open(ticket.key), store_key(cookie)
    assert data is not None
    meet()
    saves = (store.save(key, data, ttl=600, match=Match.ANY) for _ in numbers)
    tally.blind = await _seconds(saves)
    return tally


async def _seconds(work: Any) -> float:
    """Run coroutines at once; return how long that took."""
    coroutines: list[Coroutine[Any, Any, Any]] = list(work)
    begun = time.perf_counter()
    if on_asyncio():
        await asyncio.gather(*coroutines)
    else:
        async with anyio.create_task_group() as group:
            for coroutine in coroutines:
                group.start_soon(_run, coroutine)
    return time.perf_counter() - begun


async def _run(coroutine: Coroutine[Any, Any, Any]) -> None:
    await coroutine


def write_in_processes(
    factory: Factory,
    cookie: str,
    writers: int,
    *,
    processes: int = 4,
    lossy: bool = False,
    save_blindly: bool = True,
) -> list[Tally]:
    """Spread `writers` over processes; return what each of these tells."""
    context = multiprocessing.get_context("spawn")  # a fork would copy connections and loops
    barrier, tallies = context.Barrier(processes, timeout=30), context.Queue()
    running = []
    for n in range(processes):
        numbers = range(n, writers, processes)
        arguments = (factory, cookie, numbers, lossy, save_blindly, barrier, tallies)
        running.append(context.Process(target=_child, args=arguments))
        running[-1].start()
    try:
        results = [tallies.get(timeout=60) for _ in running]
    finally:
        for process in running:
            process.join(10)
            process.kill()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _child(
    factory: Factory,
    cookie: str,
    numbers: Sequence[int],
    lossy: bool,
    save_blindly: bool,
    barrier: Any,
    tallies: Any,
) -> None:
    async def run() -> Tally:
        store = factory()
        tally = await write(
            LossyStore(store) if lossy else store,
            cookie,
            numbers,
            meet=barrier.wait,
            save_blindly=save_blindly,
        )
        barrier.wait()
        if isinstance(store, SupportsClose):
            await store.aclose()
        return tally

    try:
        tallies.put(asyncio.run(run()))
    except BaseException as error:
        barrier.abort()
        tallies.put(error)
