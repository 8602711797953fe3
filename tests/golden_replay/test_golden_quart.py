"""Flask's recordings, replayed on our interface on Quart: header by header, record by record."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from golden_replay.replay import Answer, Played, Report, load, play, recorded
from golden_replay.subjects import KEY, Clock, QuartSubject
from quart import Quart
from stores import AMPLE

from async_session import SessionPolicy, SessionStore
from async_session.errors import ConfigurationError
from async_session.quart import QuartSession

PAGE = Path(__file__).parents[2] / "docs" / "flask-rules.md"
SCENARIOS: dict[str, dict[str, Any]] = {item["id"]: item for item in load()["scenarios"]}
COMPARABLE = [item for item in SCENARIOS.values() if item["server_side_must_equal_flask"]]
TALLY: Counter[str] = Counter()


def replay(
    scenario: dict[str, Any],
    static: Path,
    policy: SessionPolicy,
    store: SessionStore | None = None,
) -> Iterator[tuple[QuartSubject, Played]]:
    subject = QuartSubject(Clock(), static, policy=policy, store=store)
    for step in play(subject, scenario):
        yield subject, step


@pytest.mark.parametrize("scenario", COMPARABLE, ids=lambda scenario: scenario["id"])
def test_recording(scenario: dict[str, Any], static: Path) -> None:
    check_recording(scenario, static)
    TALLY["matched"] += 1


@pytest.mark.parametrize("scenario", COMPARABLE, ids=lambda scenario: scenario["id"])
def test_recording_on_every_store(
    scenario: dict[str, Any], static: Path, made_store: SessionStore
) -> None:
    check_recording(scenario, static, made_store)


def check_recording(
    scenario: dict[str, Any], static: Path, store: SessionStore | None = None
) -> None:
    flask, reference = scenario["flask"], scenario["server_side_reference"]
    policy = SessionPolicy.flask().replace(timeout=AMPLE)
    for (subject, step), theirs, model in zip(
        replay(scenario, static, policy, store), flask, reference, strict=True
    ):
        assert step.answer == recorded(theirs)
        assert step.calls == list(calls(model["store"], policy))
        check_payload(subject, step, theirs)
        if "value_kept" in model:
            assert (step.value == step.sent) is model["value_kept"]


def calls(reference: Iterable[str], policy: SessionPolicy) -> Iterator[str]:
    """Return the calls that ours makes where the reference made its own.

    Ours differ in three ways, all by design. An end is a write as well: a tombstone, which the
    notes call "delete". A `touch` is a rewrite under the version that was read. And the store keeps
    a record longer than the session lives, so that a lifetime that is lengthened still finds it.
    """
    for call in reference:
        verb, _, ttl = call.partition(" ttl=")
        yield (
            f"write ttl={policy.ttl(int(ttl), lifetime=int(ttl))}"
            if verb in {"write", "touch"}
            else verb
        )


def check_payload(subject: QuartSubject, step: Played, theirs: dict[str, Any]) -> None:
    """The record holds the very JSON, tags and all, that Flask's cookie holds."""
    for cookie in theirs["set_cookie"]:
        if not cookie["deletes"]:
            assert step.value is not None
            assert json.loads(subject.store.record_of(step.value).payload) == cookie["payload"]


# --------------------------------------------------------------------------- deliberate differences

COOKIE = "session=<VALUE>; HttpOnly; Path=/"
ITEMS = (
    "[('t', (1, (2, 3))), ('by', b'\\x00\\xff'), "
    "('u', UUID('12345678-1234-5678-1234-567812345678')), "
    "('d', datetime.datetime(2026, 11, 20, 12, 30, 15, 999999, tzinfo=datetime.timezone.utc)), "
    "('m', Markup('<b>x</b>')), ('n', {' t': 1})]"
)
OURS = {
    # `new` tells the truth
    "new-read-new": [Answer(200, [], ["Cookie"], ["True"])],
    # the dict says whether its data was read; a look at a flag is none
    "new-read-modified": [Answer(200, [], [], ["False"])],
    "new-read-accessed": [Answer(200, [], [], ["False"])],
    "new-touch_proxy": [Answer(200, [], [], [])],
    # nothing is lost: microseconds are kept, and the order of keys
    "types-roundtrip": [
        Answer(200, [COOKIE], ["Cookie"], []),
        Answer(200, [], ["Cookie"], [ITEMS]),
    ],
    # every line of Vary is kept
    "vary-preset-two-headers": [Answer(200, [], ["Accept, Cookie", "Origin"], ["None"])],
}
REFUSED = {"cfg-lifetime-none", "in-fallback-is-a-string"}


def test_every_difference_is_stated() -> None:
    marked = {name for name, item in SCENARIOS.items() if item not in COMPARABLE}
    assert marked == OURS.keys() | REFUSED


@pytest.mark.parametrize("name", OURS)
def test_deliberate_difference(name: str, static: Path) -> None:
    played = replay(SCENARIOS[name], static, SessionPolicy.flask())
    answers = [step.answer for _, step in played]
    assert answers == OURS[name]
    assert answers != [recorded(answer) for answer in SCENARIOS[name]["flask"]]
    TALLY["deliberate"] += 1


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_settings_that_are_refused(name: str, static: Path) -> None:
    """Flask answers 500, or accepts a forged cookie; ours says at start-up what to write."""
    subject = QuartSubject(Clock(), static)
    subject.configure(SCENARIOS[name]["config"])
    app = Quart("golden")
    app.config.update(subject.app.config)
    app.secret_key = KEY
    with pytest.raises(ConfigurationError, match="write"):
        QuartSession(app, "memory://")
    TALLY["deliberate"] += 1


# ------------------------------------------------------------------------------- the default policy


def listed_on_the_page() -> set[str]:
    """Return the recordings that the page names between its marks."""
    text = PAGE.read_text("utf-8")
    match = re.search(r"<!-- default-policy -->(.*?)<!-- /default-policy -->", text, re.DOTALL)
    assert match is not None
    return set(re.findall(r"^- `([a-z0-9-]+)`", match[1], re.MULTILINE))


def looks_alike(scenario: dict[str, Any], static: Path) -> bool:
    """Tell whether the default policy does what Flask's letter does: answers and store calls."""
    letter = replay(scenario, static, SessionPolicy.flask())
    default = replay(scenario, static, SessionPolicy())
    return all(
        a is not None and b is not None and (a[1].answer, a[1].calls) == (b[1].answer, b[1].calls)
        for a, b in zip_longest(letter, default)
    )


def test_the_default_policy_differs_where_the_page_says(static: Path, report: Report) -> None:
    differing = {item["id"] for item in COMPARABLE if not looks_alike(item, static)}
    report(f"under the default policy {len(differing)} differ: {', '.join(sorted(differing))}")
    assert differing == listed_on_the_page()


def test_summary(report: Report) -> None:
    """The last test of this file."""
    report(
        f"flask-cookies.json: {len(COMPARABLE)} comparable scenarios, {TALLY['matched']} match on "
        f"Quart; {TALLY['deliberate']} of {len(OURS) + len(REFUSED)} deliberate differences are "
        "as stated"
    )
