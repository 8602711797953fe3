"""Flask's recordings, replayed on our middleware around a Starlette app."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from golden_replay.replay import Answer, Report, load, play, recorded, without_max_age
from golden_replay.subjects import Clock, StarletteSubject

from async_session import SessionStore
from async_session.errors import ConfigurationError, SessionError

Scenario = dict[str, Any]

SCENARIOS: dict[str, Scenario] = {item["id"]: item for item in load()["scenarios"]}
COMPARABLE = [item for item in SCENARIOS.values() if item["server_side_must_equal_flask"]]
HOOKS = ("before", "after", "teardown")
TALLY: Counter[str] = Counter()


def ops_of(step: dict[str, Any]) -> set[str]:
    return {op[0] for phase in ("ops", "error") for op in step.get(phase) or ()}


def left_out(scenario: Scenario) -> str | None:
    """Return why a recording cannot be replayed on Starlette; None if it can."""
    for step in scenario["steps"]:
        settings = scenario["config"] | step.get("config", {})
        if any(hook in step for hook in HOOKS):
            return "a hook of Flask's"
        if ops_of(step) & {"flash", "flashed"}:
            return "flashed messages"
        if (step.get("reply") or {}).get("kind") == "template":
            return "Flask's templates"
        if "raise" in ops_of(step):
            return "an unhandled error"
        if settings.get("SECRET_KEY", True) is None:
            return "the null session"
    return None


APPLY = [item for item in COMPARABLE if left_out(item) is None]


@pytest.mark.parametrize("scenario", APPLY, ids=lambda scenario: scenario["id"])
def test_recording(scenario: Scenario, static: Path) -> None:
    check_recording(scenario, static)
    TALLY["matched"] += 1


@pytest.mark.parametrize("scenario", APPLY, ids=lambda scenario: scenario["id"])
def test_recording_on_every_store(
    scenario: Scenario, static: Path, made_store: SessionStore
) -> None:
    check_recording(scenario, static, made_store)


def check_recording(scenario: Scenario, static: Path, store: SessionStore | None = None) -> None:
    subject = StarletteSubject(Clock(), static, store=store)
    for step, theirs in zip(play(subject, scenario), scenario["flask"], strict=True):
        assert without_max_age(step.answer) == recorded(theirs)
        if step.raised is not None:
            # Flask forgets in silence what a stream writes to a new session. Ours says so, when
            # the response is out.
            assert scenario["id"] == "resp-stream-set-inside"
            assert isinstance(step.raised, SessionError)
            assert "await session.save()" in str(step.raised)


# What happens on Starlette where it cannot be Flask's way


def test_an_unhandled_error_saves_nothing(static: Path) -> None:
    subject = StarletteSubject(Clock(), static)
    (step,) = play(subject, SCENARIOS["resp-exception"])
    assert step.answer == Answer(500, [], [], [])
    assert step.calls == []


def test_there_is_no_null_session(static: Path) -> None:
    subject = StarletteSubject(Clock(), static)
    with pytest.raises(ConfigurationError, match="empty"):
        list(play(subject, SCENARIOS["cfg-nosecret-read"]))


def test_fallbacks_as_one_string_are_refused(static: Path) -> None:
    subject = StarletteSubject(Clock(), static)
    with pytest.raises(ConfigurationError, match="write a list"):
        list(play(subject, SCENARIOS["in-fallback-is-a-string"]))


def test_new_tells_the_truth(static: Path) -> None:
    (step,) = play(StarletteSubject(Clock(), static), SCENARIOS["new-read-new"])
    assert step.answer == Answer(200, [], ["Cookie"], ["True"])


@pytest.mark.parametrize("name", ["new-read-modified", "new-read-accessed", "new-touch_proxy"])
def test_request_session_counts_as_access(name: str, static: Path) -> None:
    """Starlette tells the session that it was asked for, so here it is as in Flask."""
    (step,) = play(StarletteSubject(Clock(), static), SCENARIOS[name])
    assert step.answer == recorded(SCENARIOS[name]["flask"][0])


def test_no_line_of_vary_is_lost(static: Path) -> None:
    (step,) = play(StarletteSubject(Clock(), static), SCENARIOS["vary-preset-two-headers"])
    assert step.answer == Answer(200, [], ["Accept, Cookie", "Origin"], ["None"])


def test_summary(report: Report) -> None:
    """The last test of this file."""
    reasons = Counter(filter(None, map(left_out, COMPARABLE)))
    text = ", ".join(f"{count} need {reason}" for reason, count in sorted(reasons.items()))
    report(f"{TALLY['matched']} of {len(APPLY)} that apply match on Starlette ({text})")
