"""How long a session lives: by the server's clock, whatever the client says or does.

Every test drives an app on either adapter. The clock passes when it is told to.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from harness import ADAPTERS, KEY, VIEWS, Answer, Client, Clock, View, quart_app, starlette_app
from stores import AMPLE

from async_session import Match, Session, SessionPolicy, SessionStore
from async_session.stores.memory import MemoryStore
from async_session.testing import RecordingStore, make_cookie

pytestmark = pytest.mark.anyio

DAY = 86400


@pytest.fixture
def anyio_backend() -> str:
    """Quart knows asyncio only."""
    return "asyncio"


@pytest.fixture(params=sorted(ADAPTERS))
def make_app(request: pytest.FixtureRequest) -> Callable[..., Callable[..., Awaitable[None]]]:
    return ADAPTERS[request.param]


class TTLStore(MemoryStore):
    """Notes each ttl, and forgets what has passed it, by the app's own clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.ttls: list[int] = []

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        self.ttls.append(ttl)
        return await super().save(key, data, ttl=ttl, match=match)


async def remember(session: Session) -> None:
    session.lifetime = 1000


async def remember_delta(session: Session) -> None:
    session.lifetime = timedelta(seconds=1000)


async def tell(session: Session) -> object:
    return session.lifetime, session.created, session.authenticated_at, session.permanent


async def stay(session: Session) -> None:
    session.permanent = True


async def leave(session: Session) -> None:
    session.permanent = False


MORE: dict[str, View] = {
    **VIEWS,
    **{view.__name__: view for view in (remember, remember_delta, tell, stay, leave)},
}


class World:
    """A signed-in client of an app whose clock can be told to pass."""

    def __init__(self, make_app: Any, *, views: dict[str, View] | None = None, **policy: Any):
        self.clock = Clock()
        self.store = TTLStore(self.clock)
        self.make_app = make_app
        self.app = self.with_policy(views, **{"lifetime": 100} | policy)
        self.client = Client(self.app)

    def with_policy(self, views: dict[str, View] | None = None, **policy: Any) -> Any:
        return self.make_app(
            {**MORE, **(views or {})}, self.store, policy=SessionPolicy(**policy), clock=self.clock
        )

    async def get(self, view: str, *, after: float = 0) -> Answer:
        self.clock.advance(after)
        answer = await self.client.get(view)
        assert answer.status == 200
        return answer

    async def is_alive(self, *, after: float = 0) -> bool:
        return "ada" in (await self.get("read", after=after)).body


def expires(answer: Answer) -> int | None:
    match = re.search("Expires=([^;]+)", answer.set_cookie or "")
    return None if match is None else int(parsedate_to_datetime(match[1]).timestamp())


def max_age(answer: Answer) -> int | None:
    match = re.search("Max-Age=([^;]+)", answer.set_cookie or "")
    return None if match is None else int(match[1])


#: what is set beside lifetime=100, and the last second in which an untouched session is alive
BOUNDARIES: list[tuple[dict[str, Any], int]] = [
    ({}, 100),
    ({"lifetime": timedelta(minutes=2)}, 120),
    ({"lifetime": 1.9}, 1),
    ({"refresh_interval": 10}, 100),  # goes with the browser: use does not prolong it
    ({"permanent": True}, 100),
    ({"permanent": True, "refresh_each_request": False}, 100),
    ({"permanent": True, "refresh_each_request": False, "refresh_interval": 10}, 100),
    ({"permanent": True, "refresh_interval": 10}, 110),  # may have been used 10 s after the write
    ({"absolute_lifetime": 50}, 50),
    ({"absolute_lifetime": timedelta(seconds=50)}, 50),
    ({"absolute_lifetime": 500}, 100),
    ({"permanent": True, "refresh_interval": 10, "absolute_lifetime": 105}, 105),
    ({"absolute_lifetime": 0}, 0),
    ({"lifetime": 0}, 0),  # over with the second, as in Flask
    ({"lifetime": 0, "permanent": True}, 0),
    ({"lifetime": 0, "permanent": True, "refresh_interval": 10}, 0),
    ({"lifetime": -1}, -1),  # over at once
    ({"lifetime": -1, "permanent": True, "refresh_interval": 10}, -1),
    ({"lifetime": timedelta(seconds=-1)}, -1),
]


@pytest.mark.parametrize(("policy", "last"), BOUNDARIES, ids=str)
async def test_the_last_second_of_an_untouched_session(
    make_app: Any, policy: dict[str, Any], last: int
) -> None:
    for age in {0, last - 1, last, last + 1}:
        if age >= 0:
            world = World(make_app, **policy)
            await world.get("sign_in")
            assert await world.is_alive(after=age) is (age <= last), age


#: what is set, how it is used every 60 s, and for how many seconds that keeps it
USES: list[tuple[dict[str, Any], str, int]] = [
    ({"permanent": True}, "nothing", 6000),
    ({"permanent": True}, "read", 6000),
    ({"permanent": True, "refresh_interval": 30}, "read", 6000),
    ({"permanent": True, "refresh_each_request": False}, "read", 60),
    ({"permanent": True, "refresh_each_request": False}, "write", 6000),
    ({}, "read", 60),
    ({}, "write", 6000),
    ({}, "regenerate", 6000),
    ({"permanent": True, "absolute_lifetime": 300}, "write", 300),
]


@pytest.mark.parametrize(("policy", "use", "kept"), USES, ids=str)
async def test_which_use_prolongs_a_session(
    make_app: Any, policy: dict[str, Any], use: str, kept: int
) -> None:
    world = World(make_app, **policy)
    await world.get("sign_in")
    for passed in range(60, kept + 1, 60):
        twin = world.client.twin()  # looks at the same time, without being a use
        await world.get(use, after=60)
        assert world.client.cookie is not None
        assert passed == kept or "ada" in (await twin.get("read")).body or use == "regenerate"
    assert await world.is_alive() is True
    assert await world.is_alive(after=60) is (kept == 6000)


async def test_neither_use_nor_regeneration_passes_the_absolute_lifetime(make_app: Any) -> None:
    world = World(make_app, permanent=True, absolute_lifetime=1000)
    await world.get("sign_in")
    end = world.clock.now + 1000
    for second in range(1, 1001):
        view = "regenerate" if second % 10 == 0 else "write" if second % 2 else "read"
        answer = await world.get(view, after=1)
        until = expires(answer)
        assert until is not None
        assert until == min(end, world.clock.now + 100)
    assert world.clock.now == end
    assert await world.is_alive()
    assert not await world.is_alive(after=1)


async def test_only_a_login_starts_the_absolute_lifetime_again(make_app: Any) -> None:
    world = World(make_app, absolute_lifetime=150)
    await world.get("sign_in")
    for view in ("write", "regenerate", "write"):
        await world.get(view, after=30)
    await world.get("login", after=30)
    assert await world.is_alive(after=90)
    await world.get("write")
    assert await world.is_alive(after=60)
    assert not await world.is_alive(after=1)


async def test_the_clients_expiry_is_not_trusted(make_app: Any) -> None:
    world = World(make_app, permanent=True)
    await world.get("sign_in")
    kept = world.client.cookie
    answer = await world.get("read", after=101)  # by a client that keeps what has expired
    assert (answer.body, answer.set_cookie) == ("{}", None)
    answer = await world.get("write")
    assert answer.sent_id not in {None, kept}


@pytest.mark.parametrize("seed", range(10))
async def test_refreshes_are_throttled_and_never_early(make_app: Any, seed: int) -> None:
    """Walk a clock at random, also back; tell of every step what it has to do."""
    walk = random.Random(seed)
    interval = walk.choice([0, 1, 7, 60])
    clock = Clock()
    store = RecordingStore(MemoryStore())
    policy = SessionPolicy(lifetime=100, permanent=True, refresh_interval=interval)
    client = Client(make_app(VIEWS, store, policy=policy, clock=clock))
    await client.get("sign_in")
    written = clock.now
    for _ in range(300):
        clock.advance(walk.choice([-6, -2, 0, 0, 1, 3, 10, 30, 59, 60, 61, 100, 101, 160]))
        store.calls.clear()
        answer = await client.get(walk.choice(["read", "nothing"]))
        verbs = [verb for verb, _ in store.calls]
        age = clock.now - written
        alive = age >= -policy.clock_skew and age <= 100 + interval
        if alive and age >= interval:
            assert verbs == ["open", "save"]
            assert expires(answer) == clock.now + 100
            written = clock.now
        else:
            assert verbs == ["open"]
            assert answer.set_cookie is None
        if not alive:
            await client.get("sign_in")
            written = clock.now


#: policies before and after, the age, whether it is alive then
LENGTHENED: list[tuple[int, int, int, bool]] = [
    (60, 60, 61, False),
    (60, 1000, 61, True),
    (60, 1000, 119, True),
    (60, 1000, 120, False),  # the store keeps it for twice the lifetime
    (7200, 99999, 7200 + 3599, True),  # and for an hour longer at most
    (7200, 99999, 7200 + 3600, False),
    (1000, 60, 61, False),  # a shorter one counts at once
]


@pytest.mark.parametrize(("before", "after", "age", "alive"), LENGTHENED)
async def test_a_lifetime_that_changed_later_counts_for_old_sessions(
    make_app: Any, before: int, after: int, age: int, alive: bool
) -> None:
    world = World(make_app, lifetime=before)
    await world.get("sign_in")
    world.clock.advance(age)
    later = Client(world.with_policy(lifetime=after), world.client.cookie)
    assert ("ada" in (await later.get("read")).body) is alive


#: what is set, how many seconds later it is written again, the ttl of that write
TTLS: list[tuple[dict[str, Any], int, int]] = [
    ({}, 0, 100 + 100),
    ({"lifetime": 7200}, 0, 7200 + 3600),
    ({"refresh_interval": 10}, 0, 100 + 10 + 100),
    ({"refresh_interval": 10}, 50, 100 + 10 + 100),
    ({"absolute_lifetime": 50}, 0, 50 + 100),
    ({"absolute_lifetime": 120, "refresh_interval": 10}, 60, 60 + 10 + 100),
    ({"absolute_lifetime": 50}, 50, 0 + 100),
    ({"lifetime": 0}, 0, 1),
    ({"lifetime": -100}, 0, 1),
    ({"lifetime": -100, "refresh_interval": 10}, 0, 1),
]


@pytest.mark.parametrize(("policy", "later", "ttl"), TTLS, ids=str)
async def test_the_store_is_told_what_is_left_and_a_grace(
    make_app: Any, policy: dict[str, Any], later: int, ttl: int
) -> None:
    world = World(make_app, **policy)
    await world.get("write")
    await world.get("write", after=later)
    assert world.store.ttls[-1] == ttl
    assert all(type(ttl) is int for ttl in world.store.ttls)


@pytest.mark.parametrize("policy", [{}, {"absolute_lifetime": 50}, {"lifetime": -5}], ids=str)
@pytest.mark.parametrize("jump", [-3600, -6, -5, 40, 3600])
async def test_no_jump_of_the_clock_gives_a_negative_ttl_or_an_immortal_session(
    make_app: Any, policy: dict[str, Any], jump: int
) -> None:
    async def write_after_a_jump(session: Session) -> None:
        world.clock.advance(jump)
        session["late"] = True

    world = World(make_app, views={"jump": write_after_a_jump}, **policy)
    await world.get("sign_in")
    await world.get("jump")
    assert all(1 <= ttl <= 200 for ttl in world.store.ttls)
    await world.get("write")
    # Whatever the clock did: what nobody uses is over 100 s after the later of its two times.
    assert not await world.is_alive(after=101 + max(0, -jump))


#: the clock skew, how far in the future a session was written, whether it is alive
SKEWS = [(5, 0, True), (5, 5, True), (5, 6, False), (0, 1, False), (0, 0, True), (5, 3600, False)]


@pytest.mark.parametrize("absolute", [None, 1000])
@pytest.mark.parametrize(("skew", "future", "alive"), SKEWS)
async def test_a_session_from_the_future(
    make_app: Any, skew: int, future: int, alive: bool, absolute: int | None
) -> None:
    store, clock = MemoryStore(), Clock()
    policy = SessionPolicy(clock_skew=skew, absolute_lifetime=absolute)
    cookie = await make_cookie(store, {"a": 1}, secret_key=KEY, age=-future, clock=clock)
    client = Client(make_app(VIEWS, store, policy=policy, clock=clock), cookie)
    assert (await client.get("read")).body == ("{'a': 1}" if alive else "{}")


async def test_the_clock_goes_back_an_hour(make_app: Any) -> None:
    world = World(make_app, permanent=True)
    await world.get("sign_in")
    first = world.client.cookie
    assert not await world.is_alive(after=-3600)
    answer = await world.get("write")  # life goes on, under another id
    assert answer.sent_id not in {None, first}
    assert expires(answer) == world.clock.now + 100
    assert "written" in (await world.get("read", after=100)).body


# A lifetime of a session's own


@pytest.mark.parametrize("set_it", ["remember", "remember_delta"])
async def test_a_session_may_have_a_lifetime_of_its_own(make_app: Any, set_it: str) -> None:
    world = World(make_app, permanent=True, refresh_each_request=False)
    other = Client(world.app)
    await other.get("sign_in")
    await world.get("sign_in")
    assert expires(await world.get(set_it)) == world.clock.now + 1000
    assert await world.is_alive(after=1000)
    for view in ("write", "regenerate", "login", "write"):  # it stays, whatever is done
        answer = await world.get(view)
        assert expires(answer) == world.clock.now + 1000
        assert (await world.get("tell")).body.startswith("(1000,")
    assert "ada" not in (await other.get("read")).body
    assert not await world.is_alive(after=1001)
    await world.get("sign_in")  # the next session is the policy's again
    assert (await world.get("tell")).body.startswith("(100,")


async def test_a_lifetime_of_its_own_slides_and_ends_with_a_logout(make_app: Any) -> None:
    world = World(make_app, permanent=True, refresh_interval=10, absolute_lifetime=5000)
    await world.get("sign_in")
    await world.get("remember")
    for _ in range(4):
        assert expires(await world.get("read", after=999)) == world.clock.now + 1000
    assert expires(await world.get("read", after=900)) == world.clock.now + 5000 - 4 * 999 - 900

    async def log_out_and_in(session: Session) -> None:
        session.logout()
        session["a"] = 1

    again = Client(world.with_policy({"again": log_out_and_in}, lifetime=100), world.client.cookie)
    await again.get("again")
    assert (await again.get("tell")).body.startswith("(100,")


async def test_without_being_permanent_it_counts_on_the_server(make_app: Any) -> None:
    world = World(make_app)
    await world.get("sign_in")
    answer = await world.get("remember")
    assert expires(answer) is None
    assert await world.is_alive(after=1000)
    assert not await world.is_alive(after=1)


@pytest.mark.parametrize("before", [None, 60, 1000, 2000])
@pytest.mark.parametrize(
    ("slow_sets", "quick_sets", "after"),
    [(None, 500, 500), (500, None, 500), (500, 700, 500), (None, None, None)],
)
async def test_of_two_requests_at_once_the_one_that_sets_it_is_heard(
    make_app: Any,
    before: int | None,
    slow_sets: int | None,
    quick_sets: int | None,
    after: int | None,
) -> None:
    def setting(name: str, lifetime: int | None, meanwhile: str | None = None) -> View:
        async def view(session: Session) -> None:
            session[name] = 1
            if lifetime is not None:
                session.lifetime = lifetime
            if meanwhile is not None:
                await world.client.twin().get(meanwhile)

        return view

    views = {
        "begin": setting("begin", before),
        "slow": setting("slow", slow_sets, "quick"),
        "quick": setting("quick", quick_sets),
    }
    world = World(make_app, views=views)
    await world.get("begin")
    await world.get("slow")
    assert eval((await world.get("read")).body) == {"begin": 1, "quick": 1, "slow": 1}
    expected = after if after is not None else before if before is not None else 100
    assert (await world.get("tell")).body.startswith(f"({expected},")


# The cookie


async def test_permanent_is_toggled_by_the_app(make_app: Any) -> None:
    world = World(make_app)
    assert expires(await world.get("sign_in")) is None
    assert expires(await world.get("stay")) == world.clock.now + 100
    assert expires(await world.get("write")) == world.clock.now + 100
    left = await world.get("leave")
    assert (left.sent_id, expires(left)) == (world.client.cookie, None)
    assert (await world.get("read")).set_cookie is None
    assert "'_permanent': False" in (await world.get("read")).body


async def test_the_policys_permanence_adds_no_key_and_gives_way(make_app: Any) -> None:
    world = World(make_app, permanent=True)
    assert expires(await world.get("sign_in")) == world.clock.now + 100
    assert "_permanent" not in (await world.get("read")).body
    assert (await world.get("tell")).body.endswith("True)")
    assert expires(await world.get("leave")) is None
    assert (await world.get("read")).set_cookie is None  # nothing slides any more
    assert not await world.is_alive(after=101)


LIFETIMES = [-3600, -1, 0, 1, 100, 400 * DAY, 10**9, 10**12, timedelta.max]


@pytest.mark.parametrize("lifetime", LIFETIMES, ids=str)
async def test_expires_agrees_with_max_age_however_long(
    lifetime: int | timedelta, make_app: Any
) -> None:
    world = World(make_app, lifetime=lifetime, permanent=True)
    answer = await world.get("sign_in")
    seconds = int(lifetime.total_seconds()) if isinstance(lifetime, timedelta) else lifetime
    last = 253402300799  # the last second that an HTTP date can name
    assert expires(answer) == min(world.clock.now + seconds, last)
    assert max_age(answer) == (seconds if make_app is starlette_app else None)


async def test_max_age_is_what_is_left_of_the_absolute_lifetime() -> None:
    world = World(starlette_app, permanent=True, absolute_lifetime=150)
    await world.get("sign_in")
    answer = await world.get("write", after=90)
    assert (max_age(answer), expires(answer)) == (60, world.clock.now + 60)


async def test_quarts_config_says_the_lifetime() -> None:
    store, clock = MemoryStore(), Clock()
    app = quart_app(MORE, store, clock=clock, policy=SessionPolicy(lifetime=5, permanent=True))
    for lifetime in (60, timedelta(minutes=2), timedelta(days=1)):
        app.config["PERMANENT_SESSION_LIFETIME"] = lifetime
        answer = await Client(app).get("sign_in")
        seconds = lifetime if isinstance(lifetime, int) else lifetime.total_seconds()
        assert expires(answer) == clock.now + seconds


# Since when


async def test_when_it_began_and_when_the_user_signed_in(make_app: Any) -> None:
    world = World(make_app, lifetime=DAY)
    start = int(world.clock.now)

    async def told(*, after: int = 0) -> tuple[int, int | None]:
        _, created, authenticated_at, _ = eval((await world.get("tell", after=after)).body)
        return created, authenticated_at

    assert await told() == (0, None)  # there is no session yet
    await world.get("sign_in")
    assert await told() == (start, None)
    await world.get("login", after=100)
    assert await told(after=50) == (start + 100, start + 100)
    await world.get("write")
    await world.get("regenerate", after=50)
    assert await told() == (start + 100, start + 100)
    await world.get("login", after=50)  # authenticated again
    assert await told() == (start + 250, start + 250)
    await world.get("logout", after=50)
    await world.get("sign_in")
    assert await told() == (start + 300, None)


async def test_every_store_keeps_what_decides(any_store: SessionStore, make_app: Any) -> None:
    clock = Clock()
    app = make_app(MORE, any_store, policy=SessionPolicy(lifetime=100, timeout=AMPLE), clock=clock)
    client = Client(app)
    for view in ("login", "remember"):
        await client.get(view)
    told = (await client.get("tell")).body
    assert told == f"(1000, {int(clock.now)}, {int(clock.now)}, False)"
    clock.advance(1001)
    assert (await client.get("read")).body == "{}"


@pytest.mark.parametrize("days", [1, 31, 400])
async def test_an_expired_record_that_is_still_there_is_no_session(
    any_store: SessionStore, make_app: Any, days: int
) -> None:
    clock, store = Clock(), RecordingStore(any_store)
    policy = SessionPolicy(lifetime=days * DAY, permanent=False)
    client = Client(make_app(VIEWS, store, policy=policy, clock=clock))
    await client.get("sign_in")
    (_, key) = store.calls[-1]
    clock.advance(days * DAY)
    assert "ada" in (await client.get("read")).body
    clock.advance(1)
    assert await any_store.open(key) is not None, "nobody has collected it"
    answer = await client.get("read")
    assert answer.body == "{}"
    # Nor does it become one by being written to.
    assert (await client.get("write")).sent_id is not None
    assert (await client.get("read")).body == "{'written': True}"
    assert store.calls[-1][1] != key
