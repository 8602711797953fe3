"""What is aimed at, as ratios that are taken round by round: who may cost how much of whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from measure import Figure, Key, Results, figure

SIZES = (200, 4096)


class Row(NamedTuple):
    """One aim. `at_least` turns the comparison round; `least` is what the least reaches."""

    what: str
    ratio: Figure
    aim: float
    at_least: bool = False
    least: Figure | None = None

    @property
    def met(self) -> str:
        """Whether it is met: by the median, or within what the rounds leave open."""
        value, low, high = self.ratio
        if self.at_least:
            return "yes" if value >= self.aim else "open" if high >= self.aim else "no"
        return "yes" if value <= self.aim else "open" if low <= self.aim else "no"


class Run:
    """The samples of a run, as lists with a value for each round.

    Args:
        results: what was measured.
        cpu: count the process's own time, which other processes disturb less, and not the clock's.
    """

    def __init__(self, results: Results, *, cpu: bool = False) -> None:
        self.results = results
        self._cpu = cpu

    def call(self, *key: str | int, tasks: int, cpu: bool = False) -> list[float]:
        """Return microseconds per call."""
        samples = self.results[key, tasks]
        return [sample.cpu if cpu or self._cpu else sample.wall for sample in samples]

    def over(self, *key: str | int, tasks: int, cpu: bool = False) -> list[float]:
        """Return microseconds per request over the bare app of the same framework."""
        bare = [self.call("bare", key[1], i, tasks=tasks, cpu=cpu) for i in range(3)]
        mine = self.call(*key, tasks=tasks, cpu=cpu)
        return [value - sorted(others)[1] for value, *others in zip(mine, *bare, strict=True)]


def ratio(of: Sequence[float], to: Sequence[float]) -> Figure:
    """Return how much of `to` is `of`, round by round."""
    return figure([a / b for a, b in zip(of, to, strict=True)])


class _Aim(NamedTuple):
    """What a request of ours may cost: `to` is a driver's call, or somebody's request."""

    what: str
    work: str
    to: Key
    aim: float
    at_least: bool = False
    on: str = "starlette"
    store: str = "redis"
    size: int = 200
    tasks: int = 50
    cpu: bool = False

    def ratio(self, run: Run, who: str) -> Figure:
        """Return how `who` compares with `to`, over the bare app."""
        tasks, cpu = self.tasks, self.cpu
        mine = run.over(who, self.on, self.store, self.work, self.size, tasks=tasks, cpu=cpu)
        their = run.call if self.to[0] == "raw" else run.over
        theirs = their(*self.to, tasks=tasks, cpu=cpu)
        return ratio(theirs, mine) if self.at_least else ratio(mine, theirs)


_GET = ("raw", "redis", 200)
_LARGE_GET = ("raw", "redis", 4096)
_FIND = ("raw", "mongodb", 200)
_OWN = ("Starlette's own", "starlette", "cookie")
_QUARTS_OWN = ("Quart's own", "quart", "cookie")
_QUART_SESSION = ("quart-session", "quart", "redis")
_STARSESSIONS = ("starsessions", "starlette", "redis")
_LITESTAR = ("Litestar's own", "litestar", "redis")
_AIOHTTP = ("aiohttp-session", "aiohttp", "redis")
_IN_MEMORY = ("starsessions", "starlette", "memory")

# fmt: off
_AIMS = (
    _Aim("A, Starlette: of Starlette's own middleware", "A", (*_OWN, "A", 200), 0.45, store="memory"),
    _Aim("A, Quart: of quart-session", "A", (*_QUART_SESSION, "A", 200), 0.15, on="quart"),
    _Aim("C, memory: of starsessions' memory store", "C", (*_IN_MEMORY, "C", 200), 0.25, store="memory"),
    _Aim("B, Redis, 200 B: of a GET", "B", _GET, 0.30),
    _Aim("C, Redis, 200 B: of a GET", "C", _GET, 0.35),
    _Aim("C, Redis, 200 B: less than starsessions", "C", (*_STARSESSIONS, "C", 200), 10, at_least=True),
    _Aim("C, Redis, 200 B: less than Litestar's own", "C", (*_LITESTAR, "C", 200), 12, at_least=True),
    _Aim("C, Redis, 200 B: less than aiohttp-session", "C", (*_AIOHTTP, "C", 200), 5, at_least=True),
    _Aim("D, Redis, 200 B: less than starsessions", "D", (*_STARSESSIONS, "D", 200), 5, at_least=True),
    _Aim("C, Redis, 200 B, Quart: of a GET", "C", _GET, 0.40, on="quart"),
    _Aim("C, Redis, 200 B, Quart: less than quart-session", "C", (*_QUART_SESSION, "C", 200), 6, at_least=True, on="quart"),
    _Aim("C, Redis, 4 KB, `fast`: of a GET", "C", _LARGE_GET, 0.55, store="redis msgpack", size=4096),
    _Aim("C, Redis, 4 KB: of a GET", "C", _LARGE_GET, 0.85, size=4096),
    _Aim("C, Redis, one at a time: of a GET", "C", _GET, 1.15, tasks=1),
    _Aim("C, Redis, one at a time: of a GET's client CPU", "C", _GET, 0.75, tasks=1, cpu=True),
    _Aim("D, Redis, 200 B: of a GET", "D", _GET, 0.75),
    _Aim("D, Redis, 4 KB: of a GET", "D", _LARGE_GET, 1.2, size=4096),
    _Aim("D, Redis, 4 KB, `fast`: of a GET", "D", _LARGE_GET, 1.2, store="redis msgpack", size=4096),
    _Aim("E, Redis, no refresh due: of a GET", "E", _GET, 0.40, store="redis rested"),
    _Aim("E, Redis, due on every request: of a GET", "E", _GET, 0.80),
    _Aim("C, Redis: of Starlette's signed cookie", "C", (*_OWN, "C", 200), 0.6),
    _Aim("C, Redis, Quart: of Quart's signed cookie", "C", (*_QUARTS_OWN, "C", 200), 0.25, on="quart"),
    _Aim("C, memcached: of aiomcache's get", "C", ("raw", "memcached", 200), 0.35, store="memcached"),
    _Aim("C, MongoDB, 1 at once: of find_one's client CPU", "C", _FIND, 1.10, store="mongodb", tasks=1, cpu=True),
    _Aim("C, MongoDB, 50 at once: of find_one's client CPU", "C", _FIND, 1.10, store="mongodb", cpu=True),
    _Aim("C, Redis, a client that is not shared: of a GET", "C", _GET, 1.4, store="redis unshared"),
)
# fmt: on


def rows(run: Run) -> Iterator[Row]:
    """Return every aim that the interleaved run answers."""
    for aim in _AIMS:
        reached, least = aim.ratio(run, "async_session"), aim.ratio(run, "the least")
        yield Row(aim.what, reached, aim.aim, aim.at_least, least)
    read = run.call("store", "files", 200, tasks=50)
    faster = ratio(run.call("raw", "files", 200, tasks=50), read)
    yield Row("a file: faster than aiofiles", faster, 2.5, True)


def served_rows(served: Mapping[Key, list[float]]) -> Iterator[Row]:
    """Return the aims for requests a second."""
    for framework, server, bare, peer, times in (
        ("starlette", "uvicorn", 0.60, "starsessions", 4.0),
        ("quart", "uvicorn", 0.84, "quart-session", 1.5),
    ):
        for what, other, aim in (
            ("of the bare app", ("bare", framework, "", server), bare),
            (f"times {peer}", (peer, framework, "redis", server), times),
        ):
            mine, least = (
                ratio(served[who, framework, "redis", server], served[other])
                for who in ("async_session", "the least")
            )
            yield Row(f"served, {framework}: {what}", mine, aim, True, least)


def network_rows(network: Mapping[str, Mapping[str, list[float]]]) -> Iterator[Row]:
    """Return the aims for a slow network and for cancelled requests."""
    for tasks in (1, 16):
        row = network[f"p95 at {tasks}"]
        what = f"95th percentile through 1 ms, {tasks} at once: of redis-py's pool"
        yield Row(what, ratio(row["async_session"], row["redis-py"]), 1.05)
    done = network["completed"]
    times = ratio(done["async_session"], done["redis-py"])
    yield Row("cancelled at random: completed, times redis-py", times, 5, True)
    for what in ("wrong", "hung", "failed"):
        yield Row(f"cancelled at random: {what}", figure(network[what]["async_session"]), 0)


def call_rows(calls: Mapping[Key, tuple[float, float]]) -> Iterator[Row]:
    """Return the aims for function calls over the bare app, in Python and in C."""
    bare = calls["bare", "starlette", ""]
    for store, work, aims in (
        ("memory", "A", (6, 4)),
        ("memory", "C", (16, 16)),
        ("redis", "C", (100, 95)),
    ):
        mine = calls["async_session", "starlette", store, work]
        for kind, index in (("Python", 0), ("C", 1)):
            count = mine[index] - bare[index]
            what = f"{work}, {store}: functions in {kind}"
            yield Row(what, Figure(count, count, count), aims[index])
