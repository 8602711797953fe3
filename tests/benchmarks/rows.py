"""What is aimed at, as ratios that are taken round by round: who may cost how much of whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from measure import Figure, Key, Results, figure

SIZES = (200, 4096)


class Row(NamedTuple):
    """One aim. `at_least` turns the comparison round."""

    what: str
    ratio: Figure
    aim: float
    at_least: bool = False

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


def rows(run: Run) -> Iterator[Row]:
    """Return every aim that the interleaved run answers."""
    us, star = "async_session", "starlette"

    def over(*key: str | int, tasks: int = 50) -> list[float]:
        return run.over(*key, tasks=tasks)

    def raw(driver: str = "redis", size: int = 200, tasks: int = 50) -> list[float]:
        return run.call("raw", driver, size, tasks=tasks)

    def ours(work: str, size: int = 200, store: str = "redis", on: str = star) -> list[float]:
        return over(us, on, store, work, size)

    own, quart_own = "Starlette's own", "Quart's own"
    yield Row(
        "A, Starlette: of Starlette's own middleware",
        ratio(ours("A", store="memory"), over(own, star, "cookie", "A", 200)),
        0.45,
    )
    yield Row(
        "A, Quart: of quart-session",
        ratio(ours("A", on="quart"), over("quart-session", "quart", "redis", "A", 200)),
        0.15,
    )
    yield Row(
        "C, memory: of starsessions' memory store",
        ratio(ours("C", store="memory"), over("starsessions", star, "memory", "C", 200)),
        0.25,
    )
    yield Row("B, Redis, 200 B: of a GET", ratio(ours("B"), raw()), 0.30)
    yield Row("C, Redis, 200 B: of a GET", ratio(ours("C"), raw()), 0.35)
    for name, framework, work, aim in (
        ("starsessions", star, "C", 10),
        ("Litestar's own", "litestar", "C", 12),
        ("aiohttp-session", "aiohttp", "C", 5),
        ("starsessions", star, "D", 5),
    ):
        theirs = over(name, framework, "redis", work, 200)
        yield Row(f"{work}, Redis, 200 B: less than {name}", ratio(theirs, ours(work)), aim, True)
    on_quart = ours("C", on="quart")
    yield Row("C, Redis, 200 B, Quart: of a GET", ratio(on_quart, raw()), 0.40)
    theirs = over("quart-session", "quart", "redis", "C", 200)
    yield Row("C, Redis, 200 B, Quart: less than quart-session", ratio(theirs, on_quart), 6, True)
    packed = ours("C", 4096, "redis msgpack")
    yield Row("C, Redis, 4 KB, `fast`: of a GET", ratio(packed, raw(size=4096)), 0.55)
    yield Row("C, Redis, 4 KB: of a GET", ratio(ours("C", 4096), raw(size=4096)), 0.85)
    alone = run.over(us, star, "redis", "C", 200, tasks=1)
    yield Row("C, Redis, one at a time: of a GET", ratio(alone, raw(tasks=1)), 1.15)
    cpu = run.over(us, star, "redis", "C", 200, tasks=1, cpu=True)
    raw_cpu = run.call("raw", "redis", 200, tasks=1, cpu=True)
    yield Row("C, Redis, one at a time: of a GET's client CPU", ratio(cpu, raw_cpu), 0.75)
    yield Row("D, Redis, 200 B: of a GET", ratio(ours("D"), raw()), 0.75)
    yield Row("D, Redis, 4 KB: of a GET", ratio(ours("D", 4096), raw(size=4096)), 1.2)
    packed = ours("D", 4096, "redis msgpack")
    yield Row("D, Redis, 4 KB, `fast`: of a GET", ratio(packed, raw(size=4096)), 1.2)
    rested = ours("E", store="redis rested")
    yield Row("E, Redis, no refresh due: of a GET", ratio(rested, raw()), 0.40)
    yield Row("E, Redis, due on every request: of a GET", ratio(ours("E"), raw()), 0.80)
    signed = over(own, star, "cookie", "C", 200)
    yield Row("C, Redis: of Starlette's signed cookie", ratio(ours("C"), signed), 0.6)
    signed = over(quart_own, "quart", "cookie", "C", 200)
    yield Row("C, Redis, Quart: of Quart's signed cookie", ratio(on_quart, signed), 0.25)
    cached = ours("C", store="memcached")
    yield Row("C, memcached: of aiomcache's get", ratio(cached, raw("memcached")), 0.35)
    read = run.call("store", "files", 200, tasks=50)
    yield Row("a file: faster than aiofiles", ratio(raw("files"), read), 2.5, True)
    for tasks in (1, 50):
        cpu = run.over(us, star, "mongodb", "C", 200, tasks=tasks, cpu=True)
        one = run.call("raw", "mongodb", 200, tasks=tasks, cpu=True)
        what = f"C, MongoDB, {tasks} at once: of find_one's client CPU"
        yield Row(what, ratio(cpu, one), 1.10)
    unshared = ours("C", store="redis unshared")
    yield Row("C, Redis, a client that is not shared: of a GET", ratio(unshared, raw()), 1.4)


def served_rows(served: Mapping[Key, list[float]]) -> Iterator[Row]:
    """Return the aims for requests a second."""
    for framework, server, bare, peer, times in (
        ("starlette", "uvicorn", 0.60, "starsessions", 4.0),
        ("quart", "uvicorn", 0.84, "quart-session", 1.5),
    ):
        mine = served["async_session", framework, "redis", server]
        to_bare = ratio(mine, served["bare", framework, "", server])
        yield Row(f"served, {framework}: of the bare app", to_bare, bare, True)
        to_peer = ratio(mine, served[peer, framework, "redis", server])
        yield Row(f"served, {framework}: times {peer}", to_peer, times, True)


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
