"""Replaying: a browser's steps on a subject, and its answers in the recordings' form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

from .subjects import Subject

__all__ = ["Answer", "Played", "Report", "load", "norm", "play", "recorded", "without_max_age"]

GOLDEN = Path(__file__).parent.parent / "golden" / "flask-cookies.json"
EPOCH = "Thu, 01 Jan 1970 00:00:00 GMT"


class Answer(NamedTuple):
    """One response, in the recordings' form. Compared as a whole."""

    status: int
    set_cookie: list[str]
    vary: list[str]
    saw: list[str]


class Played(NamedTuple):
    """One step of a replay: the answer, and what is needed to look behind it."""

    answer: Answer
    #: the value of the cookie that was sent, and of the one that was set, if they were
    sent: str | None
    value: str | None
    calls: list[str]
    raised: BaseException | None


#: Adds a line to what is printed when all tests have run.
Report = Callable[[str], None]


def load() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    return data


def recorded(answer: dict[str, Any]) -> Answer:
    cookies = [cookie["norm"] for cookie in answer["set_cookie"]]
    return Answer(answer["status"], cookies, answer["vary"], answer["saw"])


def norm(line: str, now: int) -> str:
    """Return a Set-Cookie line with ``<VALUE>`` and ``<NOW+n>`` in it."""
    pair, semicolon, attributes = line.partition(";")
    name, _, value = pair.partition("=")

    def relative(match: re.Match[str]) -> str:
        if match[1] == EPOCH:
            return match[0]
        return f"Expires=<NOW+{int(parsedate_to_datetime(match[1]).timestamp()) - now}>"

    attributes = re.sub(r"Expires=([^;]+)", relative, attributes)
    return f"{name}={'<VALUE>' if value else ''}{semicolon}{attributes}"


def without_max_age(answer: Answer) -> Answer:
    """Take out the Max-Age that the Starlette adapter adds, having looked that it is right."""

    def check(match: re.Match[str]) -> str:
        assert match[1] == match[2], "Max-Age is the lifetime, and so is Expires"
        return f"Expires=<NOW+{match[1]}>"

    pattern = r"Expires=<NOW\+(-?\d+)>; Max-Age=(-?\d+)"
    cookies = [re.sub(pattern, check, line) for line in answer.set_cookie]
    for before, after in zip(answer.set_cookie, cookies, strict=True):
        assert before != after or "<NOW" not in before, "Max-Age stands beside every Expires"
    return answer._replace(set_cookie=cookies)


class Jar:
    """A browser's cookies, by name: no path, no domain, no expiry, as where the recordings ran."""

    def __init__(self) -> None:
        self._cookies: dict[str, str] = {}

    def header(self) -> str | None:
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items()) or None

    def take(self, lines: Iterable[str]) -> None:
        for line in lines:
            name, _, value = line.partition(";")[0].partition("=")
            if value:
                self._cookies[name] = value
            else:
                self._cookies.pop(name, None)


def play(subject: Subject, scenario: dict[str, Any]) -> Iterable[Played]:
    """Play a scenario's steps one by one."""
    subject.configure(scenario.get("config") or {})
    jar = Jar()
    for step in scenario["steps"]:
        subject.configure(step.get("config") or {})
        subject.clock.now += step.get("sleep", 0)
        if "incoming" in step:
            pairs = [subject.forge(entry) for entry in step["incoming"] or ()]
            header = "; ".join(pairs) if step["incoming"] else None
        else:
            header = jar.header()
        reply = subject.ask(step, header)
        lines = reply.all("set-cookie")
        jar.take(lines)
        now = int(subject.clock())
        answer = Answer(
            reply.status,
            [norm(line, now) for line in lines],
            reply.all("vary"),
            [*subject.stage.saw],
        )
        calls = [*getattr(subject, "calls", ())]
        yield Played(
            answer,
            _value(header, subject.cookie_name()),
            _value(lines[-1] if lines else None, subject.cookie_name()),
            calls,
            reply.raised,
        )


def _value(text: str | None, name: str) -> str | None:
    """Return the value of the first cookie called `name` in a header, or None."""
    for part in (text or "").split(";"):
        key, equals, value = part.strip().partition("=")
        if equals and key == name:
            return value.strip('"') or None
    return None
