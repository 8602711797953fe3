"""Time many cases against each other: all in one process, in shuffled, interleaved rounds.

What the machine does meanwhile meets all of them alike. A figure is the median of the rounds; two
cases are compared round by round.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections.abc import Mapping, Sequence
from math import comb
from statistics import median
from typing import NamedTuple

from drive import Call

#: A name of what is measured: who, on what, with which store, workload and bytes.
Key = tuple[str | int, ...]


class Sample(NamedTuple):
    """Microseconds per call, in one round."""

    wall: float
    cpu: float


class Figure(NamedTuple):
    """A median with its interval of 95 %."""

    value: float
    low: float
    high: float


Results = dict[tuple[Key, int], list[Sample]]


def figure(values: Sequence[float]) -> Figure:
    """Return the median of the rounds and its interval, which assumes no distribution."""
    ordered, n = sorted(values), len(values)
    outside, rank = 0.0, 0
    # The median lies below the k-th of n values as often as a coin shows fewer than k heads.
    while rank < n // 2 and 2 * (outside + comb(n, rank) / 2**n) <= 0.05:
        outside += comb(n, rank) / 2**n
        rank += 1
    low, high = (rank - 1, n - rank) if rank else (0, n - 1)
    return Figure(median(ordered), ordered[low], ordered[high])


async def many(call: Call, times: int, at_once: int) -> int:
    """Make about so many calls, some of them at once; return how many."""

    async def one_after_the_other() -> None:
        for _ in range(each):
            await call()

    each = max(1, times // at_once)
    if at_once == 1:
        await one_after_the_other()
    else:
        await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return each * at_once


async def _sample(call: Call, times: int, at_once: int) -> Sample:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    done = await many(call, times, at_once)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Sample(wall / done * 1e6, cpu / done * 1e6)


async def interleaved(
    cases: Mapping[Key, Call], *, rounds: int, at_once: Sequence[int], seconds: float
) -> Results:
    """Return the samples of every case.

    Args:
        cases: what to call.
        rounds: how often each is measured.
        at_once: how many calls are under way at a time.
        seconds: how long one measurement is to take.
    """
    plan: list[tuple[Key, int, int]] = []
    for key, call in cases.items():
        for tasks in at_once:
            await many(call, 2 * max(tasks, 20), tasks)  # connections are made, caches are warm
            cost = (await _sample(call, max(tasks, 20), tasks)).wall / 1e6
            plan.append((key, tasks, max(2 * tasks, 20, min(5000, int(seconds / cost)))))
    results: Results = {(key, tasks): [] for key, tasks, _ in plan}
    # What there is now is looked at no more: it is the same for all.
    gc.freeze()
    for done in range(rounds):
        random.shuffle(plan)
        for key, tasks, times in plan:
            results[key, tasks].append(await _sample(cases[key], times, tasks))
        print(f"round {done + 1} of {rounds}", file=sys.stderr, flush=True)
    gc.unfreeze()
    return results


async def function_calls(call: Call) -> tuple[float, float]:
    """Return how many functions in Python and in C a call runs, which no other load changes."""
    for _ in range(20):
        await call()
    counts: list[tuple[int, int]] = []
    gc.disable()
    for _ in range(21):
        seen = {"call": 0, "c_call": -1}  # the last is the end of the counting itself

        def count(frame: object, event: str, arg: object, seen: dict[str, int] = seen) -> None:
            if event in seen:
                seen[event] += 1

        sys.setprofile(count)
        await call()
        sys.setprofile(None)
        counts.append((seen["call"], seen["c_call"]))
    gc.enable()
    return median(python for python, _ in counts), median(c for _, c in counts)
