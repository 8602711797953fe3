"""F-13: a Redis that answers, and does not do what it is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness import ADAPTERS, VIEWS, Client
from redis_groups import ask
from servers import RedisServer

from async_session.stores.redis import RedisStore

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.usefixtures("quiet")]

FAILED = {500, 503}
#: What makes a server say it, what ends that, and whether reads go on meanwhile.
REFUSALS = {
    "OOM": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", True),
    "READONLY": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", True),
    "MASTERDOWN": (
        "CONFIG SET replica-serve-stale-data no\r\nREPLICAOF 127.0.0.1 1",
        "REPLICAOF NO ONE",
        False,
    ),
}


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_what_redis_refuses_is_an_error_and_nothing_is_lost(
    own_redis_server: RedisServer, adapter: str, refusal: str
) -> None:
    begins, ends, readable = REFUSALS[refusal]
    store: Any = RedisStore(own_redis_server.url)
    client = Client(ADAPTERS[adapter](VIEWS, store))
    await client.get("sign_in")
    for command in begins.split("\r\n"):
        assert (await asyncio.to_thread(ask, own_redis_server.port, command))[:1] == "+"
    for view in ("write", "logout", "login"):
        answer = await client.twin().get(view)
        assert answer.status in FAILED
        assert answer.set_cookie is None
    answer = await client.twin().get("read")
    assert ("ada" in answer.body) is readable
    assert answer.status == 200 or not readable
    assert (await asyncio.to_thread(ask, own_redis_server.port, ends))[:1] == "+"
    assert "ada" in (await client.get("read")).body
    assert (await client.get("write")).status == 200
    assert "written" in (await client.get("read")).body
    await store.aclose()


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
async def test_a_script_that_redis_forgot_is_sent_again(
    own_redis_server: RedisServer, adapter: str
) -> None:
    """NOSCRIPT: nobody notices."""
    store = RedisStore(own_redis_server.url)
    client = Client(ADAPTERS[adapter](VIEWS, store))
    await client.get("sign_in")
    for _ in range(3):
        await asyncio.to_thread(ask, own_redis_server.port, "SCRIPT FLUSH")
        assert (await client.get("write")).status == 200
    assert "written" in (await client.get("read")).body
    await store.aclose()
