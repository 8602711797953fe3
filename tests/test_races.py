"""Two requests at once, in every order in which their store calls can fall.

Each case runs two requests of one client that both hold the same signed-in session, through every
interleaving of their store calls, on both adapters and on every store; then it asks what is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness import ADAPTERS, KEY, VIEWS, Answer, Client, Clock
from stores import AMPLE

from async_session import SessionPolicy, SessionStore
from async_session.record import Record, decode
from async_session.testing import RecordingStore, TurnStore, interleavings
from async_session.tokens import CookieSigner

pytestmark = pytest.mark.anyio

ADAPTER = pytest.mark.parametrize("adapter", sorted(ADAPTERS))
PERMANENT = pytest.mark.parametrize("permanent", [False, True], ids=["browser", "permanent"])
DUE = pytest.mark.parametrize("due", [False, True], ids=["rested", "due"])
ENDINGS = ["logout", "clear", "pop_user_and_flash"]


@pytest.fixture
def anyio_backend() -> str:
    """Quart and redis-py know asyncio only."""
    return "asyncio"


@dataclass
class Outcome:
    """What two requests at once left behind."""

    first: str
    answers: dict[str, Answer] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    live: dict[str, dict[Any, Any]] = field(default_factory=dict)
    jar: str | None = None

    @property
    def sent(self) -> set[str]:
        return {answer.sent_id for answer in self.answers.values() if answer.sent_id}

    def cookie_of(self, view: str) -> str | None:
        return self.answers[view].set_cookie


class World:
    """An app on one adapter and one store, whose store calls a schedule can order."""

    def __init__(
        self, adapter: str, store: SessionStore, *, permanent: bool = False, due: bool = False
    ) -> None:
        self.clock = Clock()
        self.recording = RecordingStore(store)
        self.due = due
        policy = SessionPolicy(permanent=permanent, refresh_interval=60, timeout=AMPLE)
        self.app = ADAPTERS[adapter](
            VIEWS, TurnStore(self.recording), policy=policy, clock=self.clock
        )

    async def run(self, *views: str, check: Callable[[Outcome], Awaitable[None] | None]) -> int:
        """Run the views at once in every order; return in how many."""
        runs = 0
        for schedule in interleavings():
            client = Client(self.app)
            await client.get("sign_in")
            assert client.cookie is not None
            self.recording.calls.clear()
            self.clock.advance(120 if self.due else 1)
            outcome = Outcome(client.cookie, jar=client.cookie)
            await schedule.run(
                {
                    f"{n}{view}": self._job(view, f"{n}{view}", outcome)
                    for n, view in enumerate(views)
                }
            )
            await self._look(outcome)
            waiting = check(outcome)
            if waiting is not None:
                await waiting
            runs += 1
        return runs

    def _job(self, view: str, name: str, outcome: Outcome) -> Callable[[], Awaitable[None]]:
        async def job() -> None:
            client = Client(self.app, outcome.first)
            answer = await client.get(view)
            assert answer.status == 200, answer.body
            outcome.answers[name] = answer
            outcome.order.append(name)
            if answer.set_cookie is not None:
                outcome.jar = answer.sent_id

        return job

    async def _look(self, outcome: Outcome) -> None:
        """Find every record that is alive, under whatever id."""
        keys = {key for _, key in self.recording.calls}
        keys.add(_key(outcome.first))
        for key in keys:
            data = await self.recording.open(key)
            item = None if data is None else decode(data)
            if isinstance(item, Record):
                outcome.live[key] = {"owner": item.extras.get("owner")}

    async def opens(self, cookie: str | None) -> str:
        return (await Client(self.app, cookie).get("read")).body


def _key(cookie: str) -> str:
    ticket = CookieSigner([KEY.encode()]).verify(cookie)
    assert ticket is not None
    return ticket.key


@ADAPTER
@PERMANENT
@DUE
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("other", ["nothing", "read", "write"])
async def test_no_reader_or_writer_undoes_a_logout(
    adapter: str, permanent: bool, due: bool, ending: str, other: str, any_store: SessionStore
) -> None:
    world = World(adapter, any_store, permanent=permanent, due=due)
    name, end = f"0{other}", f"1{ending}"

    async def check(outcome: Outcome) -> None:
        after = outcome.order == [end, name]
        if ending == "pop_user_and_flash":
            # The session goes on, for the flash, without the user.
            assert "ada" not in await world.opens(outcome.first)
            if other != "write" and after:
                assert outcome.cookie_of(name) is None
            return
        assert _key(outcome.first) not in outcome.live
        assert await world.opens(outcome.first) == "{}"
        assert outcome.cookie_of(end) is not None
        if after:
            sent = outcome.answers[name].sent_id
            if sent is None:
                assert outcome.cookie_of(name) is None
                assert outcome.live == {}
            else:  # it opened when all was over, and began a session of its own
                assert sent != outcome.first
                assert set(outcome.live) == {_key(sent)}
                assert "ada" not in await world.opens(sent)
        else:
            assert outcome.live == {}
            assert outcome.jar is None

    assert await world.run(other, ending, check=check) >= 2


@ADAPTER
@PERMANENT
@DUE
@pytest.mark.parametrize("other", ["nothing", "read", "write", "clear", "pop_user_and_flash"])
async def test_nobody_loses_the_cookie_of_a_login(
    adapter: str, permanent: bool, due: bool, other: str, any_store: SessionStore
) -> None:
    world = World(adapter, any_store, permanent=permanent, due=due)

    async def check(outcome: Outcome) -> None:
        new = outcome.answers["1login"].sent_id
        assert new is not None
        assert new != outcome.first
        if outcome.order == ["1login", "0" + other]:
            assert outcome.cookie_of("0" + other) is None
            assert outcome.jar == new
        assert set(outcome.live) == {_key(new)}
        assert "ada" in await world.opens(new)
        assert await world.opens(outcome.first) == "{}"

    assert await world.run(other, "login", check=check) >= 2


@ADAPTER
async def test_of_two_regenerations_one_id_lives(adapter: str, any_store: SessionStore) -> None:
    world = World(adapter, any_store)

    async def check(outcome: Outcome) -> None:
        assert len(outcome.sent) == 2 or len(outcome.live) == 1
        assert len(outcome.live) == 1
        assert outcome.live.keys() <= {_key(cookie) for cookie in outcome.sent}
        assert outcome.jar is not None
        assert "ada" in await world.opens(outcome.jar)

    assert await world.run("regenerate", "regenerate", check=check) >= 10


@ADAPTER
@pytest.mark.parametrize("ending", ["logout", "clear"])
async def test_a_logout_beside_a_regeneration_leaves_none(
    adapter: str, ending: str, any_store: SessionStore
) -> None:
    world = World(adapter, any_store)

    def check(outcome: Outcome) -> None:
        regenerated_alone = outcome.live and outcome.order[0] == "0regenerate"
        if regenerated_alone and ending == "clear":
            # It opened after the id had moved on: emptying nothing ends nothing.
            assert outcome.cookie_of("1clear") is None
        else:
            assert outcome.live == {}

    assert await world.run("regenerate", ending, check=check) >= 10


@ADAPTER
async def test_two_logins_leave_the_ids_that_were_sent(
    adapter: str, any_store: SessionStore
) -> None:
    world = World(adapter, any_store)

    def check(outcome: Outcome) -> None:
        assert len(outcome.sent) == 2
        assert set(outcome.live) == {_key(cookie) for cookie in outcome.sent}
        assert all(record["owner"] == "ada" for record in outcome.live.values())

    assert await world.run("login", "login", check=check) >= 10


@ADAPTER
@pytest.mark.parametrize("one", ["login", "regenerate", "logout", "clear"])
@pytest.mark.parametrize("two", ["login", "regenerate", "write", "read"])
async def test_every_live_id_was_sent_to_the_client(
    adapter: str, one: str, two: str, any_store: SessionStore
) -> None:
    world = World(adapter, any_store, permanent=True, due=True)

    def check(outcome: Outcome) -> None:
        assert outcome.live.keys() <= {_key(cookie) for cookie in outcome.sent}

    await world.run(one, two, check=check)
