"""F-6: the app's process is killed between the store calls of a new id or of an end."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from faults.forks import Say, forked
from harness import ADAPTERS, KEY, VIEWS, Answer, Client, Clock, request
from stores import STORES

from async_session import Match, SessionStore
from async_session.record import Record, decode
from async_session.testing import make_cookie
from async_session.tokens import CookieSigner

pytestmark = [pytest.mark.faults]

CALLS = 8


@pytest.fixture(autouse=True)
def blockbuster() -> None:
    """Let a child write to its pipe."""


class DeadlyStore:
    """Tell of each call, and kill the process before or after one of them."""

    def __init__(self, store: Any, say: Say, *, call: int, after: bool) -> None:
        self._store = store
        self._say = say
        self._left = call
        self._after = after

    async def open(self, key: str, /) -> bytes | None:
        self._before("open", key)
        found: bytes | None = await self._store.open(key)
        self._then()
        return found

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        self._before("save", key)
        saved: bool = await self._store.save(key, data, ttl=ttl, match=match)
        self._then()
        return saved

    async def delete(self, key: str, /) -> None:
        self._before("delete", key)
        await self._store.delete(key)
        self._then()

    def _before(self, verb: str, key: str) -> None:
        self._say([verb, key])
        self._left -= 1
        if self._left == 0 and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)

    def _then(self) -> None:
        if self._left == 0 and self._after:
            os.kill(os.getpid(), signal.SIGKILL)


def _key(cookie: str) -> str:
    ticket: Any = CookieSigner([KEY.encode()]).verify(cookie)
    return str(ticket.key)


@pytest.fixture(params=sorted(set(STORES) - {"memory"}))
def make_store(request: pytest.FixtureRequest) -> Any:
    return lambda: STORES[request.param](request)


@pytest.mark.parametrize(
    ("adapter", "view"),
    [
        ("quart", "login"),
        ("quart", "logout"),
        ("starlette", "clear"),
        ("starlette", "login"),
        ("starlette", "regenerate"),
    ],
)
def test_killed_at_each_store_call_in_turn(make_store: Any, adapter: str, view: str) -> None:
    """At most one id that a client holds is alive; what else is alive was never sent to anybody."""
    deaths = 0
    for call in range(1, CALLS):
        for after in (False, True):
            cookie = asyncio.run(_signed_in(make_store()))
            store = make_store()

            def child(say: Say, store: Any = store, cookie: str = cookie) -> None:
                deadly = DeadlyStore(store, say, call=call, after=after)  # noqa: B023
                app = ADAPTERS[adapter](VIEWS, deadly)
                answer = asyncio.run(request(app, f"/{view}", cookie=cookie))
                say(["sent", answer.sent_id or ""])
                os.kill(os.getpid(), signal.SIGUSR1)

            said, code = forked(child)
            asyncio.run(_check(make_store(), adapter, view, cookie, said))
            if code != -signal.SIGKILL:
                assert code == -signal.SIGUSR1, said
                assert deaths >= 4
                return
            deaths += 1
    raise AssertionError("it made more calls than this test kills")


async def _signed_in(store: SessionStore) -> str:
    cookie = await make_cookie(store, {"user": "ada"}, secret_key=KEY, clock=Clock())
    await _close(store)
    return cookie


async def _check(store: Any, adapter: str, view: str, cookie: str, said: list[Any]) -> None:
    held = {_key(cookie)} | {_key(what) for verb, what in said if verb == "sent" and what}
    alive = set()
    for key in held | {what for verb, what in said if verb in {"open", "save", "delete"}}:
        data = await store.open(key)
        if data is not None and isinstance(decode(data), Record):
            alive.add(key)
    assert len(alive & held) <= 1
    assert len(alive - held) <= 1, "a crash leaves one record at most that nobody can open"
    if view in {"login", "regenerate"}:
        assert alive, "until the new session is there, the old one is"
    # Whoever comes back is who they were, or a stranger; and can go on.
    client = Client(ADAPTERS[adapter](VIEWS, store), cookie)
    answer: Answer = await client.get("read")
    assert (answer.status, "ada" in answer.body) == (200, _key(cookie) in alive)
    assert (await client.get("login")).status == 200
    assert "ada" in (await client.get("read")).body
    assert (await Client(client.app, cookie).get("read")).body == "{}"
    await _close(store)


async def _close(store: Any) -> None:
    if hasattr(store, "aclose"):
        await store.aclose()
