"""The same apps behind a real server, with wrk as the visitors: requests a second.

As a module, ``uvicorn served:app``: the app that the environment names.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import apps
import peers
from measure import Key
from servers import free_port, program

_HERE = Path(__file__).resolve().parent
_VISITORS = 50


class Served(NamedTuple):
    """One app on one server; `port` is where it listens."""

    key: Key
    port: int
    script: Path | None


class _Started:
    """An ASGI app that is built in the server's own loop, when that starts."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            name, framework, store = json.loads(os.environ["BENCH_APP"])
            servers = SimpleNamespace(redis_port=int(os.environ["BENCH_REDIS"]), mc_port=0)
            for peer in peers.all_of(servers):
                if (peer.name, peer.framework, peer.store) == (name, framework, store):
                    self._app = await peer.build(False, apps.session_of(200))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await self._app(scope, receive, send)


app = _Started()


def _command(server: str, port: int) -> list[str]:
    if server == "hypercorn":
        options = ["--bind", f"127.0.0.1:{port}"]
    else:
        options = ["--port", str(port), "--no-access-log", "--http", "httptools"]
    return [sys.executable, "-m", server, "served:app", "--log-level", "warning", *options]


def _cookies(port: int) -> list[str]:
    """Begin a session for every visitor; return what each sends from now on."""
    found: list[str] = []
    for _ in range(_VISITORS):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/seed") as answer:
            found.append(answer.headers["set-cookie"].partition(";")[0])
    return found


@contextlib.contextmanager
def _serving(peer: peers.Peer, server: str, redis_port: int) -> Iterator[Served]:
    port, here = free_port(), Path(tempfile.mkdtemp())
    environment = {
        **os.environ,
        "BENCH_APP": json.dumps([peer.name, peer.framework, peer.store]),
        "BENCH_REDIS": str(redis_port),
        "PYTHONPATH": os.pathsep.join([str(_HERE), str(_HERE.parent), *sys.path]),
    }
    process = subprocess.Popen(_command(server, port), env=environment, cwd=here)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/a").close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.05)
        script = None
        if peer.store:
            script = here / "visitors.lua"
            cookies = ", ".join(json.dumps(cookie) for cookie in _cookies(port))
            script.write_text(
                f"local cookies, turn = {{{cookies}}}, 0\n"
                "request = function()\n"
                "  turn = turn % #cookies + 1\n"
                '  return wrk.format("GET", nil, {Cookie = cookies[turn]})\n'
                "end\n"
            )
        yield Served((peer.name, peer.framework, peer.store, server), port, script)
    finally:
        process.terminate()
        process.wait(20)


def _visit(served: Served, seconds: int) -> float:
    path = "/c" if served.script else "/a"
    command = [program("wrk"), "-t1", f"-c{_VISITORS}", f"-d{seconds}s"]
    if served.script:
        command += ["-s", str(served.script)]
    command.append(f"http://127.0.0.1:{served.port}{path}")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{served.key}: {said}")
    (number,) = re.findall(r"Requests/sec: +([\d.]+)", said)
    return float(number)


def measure(redis_port: int, *, rounds: int, seconds: int) -> dict[Key, list[float]]:
    """Return requests a second in every round: bare apps untouched, all others reading a key."""
    servers = SimpleNamespace(redis_port=redis_port, mc_port=0)
    wanted = {"bare", "starsessions", "Starlette's own", "Quart's own", "quart-session"}
    found: dict[Key, list[float]] = {}
    with contextlib.ExitStack() as stack:
        all_served: list[Served] = []
        for peer in peers.all_of(servers):
            ours = peer.name == "async_session" and peer.store in {"redis", "redis msgpack"}
            least = peer.name == "the least" and peer.store == "redis"
            if peer.framework not in {"starlette", "quart"} or peer.store == "memory":
                continue
            if not (ours or least or peer.name in wanted):
                continue
            for server in ("uvicorn", "hypercorn") if peer.framework == "quart" else ("uvicorn",):
                all_served.append(stack.enter_context(_serving(peer, server, redis_port)))
        for done in range(rounds):
            for served in random.sample(all_served, len(all_served)):
                found.setdefault(served.key, []).append(_visit(served, seconds))
            print(f"served, round {done + 1} of {rounds}", file=sys.stderr, flush=True)
    return found
