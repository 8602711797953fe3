"""The session as a dict, by itself: what is noted, what can be copied, what an intent leaves."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable

import pytest

from async_session import Session, SessionError

#: what is done to Session({"a": 1, "l": [1]}), whether it counts as access, and as modification
USES: list[tuple[str, Callable[[Session], object], bool, bool]] = [
    ("nothing", lambda s: None, False, False),
    ("[]", lambda s: s["a"], True, False),
    ("get", lambda s: s.get("a"), True, False),
    ("get missing", lambda s: s.get("z"), True, False),
    ("in", lambda s: "a" in s, True, False),
    ("len", len, True, False),
    ("bool", bool, True, False),
    ("iter", lambda s: list(s), True, False),
    ("reversed", lambda s: list(reversed(s)), True, False),
    ("keys", lambda s: s.keys(), True, False),
    ("values", lambda s: s.values(), True, False),
    ("items", lambda s: s.items(), True, False),
    ("copy", lambda s: s.copy(), True, False),
    ("dict", dict, True, False),
    ("json", json.dumps, True, False),
    ("==", lambda s: s == {}, True, False),
    ("!=", lambda s: s != {}, True, False),
    ("|", lambda s: s | {}, True, False),
    ("dict |", lambda s: {} | s, True, False),
    ("repr", repr, True, False),
    ("permanent", lambda s: s.permanent, True, False),
    ("owner", lambda s: s.owner, True, False),
    ("new", lambda s: s.new, True, False),
    ("regenerate", lambda s: s.regenerate(), True, False),
    ("pop missing", lambda s: s.pop("z", None), True, False),
    ("setdefault present", lambda s: s.setdefault("a", 2), True, False),
    ("set", lambda s: s.__setitem__("a", 1), True, True),
    ("del", lambda s: s.__delitem__("a"), True, True),
    ("pop", lambda s: s.pop("a"), True, True),
    ("popitem", lambda s: s.popitem(), True, True),
    ("clear", lambda s: s.clear(), True, True),
    ("update with nothing", lambda s: s.update({}), True, True),
    ("update with names", lambda s: s.update(b=1), True, True),
    ("|=", lambda s: s.__ior__({}), True, True),
    ("setdefault missing", lambda s: s.setdefault("b", 2), True, True),
    ("permanent =", lambda s: setattr(s, "permanent", True), True, True),
    ("lifetime =", lambda s: setattr(s, "lifetime", 60), True, True),
    ("login", lambda s: s.login("ada"), True, True),
    ("logout", lambda s: s.logout(), True, True),
]


@pytest.mark.parametrize(("name", "use", "accessed", "modified"), USES, ids=[u[0] for u in USES])
def test_what_counts(
    name: str, use: Callable[[Session], object], accessed: bool, modified: bool
) -> None:
    session = Session({"a": 1, "l": [1]})
    use(session)
    assert (session.accessed, session.modified) == (accessed, modified)


def test_every_method_of_a_dict_is_accounted_for() -> None:
    """A method that a later Python gives to dict must not slip by unnoticed."""
    inert = {
        "__class_getitem__",
        "__new__",
        "__init__",
        "__getattribute__",
        "__sizeof__",
        "fromkeys",
    }
    inert |= {"__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__doc__"}
    own = {name for base in Session.__mro__[:2] for name in vars(base)}
    assert set(vars(dict)) - own <= inert


@pytest.mark.parametrize(
    "change", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
def test_a_copy_is_a_plain_dict(change: Callable[[Session], object]) -> None:
    copied = change(Session({"a": [1]}))
    assert type(copied) is dict
    assert copied == {"a": [1]}


def test_assigning_the_same_owner_again_is_no_login() -> None:
    session = Session()
    session.owner = "42"
    assert session.authenticated_at is not None
    session.authenticated_at = None
    session.owner = 42
    assert session.authenticated_at is None


def test_logout_forgets_the_login() -> None:
    session = Session({"a": 1})
    session.login("ada")
    session.logout()
    assert (session, session.owner, session.authenticated_at, session.new) == ({}, None, None, True)


@pytest.mark.anyio
async def test_a_session_made_by_hand_cannot_be_saved() -> None:
    with pytest.raises(SessionError, match="made by hand"):
        await Session().save()


def test_an_app_is_told_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"write QuartSession\(app\)"):
        Session(lambda scope, receive, send: None)
