"""Measure ourselves, the peers and the drivers in one run, and write docs/benchmarks.md.

python3 noxfile.py -s bench                 all of it, and the page is written
python3 noxfile.py -s bench -- --quick      a few minutes, to see that it works; not written
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import itertools
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

# They lie beside this program.
import apps
import measure
import parts
import peers
import profiles
import raw
import report
import rows
import served
from drive import Call, driver
from servers import MemcachedServer, RedisServer, SecantusServer

#: Sessions of each app: every request that is under way has one of its own.
SESSIONS = 64
AT_ONCE = (1, 50)
PACKAGES = (
    *("starlette", "quart", "litestar", "aiohttp", "starsessions"),
    *("quart-session", "aiohttp-session", "redis", "hiredis", "aiomcache", "pymongo", "aiofiles"),
    *("ormsgpack", "uvicorn", "hypercorn", "uvloop", "httptools"),
)


async def prepared(peer: peers.Peer, size: int, *, rolling: bool) -> tuple[Any, list[str]]:
    """Return an app's driver and the cookies of its sessions, which are seen to work."""
    target = driver(peer.framework, await peer.build(rolling, apps.session_of(size)))
    cookies: list[str] = []
    for _ in range(1 if peer.in_cookie else SESSIONS):
        answer = await target.get("/seed")
        cookies.append(answer.cookie)
        if (await target.get("/c", answer.cookie)).body != b"42":
            raise SystemExit(
                f"{peer.name} on {peer.framework} does not give back what it was given"
            )
    if len(set(cookies)) != len(cookies):
        raise SystemExit(f"{peer.name} on {peer.framework} gave one cookie to two visitors")
    return target, cookies


def turns(target: Any, work: str, cookies: list[str]) -> Call:
    """Return a call that takes the sessions in turn."""
    if work == "A":
        call: Call = target.caller(apps.PATHS[work])
        return call
    calls = itertools.cycle([target.caller(apps.PATHS[work], cookie) for cookie in cookies])
    return lambda: next(calls)()


async def app_cases(servers: Any) -> dict[measure.Key, Call]:
    """Return the calls of every app that is measured."""
    cases: dict[measure.Key, Call] = {}
    for peer in peers.all_of(servers):
        if not peer.store:
            target = driver(peer.framework, await peer.build(False, {}))
            # Three times, because everything on its framework is compared with it.
            cases |= {("bare", peer.framework, i): target.caller("/a") for i in range(3)}
            continue
        for size, rolling in itertools.product(rows.SIZES, (False, True)):
            works = [work for work in peer.workloads if (work == "E") == rolling]
            if not works:
                continue
            target, cookies = await prepared(peer, size, rolling=rolling)
            for work in works:
                if work != "A" or size == rows.SIZES[0]:
                    key = (peer.name, peer.framework, peer.store, work, size)
                    cases[key] = turns(target, work, cookies)
    return cases


async def function_calls(servers: Any) -> dict[measure.Key, tuple[float, float]]:
    """Return the functions that each of our requests runs, and a bare one."""
    found: dict[measure.Key, tuple[float, float]] = {}
    for peer in peers.all_of(servers):
        if peer.framework != "starlette" or peer.name not in {"bare", "async_session"}:
            continue
        if not peer.store:
            target = driver(peer.framework, await peer.build(False, {}))
            found["bare", "starlette", ""] = await measure.function_calls(target.caller("/a"))
        elif peer.store in {"memory", "redis"}:
            target, cookies = await prepared(peer, 200, rolling=False)
            for work in "ABCD":
                # The very call: taking turns would be counted as well.
                call = target.caller(apps.PATHS[work], None if work == "A" else cookies[0])
                key = (peer.name, peer.framework, peer.store, work)
                found[key] = await measure.function_calls(call)
    return found


async def commands(servers: Any) -> str:
    """Return what the Redis server was asked for one request, by its own count."""
    from redis.asyncio import Redis

    admin: Any = Redis(port=servers.redis_port, decode_responses=True)
    lines: list[list[str]] = []
    for peer in peers.all_of(servers):
        if not peer.store.startswith("redis"):
            continue
        cells: list[str] = []
        for work in report.WORKLOADS:
            if work not in peer.workloads:
                cells.append("-")
                continue
            target, cookies = await prepared(peer, 200, rolling=work == "E")
            call = turns(target, work, cookies)
            for _ in range(SESSIONS):  # what is done once is done
                await call()
            await admin.config_resetstat()
            for _ in range(SESSIONS):
                await call()
            found = await admin.info("commandstats")
            asked = {name[8:]: item["calls"] / SESSIONS for name, item in found.items()}
            cells.append(report.spoken(asked))
        lines.append([peer.name, peer.framework, peer.store, *cells])
    return report.table(["", "framework", "store", *report.WORKLOADS], lines)


def machine() -> str:
    """Return what the figures depend on: when, of which commit, on what, with which versions."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    processor = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return (
        f"Measured on {today} at commit {commit or 'unknown'}, on {os.cpu_count()} processors "
        f"({names[0] if names else processor}), {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}. {', '.join(versions)}."
    )


async def main(options: argparse.Namespace) -> None:
    """Run all of it."""
    with tempfile.TemporaryDirectory() as directory:
        tempfile.tempdir = directory  # so that nothing is left
        redis = RedisServer(Path(directory))
        memcached = MemcachedServer(Path(directory))
        mongodb = SecantusServer(Path(directory))
        all_servers = (redis, memcached, mongodb)
        try:
            for server in all_servers:
                server.start()
            servers = SimpleNamespace(
                redis_port=redis.port, mc_port=memcached.port, mongodb_url=mongodb.url
            )
            await measured(servers, options)
        finally:
            for server in all_servers:
                server.kill()


async def measured(servers: Any, options: argparse.Namespace) -> None:
    """Measure, print, and write the page."""
    about = machine()
    calls, asked = await function_calls(servers), await commands(servers)
    sizes: list[int] = list(rows.SIZES)
    cases = await raw.cases(servers, sizes) | await app_cases(servers)
    cases |= await parts.cases(servers, sizes)
    results = await measure.interleaved(
        cases, rounds=options.rounds, at_once=AT_ONCE, seconds=options.seconds
    )
    run = rows.Run(results)
    shares = {
        key: await profiles.shares(cases[key], at_once=AT_ONCE[-1], seconds=options.look_seconds)
        for key in profiles.PROFILED
    }
    found = [*rows.call_rows(calls), *rows.rows(run)]
    by_cpu = {row.what: row.ratio for row in rows.rows(rows.Run(results, cpu=True))}
    network = await raw.network(servers.redis_port, rounds=options.rounds, seconds=1)
    found += rows.network_rows(network)
    text = [about, f"{options.rounds} rounds. In brackets: the interval of 95 %."]
    if not options.no_server:
        visited = await asyncio.to_thread(
            served.measure,
            servers.redis_port,
            rounds=options.rounds,
            seconds=options.served_seconds,
        )
        found += rows.served_rows(visited)
        tail = ["## Behind a server", report.served_table(visited)]
    else:
        tail = []
    text += ["## What was aimed at", report.aims(found, by_cpu)]
    for tasks in AT_ONCE:
        head = f"## Microseconds over the bare app, {tasks} at once"
        gets = [
            report.shown(measure.figure(run.call("raw", "redis", size, tasks=tasks)))
            for size in sizes
        ]
        by_size = ", ".join(f"{size} B {get}" for size, get in zip(sizes, gets, strict=True))
        text += [head, f"One GET by redis-py: {by_size}.", report.costs(run, tasks=tasks)]
    text += ["## What a request is made of", "Microseconds.", report.made_of(run)]
    head = f"## Where the time of a request goes, {AT_ONCE[-1]} at once"
    said = (
        "Microseconds of the whole request, the bare app's among them, by whom a timer met at work."
    )
    text += [head, said, report.profiled(run, shares, tasks=AT_ONCE[-1])]
    said = "By its own count, in which a script and what it asks for are commands."
    text += ["## Commands at the Redis server for a request", said, asked]
    page = "\n\n".join([*text, *tail])
    print(page)
    if not options.no_page:
        report.write(page, report.chart(run, tasks=AT_ONCE[-1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=9, help="how often each case is measured")
    parser.add_argument("--seconds", type=float, default=0.03, help="of one measurement")
    parser.add_argument("--look-seconds", type=float, default=4, help="of one profile")
    parser.add_argument("--served-seconds", type=int, default=3, help="of one run of wrk")
    parser.add_argument("--no-server", action="store_true", help="leave the served apps out")
    parser.add_argument("--no-page", action="store_true", help="print, and write nothing")
    parser.add_argument("--quick", action="store_true", help="three rounds; writes nothing")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.served_seconds, chosen.look_seconds = 3, 0.01, 1, 0.2
        chosen.no_page = True
    asyncio.run(main(chosen))
