"""A record that is evicted, expires or is damaged while its session is in use, on every store.

The session is over then: nothing brings it back, nobody gets its cookie again, no request fails
for it, and an event says so.
"""

from __future__ import annotations

from typing import Any

import pytest
from harness import ADAPTERS, VIEWS, Answer, Client, Clock, View, write
from stores import AMPLE
from test_inputs import CORRUPT

from async_session import Session, SessionEvent, SessionGone, SessionPolicy, SessionStore
from async_session.record import Record, decode
from async_session.testing import RecordingStore
from async_session.tokens import store_key

pytestmark = pytest.mark.anyio

ADAPTER = pytest.mark.parametrize("adapter", sorted(ADAPTERS))


@pytest.fixture
def anyio_backend() -> str:
    """Quart knows asyncio only."""
    return "asyncio"


async def change_in_place(session: Session) -> None:
    session["cart"].append(1)


async def fill(session: Session) -> None:
    session["user"], session["cart"] = "ada", []


MORE = {"change_in_place": change_in_place, "fill": fill}


class World:
    """An app on one store, and a client whose session holds a user and a cart."""

    def __init__(self, adapter: str, store: SessionStore, **policy: Any) -> None:
        self.events: list[SessionEvent] = []
        self.clock = Clock()
        self.store = RecordingStore(store)
        self.go: View = VIEWS["nothing"]
        self.app = ADAPTERS[adapter](
            {**VIEWS, **MORE, "go": lambda session: self.go(session)},
            self.store,
            policy=SessionPolicy(timeout=AMPLE, **policy),
            clock=self.clock,
            on_event=self.events.append,
        )
        self.client = Client(self.app)

    async def start(self) -> str:
        await self.client.get("fill")
        self.clock.advance(10)  # a refresh is due
        self.events.clear()
        self.store.calls.clear()
        return key_of(self.client.cookie)

    async def get_and_lose(self, view: str) -> Answer:
        """Ask for a view, and lose the record after it was read."""

        async def go(session: Session) -> None:
            await self.store.store.delete(session.handle or "")
            await {**VIEWS, **MORE}[view](session)

        self.go = go
        return await self.client.get("go")

    @property
    def told(self) -> list[str]:
        return [f"{e.name}/{e.reason}".rstrip("/") for e in self.events]

    async def live(self) -> set[str]:
        """Return the keys of all records that are there."""
        found = set()
        for key in {key for _, key in self.store.calls}:
            data = await self.store.store.open(key)
            if data is not None and isinstance(decode(data), Record):
                found.add(key)
        return found


def key_of(cookie: str | None) -> str:
    assert cookie is not None
    return store_key(cookie.split(".")[0])


#: what a request does to a session whose record goes while it is at it, and what is told
GONE: list[tuple[str, list[str]]] = [
    ("nothing", ["loaded"]),
    ("read", ["loaded"]),
    ("write", ["loaded", "dropped/missing"]),
    ("change_in_place", ["loaded", "dropped/missing"]),
    ("pop_user_and_flash", ["loaded", "dropped/missing"]),
    ("regenerate", ["loaded", "dropped/missing"]),
    ("clear", ["loaded"]),
    ("logout", ["loaded"]),
]


@ADAPTER
@pytest.mark.parametrize("permanent", [False, True], ids=["browser", "sliding"])
@pytest.mark.parametrize(("view", "told"), GONE)
async def test_a_record_that_goes_while_it_is_in_use(
    adapter: str, view: str, told: list[str], permanent: bool, any_store: SessionStore
) -> None:
    world = World(adapter, any_store, permanent=permanent)
    handle = await world.start()
    answer = await world.get_and_lose(view)
    assert answer.status == 200
    if view in {"clear", "logout"}:
        assert answer.sent_id is None
    else:
        assert answer.set_cookie is None
    assert world.told == told
    assert {event.handle for event in world.events} == {handle}
    assert await world.live() == set()


@ADAPTER
async def test_a_login_stands_on_its_own(adapter: str, any_store: SessionStore) -> None:
    world = World(adapter, any_store)
    await world.start()
    answer = await world.get_and_lose("login")
    assert world.told == ["loaded", "regenerated/login"]
    assert await world.live() == {key_of(answer.sent_id)}
    # What the login itself wrote, and nothing of what was lost.
    assert (await world.client.get("read")).body == "{'user': 'ada'}"


@ADAPTER
async def test_on_gone_raise_says_that_it_is_gone(adapter: str, any_store: SessionStore) -> None:
    world = World(adapter, any_store, on_gone="raise")
    handle = await world.start()
    if adapter == "starlette":
        with pytest.raises(SessionGone, match=handle):
            await world.get_and_lose("write")
    else:
        answer = await world.get_and_lose("write")
        assert (answer.status, answer.set_cookie) == (500, None)
    assert world.told == ["loaded", "dropped/missing"]
    assert await world.live() == set()


#: some of what `test_inputs.py` has for the memory store
DAMAGE = ["another program's", "cut off in the header", "no JSON", "an unknown serializer"]


@ADAPTER
@pytest.mark.parametrize("kind", DAMAGE)
async def test_a_record_that_is_damaged(adapter: str, kind: str, any_store: SessionStore) -> None:
    world = World(adapter, any_store)
    handle = await world.start()
    await any_store.save(handle, CORRUPT[kind], ttl=60)
    before = world.client.cookie
    for _ in range(2):  # no loop of errors: it is the same each time
        answer = await world.client.get("read")
        assert (answer.status, answer.body, answer.set_cookie) == (200, "{}", None)
    assert [(event.name, event.handle) for event in world.events] == [("corrupt", handle)] * 2
    assert all(isinstance(event.error, Exception) for event in world.events)
    # What is written then is a session of its own, and the damaged record is left alone: it may
    # belong to another version of the app.
    answer = await world.client.get("write")
    assert answer.sent_id not in {None, before}
    assert (await world.client.get("read")).body == "{'written': True}"
    assert await any_store.open(handle) == CORRUPT[kind]


@ADAPTER
async def test_a_record_that_is_damaged_while_it_is_in_use(
    adapter: str, any_store: SessionStore
) -> None:
    world = World(adapter, any_store)
    handle = await world.start()

    async def damage(session: Session) -> None:
        await any_store.save(handle, CORRUPT["another program's"], ttl=60)
        await write(session)

    world.go = damage
    answer = await world.client.get("go")
    assert (answer.status, answer.set_cookie) == (200, None)
    assert world.told == ["loaded", "dropped/missing"]
    assert await any_store.open(handle) == CORRUPT["another program's"]
