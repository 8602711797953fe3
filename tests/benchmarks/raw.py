"""What sessions are compared with: one call of a driver, and what a network does to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apps
from drive import Call
from measure import Key

from async_session.record import Record

KEYS = [f"{number:064x}" for number in range(64)]


def turns(call: Callable[[str], Awaitable[object]]) -> Call:
    """Return a call that goes through all keys in turn: none is read twice at once."""
    names = itertools.cycle(KEYS)
    return lambda: call(next(names))


def _get(redis: Any, size: int, key: str) -> Awaitable[object]:
    answer: Awaitable[object] = redis.get(f"raw:{size}:{key}")
    return answer


async def cases(servers: Any, sizes: list[int]) -> dict[Key, Call]:
    """Return the driver's calls, and those of our stores without an app in front."""
    import aiofiles
    from aiomcache import Client
    from pymongo import AsyncMongoClient
    from redis.asyncio import Redis

    from async_session.stores.filesystem import FileSystemStore
    from async_session.stores.memcached import MemcachedStore

    found: dict[Key, Call] = {}
    redis: Any = Redis(port=servers.redis_port)
    for size in sizes:
        for key in KEYS:
            await redis.set(f"raw:{size}:{key}", json.dumps(apps.session_of(size)))
        found["raw", "redis", size] = turns(partial(_get, redis, size))

    value = Record(0, 0, json.dumps(apps.session_of(200)).encode()).encode()
    memcached = Client("127.0.0.1", servers.mc_port)
    mongodb: Any = AsyncMongoClient(servers.mongodb_url)["app"]["raw"]
    directory = Path(tempfile.mkdtemp())
    stores: dict[str, Any] = {
        "files": FileSystemStore(tempfile.mkdtemp()),
        "memcached": MemcachedStore(f"127.0.0.1:{servers.mc_port}"),
    }
    for key in KEYS:
        await memcached.set(key.encode(), value)
        await mongodb.replace_one({"_id": key}, {"_id": key, "payload": value}, upsert=True)
        (directory / key).write_bytes(value)
        for store in stores.values():
            await store.save(key, value, ttl=3600)

    async def by_aiofiles(key: str) -> bytes:
        async with aiofiles.open(directory / key, "rb") as file:
            return await file.read()

    found["raw", "memcached", 200] = turns(lambda key: memcached.get(key.encode()))
    found["raw", "mongodb", 200] = turns(lambda key: mongodb.find_one({"_id": key}))
    found["raw", "files", 200] = turns(by_aiofiles)
    for name, store in stores.items():
        found["store", name, 200] = turns(store.open)
    return found


Read = Callable[[str], Awaitable[bytes | None]]


async def two_readers(port: int) -> dict[str, Read]:
    """Return redis-py's own way to read a session's record, and our store's, of one server."""
    from redis.asyncio import Redis

    from async_session.stores.redis import RedisStore

    client: Any = Redis(port=port, socket_timeout=None)
    store = RedisStore(f"redis://127.0.0.1:{port}/0")
    for key in KEYS:
        await store.save(key, b"\x81" * 16 + key.encode(), ttl=3600)
    return {"redis-py": lambda key: client.get(f"session:{key}"), "async_session": store.open}


async def latency(read: Read, tasks: int) -> float:
    """Return the 95th percentile of `tasks` readers that come and go, in milliseconds."""
    times: list[float] = []

    async def reader() -> None:
        for _ in range(60):
            await asyncio.sleep(random.random() * 0.004)
            began = time.perf_counter()
            await read(random.choice(KEYS))
            times.append((time.perf_counter() - began) * 1e3)

    await asyncio.gather(*(reader() for _ in range(tasks)))
    return sorted(times)[int(len(times) * 0.95)]


async def cancellations(read: Read, seconds: float) -> dict[str, int]:
    """Cancel four of ten reads at any moment; count what the others were given."""
    counts: dict[str, int] = {"completed": 0, "wrong": 0, "hung": 0, "failed": 0}
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def one(key: str) -> None:
        task = asyncio.ensure_future(read(key))
        if random.random() < 0.4:
            await asyncio.sleep(random.choice([0, random.random() * 0.0006]))
            task.cancel()
        done, _ = await asyncio.wait([task], timeout=2)
        if not done:
            counts["hung"] += 1
        elif not task.cancelled() and task.exception():
            counts["failed"] += 1
        elif not task.cancelled():
            whole = task.result() == b"\x81" * 16 + key.encode()
            counts["completed" if whole else "wrong"] += 1

    async def visitor() -> None:
        while loop.time() < end:
            await one(random.choice(KEYS))

    await asyncio.gather(*(visitor() for _ in range(30)))
    return counts


@contextlib.contextmanager
def _delayed(port: int) -> Iterator[int]:
    """Yield the port of a proxy in a process of its own, with a trip of 1 ms."""
    command = [sys.executable, str(Path(__file__).with_name("delayed.py")), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate()


async def network(port: int, *, rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Return what both readers do through a delay of 1 ms, and while they are cancelled."""
    found: dict[str, dict[str, list[float]]] = {}
    with _delayed(port) as later:
        readers = await two_readers(later)
        for _, tasks in itertools.product(range(rounds), (1, 16)):
            for name, read in random.sample(sorted(readers.items()), 2):
                row = found.setdefault(f"p95 at {tasks}", {}).setdefault(name, [])
                row.append(await latency(read, tasks))
    readers = await two_readers(port)
    for _ in range(rounds):
        for name, read in random.sample(sorted(readers.items()), 2):
            for what, count in (await cancellations(read, seconds)).items():
                found.setdefault(what, {}).setdefault(name, []).append(count)
    return found
