"""A thousand writers of one session, against as many blind saves of the same size.

    python tests/benchmarks/writers.py memory:// file:///tmp/sessions redis://127.0.0.1:6379

Each writer has loaded the session before the first one commits, and writes a key of its own. Prints
for each store how long all commits took, how long as many concurrent `save(..., Match.ANY)` of what
was stored in the end, and how often the one contains the other.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time

from async_session import Match, SessionManager, SessionPolicy, SessionStore, store_from_url
from async_session.stores.base import SupportsClose
from async_session.testing import make_cookie
from async_session.tokens import CookieSigner

KEY = "a secret key that is long enough for all"
POLICY = SessionPolicy(timeout=30)


async def commits(store: SessionStore, writers: int) -> tuple[float, bytes]:
    """Return the seconds that it took, and what is stored."""
    manager = SessionManager(store, secret_key=KEY, policy=POLICY)
    cookie = await make_cookie(store, {"user": 42}, secret_key=KEY)
    sessions = [await manager.open(cookie) for _ in range(writers)]
    for n, session in enumerate(sessions):
        session[f"k{n}"] = n
    begun = time.perf_counter()
    await asyncio.gather(*(manager.commit(session) for session in sessions))
    seconds = time.perf_counter() - begun
    found = await manager.open(cookie)
    assert dict(found) == {"user": 42} | {f"k{n}": n for n in range(writers)}
    ticket = CookieSigner([KEY.encode()]).verify(cookie)
    assert ticket is not None
    return seconds, await store.open(ticket.key) or b""


async def blind_saves(store: SessionStore, writers: int, data: bytes) -> float:
    """Return the seconds that as many saves took."""
    key = secrets.token_hex(32)
    begun = time.perf_counter()
    await asyncio.gather(*(store.save(key, data, ttl=600, match=Match.ANY) for _ in range(writers)))
    return time.perf_counter() - begun


async def measure(url: str, writers: int, rounds: int) -> None:
    store = store_from_url(url)
    await commits(store, 10)
    ratios = []
    for _ in range(rounds):
        ours, data = await commits(store, writers)
        blind = await blind_saves(store, writers, data)
        ratios.append(ours / blind)
        print(
            f"{url.partition(':')[0]:<12}{writers} commits {ours * 1e3:8.1f} ms   "
            f"{writers} blind saves of {len(data)} bytes {blind * 1e3:8.1f} ms   "
            f"ratio {ours / blind:5.2f}",
            flush=True,
        )
    if isinstance(store, SupportsClose):
        await store.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="+")
    parser.add_argument("--writers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for one in options.stores:
        asyncio.run(measure(one, options.writers, options.rounds))
