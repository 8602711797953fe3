"""The benchmark's page says what was measured and nothing else; its arithmetic is right."""

from __future__ import annotations

import asyncio
import json
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import apps
import measure
import ours
import peers
import profiles
import pytest
import report
import rows
from drive import driver

for module in ("quart", "starlette.middleware.sessions"):
    import_module(module)  # which blocks, and the apps import it in the event loop


def results(rounds: int = 9) -> measure.Results:
    """Return samples in which each of ours costs 10 us over bare, each of theirs 100, a GET 50."""

    def samples(cost: float) -> list[measure.Sample]:
        return [measure.Sample(cost + number, cost) for number in range(rounds)]

    found: measure.Results = {}
    for tasks in (1, 50):
        for framework in ("starlette", "quart", "litestar", "aiohttp"):
            for number in range(3):
                found[("bare", framework, number), tasks] = samples(5)
        for size in rows.SIZES:
            found[("raw", "redis", size), tasks] = samples(50)
            for work in report.WORKLOADS:
                found[("async_session", "starlette", "redis", work, size), tasks] = samples(15)
                found[("starsessions", "starlette", "redis", work, size), tasks] = samples(105)
    return found


RUN = rows.Run(results())


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (range(9), 1, 7),  # 96.1 %: the exact binomial interval, as in tables of the sign test
        (range(20), 5, 14),
        (range(5), 0, 4),  # too few for 95 %: all that there is
        (range(3), 0, 2),
        ([7.0], 7, 7),
    ],
    ids=lambda value: str(value),
)
def test_an_interval_is_that_of_the_sign_test(values: Any, low: float, high: float) -> None:
    found = measure.figure(list(values))
    assert (found.low, found.high) == (low, high)
    assert found.low <= found.value <= found.high


def test_a_cost_is_what_is_over_the_bare_app_in_the_same_round() -> None:
    key = ("async_session", "starlette", "redis", "C", 200)
    assert RUN.over(*key, tasks=50) == [10.0] * 9
    get = RUN.call("raw", "redis", 200, tasks=50)
    assert get == [50.0 + number for number in range(9)]
    assert rows.ratio(RUN.over(*key, tasks=50), get).value == 10 / 54


@pytest.mark.parametrize(
    ("ratio", "at_least", "met"),
    [
        ((0.9, 0.8, 1.2), False, "yes"),
        ((1.1, 0.8, 1.2), False, "open"),
        ((1.1, 1.01, 1.2), False, "no"),
        ((1.1, 0.8, 1.2), True, "yes"),
        ((0.9, 0.8, 1.2), True, "open"),
        ((0.9, 0.8, 0.99), True, "no"),
    ],
)
def test_an_aim_is_met_by_the_median(ratio: Any, at_least: bool, met: str) -> None:
    assert rows.Row("", measure.Figure(*ratio), 1.0, at_least).met == met


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("/x/async_session/stores/_redis_pipeline.py", "store"),
        ("/x/async_session/_packing.py", "serializer"),
        ("/usr/lib/python3/json/decoder.py", "serializer"),
        ("/x/async_session/_response.py", "adapter"),
        ("/x/async_session/updates.py", "writes"),
        ("/usr/lib/python3/asyncio/events.py", "loop"),
        ("/x/site-packages/starlette/routing.py", "framework"),
        (apps.__file__, "view"),
        (profiles.__file__, "collector"),
    ],
)
def test_a_function_is_counted_where_its_file_belongs(path: str, group: str) -> None:
    assert profiles._group_of(path) == group


@pytest.mark.timeout(60, method="thread")  # the other one is by the signal that is used here
@pytest.mark.anyio
async def test_a_profile_finds_who_is_at_work() -> None:
    async def call() -> None:
        json.loads(json.dumps([*range(1000)]))
        await asyncio.sleep(0)

    found = await profiles.shares(call, at_once=2, seconds=0.3)
    assert list(found) == list(profiles.GROUPS)
    assert sum(found.values()) == pytest.approx(1)
    assert found["serializer"] > 0.1
    assert found["store"] == 0
    text = report.profiled(
        RUN, {("async_session", "starlette", "redis", "C", 200): found}, tasks=50
    )
    assert "| async_session, starlette, redis, C, 200 | 19.0 |" in text


def test_a_run_is_written_between_the_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# Before\n\n{report.BEGIN}\n\nold\n\n{report.END}\n\nAfter\n")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report, "CHART", tmp_path / "chart.svg")
    report.write(report.costs(RUN, tasks=50), report.chart(RUN, tasks=50))
    text = page.read_text()
    assert text.startswith(f"# Before\n\n{report.BEGIN}\n\n![")
    assert "(images/chart.svg)" in text
    assert text.endswith(f"\n{report.END}\n\nAfter\n")
    assert "old" not in text
    assert "| starsessions | starlette | redis | 4096 | - |" not in text
    assert "| async_session | starlette | redis | 200 | 10.0 (10.0..10.0); 10.0 |" in text
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="lost its marks"):
        report.write("", "")


def test_the_chart_is_a_small_picture_for_light_and_dark() -> None:
    drawn = report.chart(RUN, tasks=50)
    tree = ElementTree.fromstring(drawn)
    texts = [element.text or "" for element in tree.iter() if element.tag.endswith("text")]
    assert "starsessions, starlette" in texts
    assert "redis-py: one GET, 54.0" in texts
    bars = {e.get("class"): float(e.get("width", 0)) for e in tree.iter() if e.tag.endswith("rect")}
    assert bars["peer"] == pytest.approx(10 * bars["ours"], rel=0.01)
    assert "prefers-color-scheme:dark" in drawn
    assert len(drawn) < 10_000


def test_no_figure_stands_on_the_page_that_was_not_measured() -> None:
    before, begin, rest = report.PAGE.read_text("utf-8").partition(report.BEGIN)
    generated, end, after = rest.partition(report.END)
    assert begin
    assert end
    assert report.END not in after
    numbers = set(re.findall(r"(?<!\w)\d+", before + after))
    assert numbers <= {"95"}, "figures belong between the marks"
    if "Measured on" in generated:
        assert re.search(r"Measured on [\d-]+ at commit \w+", generated)
        assert ElementTree.parse(report.CHART).getroot().tag.endswith("svg")
        # Every aim of the list, and everybody's costs.
        assert generated.count("| yes |") + generated.count("| no |") > 20


def test_the_readme_says_what_was_measured() -> None:
    measured = dict(
        re.findall(
            r"^\| ([^|]+) \| [<>]= [\d.]+ \| ([\d.]+) \(", report.PAGE.read_text("utf-8"), re.M
        )
    )
    readme = (report.DOCS.parent / "README.md").read_text("utf-8")
    said = {
        "C, Redis, 200 B: of a GET": r"reading a session costs ([\d.]+) of",
        "D, Redis, 200 B: of a GET": r"writing one ([\d.]+) of",
        "C, Redis, 200 B: less than starsessions": r"([\d.]+) times less than starsessions",
        "C, Redis, 200 B: less than Litestar's own": r"([\d.]+) times less than Litestar's own",
        "C, Redis, 200 B, Quart: less than quart-session": r"([\d.]+) times less than quart-",
    }
    text = " ".join(readme.split())
    for row, pattern in said.items():
        found = re.search(pattern, text)
        assert found, pattern
        assert found[1] == measured[row], row
    assert "python3 noxfile.py -s bench" in readme


# -- the apps --------------------------------------------------------------------------------------

NO_SERVERS = SimpleNamespace(redis_port=0, mc_port=0)
#: Those that need nothing but what every test has.
HERE_AS_WELL = [
    peer
    for peer in peers.all_of(NO_SERVERS)
    if (peer.name, peer.store) in {("async_session", "memory"), ("the least", "memory")}
    or peer.store == "cookie"
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("rolling", [False, True])
@pytest.mark.parametrize("peer", HERE_AS_WELL, ids=lambda peer: f"{peer.name} {peer.framework}")
async def test_an_app_of_the_benchmark_keeps_its_session(peer: peers.Peer, rolling: bool) -> None:
    target = driver(peer.framework, await peer.build(rolling, apps.session_of(200)))
    assert (await target.get("/a")).body == b"ok"
    first, other = (await target.get("/seed")).cookie, (await target.get("/seed")).cookie
    assert first.startswith("key=" if peer.name == "the least" else "session=")
    if not peer.in_cookie:
        assert first != other
    answer = await target.get("/c", first)
    assert (answer.status, answer.body) == (200, b"42")
    assert bool(answer.cookie) == (rolling and not peer.in_cookie)
    assert (await target.get("/d", first)).body == b"ok"
    await target.caller("/d", first)()


def test_the_plugin_adds_our_apps_on_both_frameworks() -> None:
    added: dict[str, str] = {}
    ours.register(lambda name, base, build, **rest: added.update({name: base}), NO_SERVERS)
    assert added["OURS starlette redis"] == "starlette bare"
    assert added["OURS quart redis msgpack"] == "quart bare"
    assert not [name for name in added if "memcached" in name or "mongodb" in name]


@pytest.mark.parametrize("size", rows.SIZES)
def test_a_session_has_about_the_bytes_it_says(size: int) -> None:
    assert len(json.dumps(apps.session_of(size))) == pytest.approx(size, rel=0.05)
