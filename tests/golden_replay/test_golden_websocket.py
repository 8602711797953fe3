"""Sessions over a websocket: Quart's recordings on the bare interface, and what ours do beyond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from golden_replay.replay import Report, load, norm
from golden_replay.subjects import Clock, QuartSubject, StarletteSubject, Talk

from async_session import SessionPolicy

Scenario = dict[str, Any]
Subject = QuartSubject | StarletteSubject

SCENARIOS: dict[str, Scenario] = {item["id"]: item for item in load()["websocket_scenarios"]}
KEPT = SessionPolicy.flask().ttl(2678400, lifetime=2678400)
SET = "session=<VALUE>; HttpOnly; Path=/"
SET_PERMANENT = "session=<VALUE>; Expires=<NOW+2678400>; HttpOnly; Path=/"
WRITTEN = ["read", f"write ttl={KEPT}"]
MATCHED: set[str] = set()


def talk(subject: Subject, scenario: Scenario) -> Talk:
    subject.configure(scenario.get("config") or {})
    pairs = [subject.forge(entry) for entry in scenario["incoming"] or ()]
    return subject.talk(scenario, "; ".join(pairs) or None)


def cookies(talk: Talk, clock: Clock) -> list[str]:
    """Return the cookies of the handshake, or of the response that refuses it."""
    first = talk.sent[0] if talk.sent else {}
    lines = [value.decode() for name, value in first.get("headers", ()) if name == b"set-cookie"]
    return [norm(line, int(clock())) for line in lines]


def messages(talk: Talk, clock: Clock) -> list[dict[str, Any]]:
    """Return what was sent in the recordings' form."""
    found: list[dict[str, Any]] = []
    for message in talk.sent:
        short: dict[str, Any] = {"type": message["type"]}
        if "status" in message:
            short |= {"status": message["status"], "set_cookie": cookies(talk, clock)}
        found.append(short)
    return found


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario["id"])
def test_bare_interface(scenario: Scenario, static: Path) -> None:
    subject = QuartSubject(Clock(), static)
    said = talk(subject, scenario)
    quart, reference = scenario["quart"], scenario["server_side_reference"]
    assert messages(said, subject.clock) == quart["asgi"] == reference["asgi"]
    assert subject.stage.saw == quart["saw"]
    assert said.calls == quart["interface_calls"]
    # Quart's cookie sessions cannot be saved here and an error says so; ours can, unless they are
    # new. The words differ.
    assert [line.partition(":")[0] for line in said.log] == [
        line.partition(":")[0] for line in reference["log"]
    ]
    wanted = [call.replace("ttl=2678400", f"ttl={KEPT}") for call in reference["store"]]
    if scenario["id"] == "ws-untouched-permanent":
        # The reference prolongs the session when the websocket ends. Ours prolongs only what it can
        # send a cookie for: at the accept under QuartSession, or at `await session.save()`.
        wanted.remove(f"touch ttl={KEPT}")
    assert subject.store.calls == wanted
    MATCHED.add(scenario["id"])


#: What follows where the accept is seen, too: cookies of the handshake, and store calls.
EXTENDED: dict[str, tuple[list[str], list[str]]] = {
    "ws-read": ([], ["read"]),
    "ws-untouched-permanent": ([SET_PERMANENT], WRITTEN),
    "ws-write-before-accept": ([SET], WRITTEN),
    "ws-write-new-session": ([], []),
    "ws-write-then-client-disconnects": ([], WRITTEN),
    "ws-write-then-reject": ([SET], WRITTEN),
    "ws-write-then-reject-no-extension": ([], WRITTEN),
    "ws-nosecret-write": ([], []),
}


@pytest.mark.parametrize("name", EXTENDED)
def test_quart_session(name: str, static: Path) -> None:
    subject = QuartSubject(Clock(), static, extension=True)
    said = talk(subject, SCENARIOS[name])
    assert (cookies(said, subject.clock), subject.store.calls) == EXTENDED[name]
    types = [message["type"] for message in said.sent]
    assert types == [message["type"] for message in SCENARIOS[name]["quart"]["asgi"]]
    late = "a session was started" in "".join(said.log)
    assert late is (name == "ws-write-new-session")


#: On Starlette a refusal without the extension, and an empty secret, are errors of the app's own.
ON_STARLETTE = [
    "ws-read",
    "ws-untouched-permanent",
    "ws-write-before-accept",
    "ws-write-then-reject",
]


@pytest.mark.parametrize("name", ON_STARLETTE)
def test_starlette(name: str, static: Path) -> None:
    subject = StarletteSubject(Clock(), static)
    said = talk(subject, SCENARIOS[name])
    lines = [line.replace("; Max-Age=2678400", "") for line in cookies(said, subject.clock)]
    assert (lines, subject.store.calls) == EXTENDED[name]
    assert said.log == []


def test_starlette_says_that_a_new_session_came_too_late(static: Path) -> None:
    subject = StarletteSubject(Clock(), static)
    said = talk(subject, SCENARIOS["ws-write-new-session"])
    (line,) = said.log
    assert line.startswith("RAISED: SessionError")
    assert subject.store.calls == []


def test_starlette_keeps_what_a_client_wrote_that_went_away(static: Path) -> None:
    """Unlike any other exception that leaves the app, a disconnect that nobody catches."""
    subject = StarletteSubject(Clock(), static)
    said = talk(subject, dict(SCENARIOS["ws-write-then-client-disconnects"]))
    assert said.log == ["RAISED: WebSocketDisconnect: (1001, None)"]
    assert subject.store.calls == WRITTEN


def test_summary(report: Report) -> None:
    """The last test of this file."""
    report(f"{len(MATCHED)} of {len(SCENARIOS)} websocket scenarios match on Quart")
