"""A hundred requests on one session and one that ends it, in an order that a seed decides.

Every request begins after a number of turns of the event loop that its seed draws, and so does
every store call, and every answer of the store. The store is real, and everything that is in
flight is in flight there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from harness import ADAPTERS, KEY, VIEWS, Answer, Clock, View, request

from async_session import Match, Session, SessionPolicy, SessionStore
from async_session.record import Record, decode
from async_session.testing import make_cookie
from async_session.tokens import CookieSigner

#: How many turns of the loop a request, and each of its store calls, may be late.
LATE = 40
SLOW = 12


async def another_user(session: Session) -> None:
    session.login("bob")
    session["user"] = "bob"


#: How an app ends what an id opens: every idiom.
ENDINGS: dict[str, View] = {
    "logout": VIEWS["logout"],
    "clear": VIEWS["clear"],
    "pop": VIEWS["pop_user_and_flash"],
    "another_user": another_user,
}


@dataclass
class Trail:
    """What one request did and when, in steps of its schedule.

    Attributes:
        view: what it asked for.
        found_user: whether it opened the session before it was ended.
        first_save: when its commit began to write, if it did so itself.
        began: when its commit began, which another request's save may have carried out.
        ended: when its answer was there.
        answer: that.
    """

    view: str
    found_user: bool = False
    first_save: int | None = None
    began: int | None = None
    ended: int = 0
    answer: Answer = field(default_factory=Answer)


_me: ContextVar[Trail | None] = ContextVar("_me", default=None)


class LateStore:
    """A store whose calls and answers are as many turns of the loop late as `draw` says."""

    def __init__(self, store: SessionStore, *, blind: bool = False) -> None:
        self._store = store
        self.deadline = getattr(store, "deadline", None)
        self._blind = blind
        self.draw: Callable[[], int] = lambda: 0
        self._step = 0
        self.keys: set[str] = set()

    async def open(self, key: str, /) -> bytes | None:
        await self._wait()
        found = await self._store.open(key)
        await self._wait()
        return found

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        await self._wait()
        trail = _me.get()
        if trail is not None and trail.first_save is None:
            trail.first_save = self.tick()
        self.keys.add(key)
        match = Match.ANY if self._blind else match
        saved = await self._store.save(key, data, ttl=ttl, match=match)
        await self._wait()
        return saved

    async def delete(self, key: str, /) -> None:
        await self._wait()
        await self._store.delete(key)

    def tick(self) -> int:
        self._step += 1
        return self._step

    async def _wait(self) -> None:
        for _ in range(self.draw()):
            await asyncio.sleep(0)


@dataclass
class Tally:
    """What many schedules showed."""

    schedules: int = 0
    overlapped: int = 0
    resurrections: int = 0
    cookies: int = 0

    def __str__(self) -> str:
        return (
            f"{self.schedules} schedules, {self.overlapped} overlapped, "
            f"{self.resurrections} resurrections, {self.cookies} cookies of an ended id"
        )


class Storm:
    """Two apps on one store, one an adapter, and a schedule after the other on them.

    Args:
        store: a real one.
        tally: what the schedules show is counted there.
        requests: how many are in flight beside the one that ends the session.
        blind: True lets every write be made whatever stands there.
    """

    def __init__(
        self, store: SessionStore, tally: Tally, *, requests: int, blind: bool = False
    ) -> None:
        self.store = LateStore(store, blind=blind)
        self.clock = Clock()
        self.tally = tally
        self._requests = requests
        policy = SessionPolicy(permanent=True, refresh_interval=60, timeout=30)
        views = {**ENDINGS, "read": VIEWS["nothing"], "regenerate": VIEWS["regenerate"]}
        views |= {f"write{n}": _writer(n) for n in range(requests)}
        self._apps = {
            name: make(
                {view: self._noted(act) for view, act in views.items()},
                self.store,
                policy=policy,
                clock=self.clock,
            )
            for name, make in ADAPTERS.items()
        }

    def _noted(self, act: View) -> View:
        async def view(session: Session) -> object:
            trail = _me.get()
            if trail is not None:
                trail.found_user = dict.get(session, "user") == "ada"
            answer = await act(session)
            if trail is not None:
                trail.began = self.store.tick()
            return answer

        return view

    async def run(self, seed: int) -> None:
        """Run the schedule of one seed and count what it showed."""
        store, rng = self.store, random.Random(seed)
        ending = sorted(ENDINGS)[seed % len(ENDINGS)]
        app = self._apps["quart" if seed % 10 == 0 else "starlette"]
        store.draw, store.keys = (lambda: 0), set()
        first = await make_cookie(
            store, {"user": "ada"}, secret_key=KEY, clock=self.clock, age=rng.choice([1, 120])
        )
        store.draw = lambda: rng.randrange(SLOW)

        async def ask(view: str) -> Trail:
            trail = Trail(view)
            _me.set(trail)
            for _ in range(rng.randrange(LATE)):
                await asyncio.sleep(0)
            trail.answer = await request(app, f"/{view}", cookie=first)
            trail.ended = store.tick()
            assert trail.answer.status == 200, trail.answer.body
            return trail

        views = _mix(rng, self._requests, moves=ending in {"logout", "another_user"})
        trails = await asyncio.gather(*(ask(view) for view in [ending, *views]))
        store.draw = lambda: 0
        await self._count(first, trails[0], trails[1:])

    async def _count(self, first: str, end: Trail, others: list[Trail]) -> None:
        tally = self.tally
        tally.schedules += 1
        # These had the user in hand before the end, and were not done before it was.
        tally.overlapped += any(
            trail.found_user and trail.ended > (end.first_save or 0) for trail in others
        )
        tally.resurrections += await self._is_back(first)
        if end.view != "pop":  # there the session goes on, without its user
            tally.cookies += sum(
                trail.answer.sent_id == first
                and (trail.first_save or trail.began or trail.ended) > end.ended
                for trail in others
            )

    async def _is_back(self, first: str) -> bool:
        """Tell whether any session that is alive, under whatever id, is still the user's."""
        for key in self.store.keys | {_key(first)}:
            data = await self.store.open(key)
            item = None if data is None else decode(data)
            if isinstance(item, Record) and b'"ada"' in item.payload:
                return True
        return False


def _mix(rng: random.Random, requests: int, *, moves: bool) -> Iterable[str]:
    """Return what the others do: most read, some write, few ask for a new id."""
    kinds = ["read"] * requests
    for n in range(rng.randint(1, max(1, requests // 10))):
        kinds[n] = f"write{n}"
    if moves and rng.random() < 0.5:
        kinds[-1] = "regenerate"
    rng.shuffle(kinds)
    return kinds


def _writer(number: int) -> View:
    async def write(session: Session) -> None:
        session[f"key{number}"] = number

    return write


def _key(cookie: str) -> str:
    ticket: Any = CookieSigner([KEY.encode()]).verify(cookie)
    return str(ticket.key)
