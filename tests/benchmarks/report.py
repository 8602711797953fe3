"""A run as a page of the documentation: text, tables, and a chart drawn from the same figures."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from measure import Figure, Key, figure
from parts import PARTS
from profiles import GROUPS
from rows import SIZES, Row, Run

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"
CHART = DOCS / "images" / "benchmarks.svg"
BEGIN, END = "<!-- begin: written by the benchmark -->", "<!-- end: written by the benchmark -->"

WORKLOADS = {
    "A": "no cookie, session untouched",
    "B": "a session, untouched",
    "C": "one key read",
    "D": "one key written",
    "E": "one key read, the session prolonged",
}


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines)) + "\n"


def shown(value: Figure, unit: str = "") -> str:
    """Return a median and its interval."""
    digits = 2 if abs(value.value) < 10 else 1 if abs(value.value) < 100 else 0
    middle, low, high = (f"{number:.{digits}f}" for number in value)
    return f"{middle}{unit} ({low}..{high})"


#: Commands of the counting itself, and those that connect.
_ASIDE = ("config", "info", "client", "hello", "select")


def spoken(asked: Mapping[str, float]) -> str:
    """Return commands and how often each was given."""
    named = {name: count for name, count in asked.items() if not name.startswith(_ASIDE)}
    return ", ".join(f"{name.upper()} {count:.3g}" for name, count in named.items()) or "none"


def packages(run: Run) -> list[Key]:
    """Return who was measured: name, framework, store."""
    names = (key[:3] for key, _ in run.results if len(key) == 5)
    return list(dict.fromkeys(names))


def costs(run: Run, *, tasks: int) -> str:
    """Return microseconds over the bare app, of everybody at every workload; then of client CPU."""
    lines = []
    by_cpu = Run(run.results, cpu=True)
    for who in packages(run):
        for size in SIZES:
            cells = []
            for work in WORKLOADS:
                there = ((*who, work, size), tasks) in run.results
                if not there:
                    cells.append("-")
                    continue
                cost = figure(run.over(*who, work, size, tasks=tasks))
                cpu = figure(by_cpu.over(*who, work, size, tasks=tasks))
                cells.append(f"{shown(cost)}; {cpu.value:.1f}")
            if set(cells) != {"-"}:
                name, framework, store = map(str, who)
                lines.append([name, framework, store, str(size), *cells])
    return table(["", "framework", "store", "bytes", *WORKLOADS], lines)


def made_of(run: Run) -> str:
    """Return what the parts of a request cost, one at a time and 50 at once."""
    columns = list(itertools.product(SIZES, (1, 50)))
    lines = []
    for name, what in PARTS.items():
        costs = (run.call("part", name, size, tasks=tasks) for size, tasks in columns)
        lines.append([what, *(shown(figure(cost)) for cost in costs)])
    head = [f"{size} B, {tasks} at once" for size, tasks in columns]
    return table(["", *head], lines)


def profiled(run: Run, shares: Mapping[Key, Mapping[str, float]], *, tasks: int) -> str:
    """Return whose the microseconds of some requests are, the bare app's among them."""
    lines = []
    for key, share in shares.items():
        cost = figure(run.call(*key, tasks=tasks)).value
        request = ", ".join(str(part) for part in key if part != 0)
        parts = (f"{cost * share[name]:.1f}" for name in GROUPS)
        lines.append([request, f"{cost:.1f}", *parts])
    return table(["", "all", *GROUPS], lines)


def aims(rows: Iterable[Row], by_cpu: Mapping[str, Figure]) -> str:
    """Return every aim with what was reached, also by the least, and also in client CPU."""
    lines = []
    for row in rows:
        sign = ">=" if row.at_least else "<="
        cpu = by_cpu.get(row.what)
        other = "" if cpu is None or cpu == row.ratio else shown(cpu)
        least = "" if row.least is None else shown(row.least)
        lines.append([row.what, f"{sign} {row.aim:g}", shown(row.ratio), row.met, least, other])
    return table(["what", "aim", "reached", "met", "the least", "in client CPU"], lines)


def served_table(served: Mapping[Key, list[float]]) -> str:
    """Return requests a second of every app that was served."""
    lines = [[*map(str, key), shown(figure(values))] for key, values in served.items()]
    return table(["", "framework", "store", "server", "requests a second"], sorted(lines))


def chart(run: Run, *, tasks: int) -> str:
    """Draw what reading a key costs with Redis: a bar for each package, a line for a GET."""
    bars: list[tuple[str, Figure, bool]] = []
    for name, framework, store in packages(run):
        key = (name, framework, store, "C", 200)
        is_shown = name != "the least" and store in {"redis", "redis msgpack", "cookie"}
        if (key, tasks) in run.results and is_shown:
            label = f"{name}, {framework}" + (
                "" if store == "redis" else f" ({str(store).split()[-1]})"
            )
            cost = figure(run.over(*key, tasks=tasks))
            bars.append((label, cost, name == "async_session"))
    bars.sort(key=lambda bar: bar[1].value)
    get = figure(run.call("raw", "redis", 200, tasks=tasks))
    widest = max(get.high, *(cost.high for _, cost, _ in bars))
    left, right, step, top = 250, 90, 26, 56
    scale = (760 - left - right) / widest
    height = top + step * len(bars) + 34
    title = f"Microseconds a request for a session: one key read, {tasks} at once, 200 bytes"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" role="img">',
        f"<title>{escape(title)}</title>",
        "<style>text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}",
        ".peer{fill:#8c959f}",
        ".ours{fill:#0969da}.line{stroke:#cf222e;stroke-width:1.5}.range{stroke:#1f2328}",
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.peer{fill:#6e7681}",
        ".ours{fill:#4493f8}.line{stroke:#ff7b72}.range{stroke:#e6edf3}}</style>",
        f'<text x="12" y="22" class="title">{escape(title)}</text>',
    ]
    for number, (label, cost, ours) in enumerate(bars):
        y = top + step * number
        end = left + max(0.0, cost.value) * scale
        low, high = left + max(0.0, cost.low) * scale, left + cost.high * scale
        kind = "ours" if ours else "peer"
        parts += [
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>',
            f'<rect class="{kind}" x="{left}" y="{y + 2}" width="{end - left:.1f}" height="17"/>',
            f'<path class="range" d="M{low:.1f} {y + 10.5}H{high:.1f}"/>',
            f'<text x="{high + 6:.1f}" y="{y + 15}">{cost.value:.1f}</text>',
        ]
    x, bottom = left + get.value * scale, top + step * len(bars)
    parts += [
        f'<path class="line" d="M{x:.1f} {top - 8}V{bottom + 4}"/>',
        f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">'
        f"redis-py: one GET, {get.value:.1f}</text>",
        "</svg>\n",
    ]
    return "\n".join(parts)


def write(generated: str, drawing: str) -> None:
    """Put the text between the page's marks, and the chart beside it."""
    picture = f"![Microseconds a request, package by package](images/{CHART.name})"
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{PAGE} has lost its marks: {BEGIN} and {END}")
    text = re.sub(r"\n{3,}", "\n\n", f"{before}{BEGIN}\n\n{picture}\n\n{generated}\n{END}{after}")
    PAGE.write_text(text, "utf-8")
    CHART.write_text(drawing, "utf-8")
