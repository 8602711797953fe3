"""The same requests to Flask itself and to our sessions on Quart: the same answers.

The recordings end somewhere; the rules do not. Here Flask answers anew: every op in every kind of
session, then sequences of requests that Hypothesis makes up (always the same ones). What differs on
purpose is not left out but stated: `EXPECTED` turns Flask's answer into ours, by rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from golden_replay.ops import Stage, python, reads_data
from golden_replay.replay import Answer, Report, play, without_max_age
from golden_replay.subjects import KEY, Clock, FlaskSubject, QuartSubject, StarletteSubject
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Scenario = dict[str, Any]

EXAMPLES = 400
TALLY: Counter[str] = Counter()

STARTS: dict[str, str | None] = {
    "new": None,
    "emptied": "{}",
    "loaded": "{'a': 1, 'l': [1], 'b': 2}",
    "permanent": "{'_permanent': True, 'a': 1, 'l': [1], 'b': 2}",
    "temporary": "{'_permanent': False, 'a': 1}",
}

#: Every op, with and without effect.
OPS: list[list[Any]] = [
    ["get", "a"],
    ["get", "z", 5],
    ["get", "l"],
    ["getitem", "a"],
    ["getitem", "z"],
    ["set", "a", 1],
    ["set", "c", None],
    ["set", "c", {"d": [1, 2]}],
    ["set", "_permanent", True],
    ["set", "_permanent", False],
    ["setpy", "'t'", "(1, {'x': b'y'}, UUID(int=7), Markup('<b>'))"],
    ["setpy", "[]", "1"],
    ["del", "a"],
    ["del", "z"],
    ["del", "_permanent"],
    ["pop", "a"],
    ["pop", "a", None],
    ["pop", "z"],
    ["pop", "z", 5],
    ["pop", "_permanent", None],
    ["popitem"],
    ["clear"],
    ["update"],
    ["update", {}],
    ["update", {"c": 3, "a": 1}],
    ["update", {}, {"c": 3}],
    ["update", [["c", 3]]],
    ["update", 5],
    ["ior", {}],
    ["ior", {"c": 3}],
    ["ior", [["c", 3]]],
    ["or", {"c": 3}],
    ["setdefault", "a", 9],
    ["setdefault", "c"],
    ["setdefault", "c", []],
    ["append", "l", 2],
    ["append", "a", 2],
    ["permanent", True],
    ["permanent", False],
    ["modified", True],
    ["modified", False],
    ["accessed", True],
    ["accessed", False],
    ["touch_proxy"],
    ["read", "permanent"],
    ["read", "modified"],
    ["in", "a"],
    ["in", "z"],
    ["len"],
    ["bool"],
    ["iter"],
    ["reversed"],
    ["keys"],
    ["values"],
    ["items"],
    ["dict"],
    ["eq", {}],
    ["eq", {"a": 1}],
    ["ne", {}],
    ["repr"],
    ["copy"],
    ["flash", "hello"],
    ["flashed"],
    ["raise"],
]

#: Ops that set flags, and ops that flags decide about: what one does depends on the others.
FLAGS: list[list[Any]] = [
    ["set", "c", 3],
    ["clear"],
    ["append", "l", 2],
    ["modified", False],
    ["modified", True],
    ["accessed", False],
    ["permanent", True],
    ["permanent", False],
    ["get", "a"],
    ["getitem", "z"],
    ["del", "_permanent"],
]


def played(subject: FlaskSubject | QuartSubject, scenario: Scenario) -> Iterator[Answer]:
    for step in play(subject, scenario):
        yield step.answer


def compare(scenario: Scenario, static: Path) -> None:
    TALLY["asked"] += 1
    # Flask sorts the keys of its cookie and we keep the app's order (see below for that): here it
    # is told, by its own setting, to keep them as well.
    flask = FlaskSubject(Clock(), static, sort_keys=False)
    ours = QuartSubject(Clock(), static)
    for number, (theirs, mine) in enumerate(
        zip(played(flask, scenario), played(ours, scenario), strict=True)
    ):
        assert mine == expected(theirs, flask.stage, name=flask.cookie_name()), f"step {number}"
    TALLY["matched"] += 1


def expected(answer: Answer, stage: Stage, *, name: str) -> Answer:
    """Return our answer for Flask's: the deliberate differences, as rules.

    Only one of them can occur in a generated scenario. Flask counts any look at the proxy as access
    to the session; ours is told by the dict, so that a view which looks at `session.modified`, or
    assigns a flag, does not make its response vary.
    """
    if any(line.startswith(f"{name}=") for line in answer.set_cookie):
        return answer
    since = 0  # the ops since the app itself last said what to think of it
    accessed = False
    for number, op in enumerate(stage.done):
        if op[0] == "accessed":
            since, accessed = number + 1, op[1]
    if accessed or any(reads_data(op) for op in stage.done[since:]):
        return answer
    others = [line.removesuffix("Cookie").removesuffix(", ") for line in answer.vary]
    return answer._replace(vary=[line for line in others if line])


def steps(start: str | None, *ops: list[Any]) -> list[dict[str, Any]]:
    """Return a request with ops, and two that look at what it left."""
    first: dict[str, Any] = {"ops": [*ops]}
    if start is not None:
        first["incoming"] = [{"data": start, "age": 7}]
    return [first, {"ops": [], "sleep": 5}, {"ops": [["items"]], "sleep": 5}]


def config(refresh: bool) -> dict[str, Any]:
    return {"SESSION_REFRESH_EACH_REQUEST": refresh, "PERMANENT_SESSION_LIFETIME": 60}


REFRESH = pytest.mark.parametrize("refresh", [True, False], ids=["refresh", "norefresh"])
START = pytest.mark.parametrize("start", STARTS)


@REFRESH
@START
@pytest.mark.parametrize("op", OPS, ids=repr)
def test_every_op(op: list[Any], start: str, refresh: bool, static: Path) -> None:
    compare({"config": config(refresh), "steps": steps(STARTS[start], op)}, static)


# Quart's own `get_flashed_messages` pops where Flask's looks first, which a null session refuses.
@pytest.mark.parametrize("op", [op for op in OPS if op[0] != "flashed"], ids=repr)
def test_every_op_without_a_secret_key(op: list[Any], static: Path) -> None:
    requests = steps(STARTS["permanent"], op)
    compare({"config": {"SECRET_KEY": None}, "steps": requests}, static)


@START
@pytest.mark.parametrize("op", [op for op in OPS if op[0] not in {"flash", "flashed"}], ids=repr)
def test_every_op_on_starlette(op: list[Any], start: str, static: Path) -> None:
    """Here no rule is needed: `request.session` counts as access, as Flask's proxy does."""
    TALLY["asked"] += 1
    scenario = {"config": config(True), "steps": steps(STARTS[start], op)}
    flask = FlaskSubject(Clock(), static, sort_keys=False)
    for theirs, mine in zip(
        played(flask, scenario), play(StarletteSubject(Clock(), static), scenario), strict=True
    ):
        if theirs.status == 500:
            # An exception that leaves the app discards what the request did to its session.
            assert mine.answer == Answer(500, [], [], theirs.saw)
            assert mine.calls == (["read"] if mine.sent else [])
            break
        assert without_max_age(mine.answer) == theirs
    TALLY["matched"] += 1


@START
@pytest.mark.parametrize("first", FLAGS, ids=repr)
def test_every_pair_of_flags(first: list[Any], start: str, static: Path) -> None:
    for second in FLAGS:
        compare({"config": config(True), "steps": steps(STARTS[start], first, second)}, static)


# --------------------------------------------------------------------------- made-up sequences

KEYS = st.sampled_from(["a", "b", "l", "z", "_permanent"])
DATA_KEYS = st.sampled_from(["a", "b", "l", "z"])
VALUES: st.SearchStrategy[Any] = st.sampled_from([None, True, 0, 1.5, "ä", [1], {"d": {}}])
ANY_OP = st.one_of(
    st.sampled_from([op for op in OPS if op[0] != "raise"]),
    st.tuples(st.just("set"), DATA_KEYS, VALUES),
    st.tuples(st.just("setdefault"), DATA_KEYS, VALUES),
    st.tuples(st.sampled_from(["del", "pop", "getitem", "in"]), KEYS),
)
ONE_IN_SIX = st.sampled_from([True, *[False] * 5])


INCOMING: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        [{"raw": "junk"}],
        [{"header": "x=1"}, {"data": "{'a': 1}", "quote": True}],
        [{"data": "{'a': 1}", "tamper": True}, {"data": "{'b': 1}"}],
        *([{"data": data, "age": age}] for data in STARTS.values() if data for age in (0, 61)),
    ]
)


@st.composite
def made_up_steps(draw: st.DrawFn) -> dict[str, Any]:
    """A request with ops in all places where an app can have them."""

    def some_ops(most: int) -> list[list[Any]]:
        return [[*op] for op in draw(st.lists(ANY_OP, max_size=most))]

    step: dict[str, Any] = {"ops": some_ops(4)}
    for phase in ("before", "after", "teardown", "error"):
        if draw(ONE_IN_SIX):
            step[phase] = some_ops(2)
    if draw(ONE_IN_SIX):
        step["ops"].append(["raise"])
    if draw(ONE_IN_SIX):
        step["incoming"] = draw(INCOMING)
    step["reply"] = draw(
        st.sampled_from(
            [
                *[{}] * 6,
                {"status": 204},
                {"status": 404},
                {"kind": "abort", "status": 403},
                {"kind": "redirect"},
                {"kind": "template"},
                {"kind": "template", "template": "{{ session.get('a') }}"},
                {"kind": "template", "template": "{{ 'a' in session }}"},
                {"kind": "stream"},
                {"kind": "stream", "ops": [["set", "a", 9], ["get", "a"]]},
                {"headers": [["Vary", "Accept"]]},
                {"headers": [["Set-Cookie", "other=1; Path=/"]]},
            ]
        )
    )
    step["path"] = draw(st.sampled_from([*["/"] * 8, "/nope", "/static/file.txt"]))
    if step["path"].startswith("/static"):
        step.pop("after", None)  # one that raises leaves Quart with an open file
    step["method"] = draw(st.sampled_from([*["GET"] * 5, "HEAD", "POST", "OPTIONS", "TRACE"]))
    if step["reply"].get("kind") == "stream":
        step["method"] = "GET"  # Flask does not even begin a body that nobody wants
        step.pop("teardown", None)  # and the two have their own ideas of when it is over
    step["sleep"] = draw(st.sampled_from([0, 1, 30, 60, 61]))
    if draw(ONE_IN_SIX):
        step["config"] = draw(CONFIG)
        # A lifetime that is lengthened is looked at on its own, below.
        step["config"].pop("PERMANENT_SESSION_LIFETIME", None)
    return step


CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "SESSION_REFRESH_EACH_REQUEST": st.booleans(),
        "PERMANENT_SESSION_LIFETIME": st.sampled_from(
            [0, 1, 60, 3600, 10**9, {"timedelta": 60.9}, {"timedelta": -1}]
        ),
        "SESSION_COOKIE_NAME": st.sampled_from(["session", "sid", "__Host-s"]),
        "SESSION_COOKIE_DOMAIN": st.sampled_from([None, "example.com", ".example.com:8000"]),
        "SESSION_COOKIE_PATH": st.sampled_from([None, "", "/", "/app", "/ä b;,\"'"]),
        "APPLICATION_ROOT": st.sampled_from(["/", "/mount"]),
        "SESSION_COOKIE_HTTPONLY": st.sampled_from([True, False, None]),
        "SESSION_COOKIE_SECURE": st.sampled_from([True, False, None]),
        "SESSION_COOKIE_SAMESITE": st.sampled_from([None, "Lax", "strict", "NONE"]),
        "SESSION_COOKIE_PARTITIONED": st.booleans(),
        "SECRET_KEY": st.sampled_from([*[KEY] * 6, "another-secret-key"]),
        "SECRET_KEY_FALLBACKS": st.sampled_from([None, [], [KEY], ["another-secret-key", KEY]]),
    },
)
SCENARIO = st.fixed_dictionaries(
    {"config": CONFIG, "steps": st.lists(made_up_steps(), min_size=1, max_size=5)}
)


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(scenario=SCENARIO)
def test_made_up_sequences(scenario: Scenario, static: Path) -> None:
    compare(scenario, static)


# ------------------------------------------------------------------- what differs, and always will


def both(static: Path, *requests: dict[str, Any], **app_config: Any) -> list[tuple[Answer, Answer]]:
    """Return Flask's answers and ours."""
    scenario = {"config": app_config, "steps": [*requests]}
    flask, ours = FlaskSubject(Clock(), static), QuartSubject(Clock(), static)
    return list(zip(played(flask, scenario), played(ours, scenario), strict=True))


def test_new_tells_the_truth(static: Path) -> None:
    new = {"ops": [["read", "new"]]}
    old = new | {"incoming": [{"data": "{'a': 1}"}]}
    for (theirs, mine), truth in zip(both(static, new, old), ["True", "False"], strict=True):
        assert theirs.saw == ["False"]
        assert mine.saw == [truth]
        assert mine._replace(saw=[]) == theirs._replace(saw=[])


def test_accessed_is_told_by_the_dict(static: Path) -> None:
    ((theirs, mine),) = both(static, {"ops": [["read", "accessed"]]})
    assert (theirs.saw, theirs.vary) == (["True"], ["Cookie"])
    assert (mine.saw, mine.vary) == (["False"], [])
    ((theirs, mine),) = both(static, {"ops": [["len"], ["read", "accessed"]]})
    assert mine == theirs


@pytest.mark.parametrize(
    ("source", "flasks"),
    [
        ("datetime(2026, 11, 20, 1, 2, 3, 4, timezone.utc)", "a second"),
        ("datetime(2026, 11, 20, 1, 2, 3)", "another zone"),
        ("{1: 'one'}", "another key"),
        ("Decimal('1.10')", "text"),
        ("{1, 2}", "an error"),
        ("timedelta(seconds=90)", "an error"),
        ("date(2026, 11, 20)", "a datetime"),
    ],
)
def test_types_come_back_as_they_went_in(source: str, flasks: str, static: Path) -> None:
    write, read = {"ops": [["setpy", "'v'", source]]}, {"ops": [["get", "v"]]}
    _, (theirs, mine) = both(static, write, read)
    assert mine.saw == [repr(python(source))]
    assert theirs.saw != mine.saw, f"Flask makes {flasks} of it no more: strike it from the page"


def test_keys_that_are_no_text(static: Path) -> None:
    write, read = {"ops": [["setpy", "7", "'seven'"]]}, {"ops": [["keys"]]}
    _, (theirs, mine) = both(static, write, read)
    assert (theirs.saw, mine.saw) == (["['7']"], ["[7]"])


def test_keys_keep_their_order(static: Path) -> None:
    write, read = {"ops": [["update", {"b": 1, "a": 2}]]}, {"ops": [["iter"], ["popitem"]]}
    _, (theirs, mine) = both(static, write, read)
    assert theirs.saw == ["['a', 'b']", "('b', 1)"]
    assert mine.saw == ["['b', 'a']", "('a', 2)"]


def test_permanent_is_a_bool(static: Path) -> None:
    ((theirs, mine),) = both(static, {"ops": [["set", "_permanent", 1], ["read", "permanent"]]})
    assert (theirs.saw, mine.saw) == (["1"], ["True"])
    assert mine._replace(saw=[]) == theirs._replace(saw=[])


def test_no_line_of_vary_is_lost(static: Path) -> None:
    reply = {"headers": [["Vary", "Accept"], ["Vary", "Origin"]]}
    ((theirs, mine),) = both(static, {"ops": [["len"]], "reply": reply})
    assert theirs.vary == ["Accept, Cookie"]
    assert mine.vary == ["Accept, Cookie", "Origin"]


@pytest.mark.parametrize(("idle", "found"), [(1199, True), (1200, False)])
def test_a_lengthened_lifetime_revives_for_a_while(idle: int, found: bool, static: Path) -> None:
    """A cookie lies in the browser for ever; a store has thrown the record away at some point."""
    write = {"ops": [["set", "a", 1]]}
    later = {"PERMANENT_SESSION_LIFETIME": 3600}
    read = {"ops": [["get", "a"]], "sleep": idle, "config": later}
    _, (theirs, mine) = both(static, write, read, PERMANENT_SESSION_LIFETIME=600)
    assert theirs.saw == ["1"]
    assert mine.saw == (["1"] if found else ["None"])


def test_summary(report: Report) -> None:
    """Say how much was asked of Flask itself. The last test of this file."""
    report(f"Flask {version('flask')} itself: {TALLY['asked']} scenarios, {TALLY['matched']} match")
