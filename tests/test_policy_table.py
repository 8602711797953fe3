"""The decision table: told again in plain ifs, and on the page as it is in the code."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from async_session.policy import RULES, Cookie, Rule, Store, Vary, decide

PAGE = Path(__file__).parent.parent / "docs" / "flask-rules.md"
STATES = list(itertools.product((False, True), repeat=5))


class Outcome(NamedTuple):
    cookie: Cookie
    vary: Vary
    store: Store


def save_session(
    *, empty: bool, modified: bool, loaded: bool, permanent: bool, due: bool
) -> Outcome:
    """Tell what Flask does at the end of a request, and what a store has to do with it.

    "Due" is Flask's "permanent, and SESSION_REFRESH_EACH_REQUEST", so it never comes alone.
    """
    if empty:
        if modified:
            return Outcome(Cookie.DELETE, Vary.YES, Store.END if loaded else Store.NONE)
        return Outcome(Cookie.NONE, Vary.IF_ACCESSED, Store.NONE)
    should_set_cookie = modified or (permanent and due)
    if not should_set_cookie:
        return Outcome(Cookie.NONE, Vary.IF_ACCESSED, Store.NONE)
    cookie = Cookie.SET_EXPIRES if permanent else Cookie.SET
    # What is stored and was not changed is only prolonged.
    return Outcome(cookie, Vary.YES, Store.REFRESH if loaded and not modified else Store.WRITE)


@pytest.mark.parametrize("state", STATES, ids=str)
def test_every_state(state: tuple[bool, ...]) -> None:
    names = ("empty", "modified", "loaded", "permanent", "due")
    named = dict(zip(names, state, strict=True))
    rule = decide(**named)
    assert Outcome(rule.cookie, rule.vary, rule.store) == save_session(**named)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.state)
def test_every_row_is_needed(rule: Rule) -> None:
    found = [
        decide(empty=e, modified=m, loaded=loaded, permanent=p, due=d)
        for e, m, loaded, p, d in STATES
    ]
    assert rule in found


def render(rules: tuple[Rule, ...]) -> str:
    """Return the table as the page shows it."""
    signs = {None: "-", True: "yes", False: "no"}
    lines = [
        "| state | E | M | L | P | D | Set-Cookie | Vary: Cookie | store, after the read |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for rule in rules:
        cells = [rule.state, *(signs[sign] for sign in rule[1:6])]
        cells += [rule.cookie.value, rule.vary.value, rule.store.value]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_page_shows_the_table() -> None:
    text = PAGE.read_text("utf-8")
    match = re.search(r"<!-- rules -->\n(.*?)\n<!-- /rules -->", text, re.DOTALL)
    assert match is not None
    assert match[1] == render(RULES), f"write there:\n{render(RULES)}"
