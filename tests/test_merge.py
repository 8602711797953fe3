"""Two requests changed one session: what each of them did is still there."""

from __future__ import annotations

import copy
from collections import defaultdict
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_session import merge
from async_session.serializers import TaggedJSONSerializer


def encode(value: object) -> bytes:
    return TaggedJSONSerializer().dumps({"": value})


def three_way(base: Any, mine: Any, theirs: Any, **options: Any) -> dict[Any, Any]:
    return merge.three_way(base, mine, theirs, encode=encode, **options)


A, B, C = ("message", "a"), ("message", "b"), ("message", "c")

# What becomes of one key. `...`: it is not there.
# fmt: off
RULES = {
    "nobody changed anything":      (1, 1, 1, 1),
    # a key only one side changed is that side's
    "only I changed it":            (1, 2, 1, 2),
    "only they changed it":         (1, 1, 2, 2),
    "only I added it":              (..., 1, ..., 1),
    "only they added it":           (..., ..., 1, 1),
    # changed means other bytes, not !=
    "I made 1 of True":             (True, 1, True, 1),
    "they made 1.0 of 1":           (1, 1, 1.0, 1.0),
    "nan is no change":             (float("nan"), ..., float("nan"), ...),
    "a nan that they replaced":     (float("nan"), float("nan"), 1, 1),
    # a key that either side deleted stays deleted
    "I deleted it":                 (1, ..., 1, ...),
    "they deleted it":              (1, 1, ..., ...),
    "both deleted it":              (1, ..., ..., ...),
    "I deleted what they changed":  (1, ..., 2, ...),
    "they deleted what I changed":  (1, 2, ..., ...),
    "I deleted a list they grew":   ([1], ..., [1, 2], ...),
    # both changed it: anything without a shape is mine
    "both, differently":            (1, 2, 3, 2),
    "both, alike":                  (1, 2, 2, 2),
    "both added it, differently":   (..., 2, 3, 2),
    "both, to 1 and to True":       (0, True, 1, True),
    "tuples have no shape":         ((1,), (1, 2), (1, 3), (1, 2)),
    "shapes that differ":           ([], {"x": 1}, [1], {"x": 1}),
    "base of another shape":        (None, {"x": 1}, {"y": 1}, {"x": 1}),
    # dicts merge by these rules again
    "dicts":                        ({"x": 1, "y": 1}, {"x": 2, "y": 1}, {"x": 1, "y": 2},
                                     {"x": 2, "y": 2}),
    "dicts both added":             (..., {"x": 1}, {"y": 1}, {"x": 1, "y": 1}),
    "deleted inside a dict":        ({"x": 1, "y": 1}, {"y": 2}, {"x": 2, "y": 1}, {"y": 2}),
    "dicts in dicts":               ({"b": {}}, {"b": {"x": [1]}}, {"b": {"x": [2]}},
                                     {"b": {"x": [2, 1]}}),
    "flashes inside a dict":        ({"_flashes": [A]}, {}, {"_flashes": [A, B]}, {}),
    # lists of which the base is a prefix become base + their tail + my tail
    "lists":                        ([1], [1, 2], [1, 3], [1, 3, 2]),
    "lists both added":             (..., [2], [3], [3, 2]),
    "two equal items":              ([], [1], [1], [1, 1]),
    "I cut the base":               ([1, 2], [2], [1, 2, 3], [2]),
    "they cut the base":            ([1, 2], [1, 2, 3], [2], [1, 2, 3]),
    "their prefix is only ==":      ([1], [1, 2], [True, 3], [1, 2]),
    # sets take both sides' additions and removals
    "sets":                         ({1, 2, 3}, {2, 3, 4}, {1, 3, 5}, {3, 4, 5}),
    "frozensets":                   (frozenset({1}), frozenset({2}), frozenset({1, 3}),
                                     frozenset({2, 3})),
    "sets both added":              (..., {1}, {2}, {1, 2}),
    "sets told by bytes":           ({1}, {True}, {1, 2}, {True, 2}),
}

QUEUES = {
    # _flashes: the base unless either side took it + their tail + my tail
    "both added":                   ([A], [A, B], [A, C], [A, C, B]),
    "both added the first":         (..., [B], [C], [C, B]),
    "the same message":             (..., [B], [B], [B, B]),
    "I took, they added":           ([A], ..., [A, C], [C]),
    "they took, I added":           ([A], [A, B], ..., [B]),
    "I took and added":             ([A], [B], [A, C], [C, B]),
    "they took and added":          ([A], [A, B], [C], [C, B]),
    "both took":                    ([A], ..., ..., ...),
    "I took, they left it empty":    ([A], ..., [], ...),
    "both took and added":          ([A], [B], [C], [C, B]),
    "I took":                       ([A], ..., [A], ...),
    "they took":                    ([A], [A], ..., ...),
    "no queue":                     (1, 2, ..., ...),
}
# fmt: on


ROWS = [
    *(pytest.param("a", *values, id=name) for name, values in RULES.items()),
    *(pytest.param("_flashes", *values, id=f"messages: {name}") for name, values in QUEUES.items()),
]


def session(key: str, value: object) -> dict[str, Any]:
    return {} if value is ... else {key: copy.deepcopy(value)}


@pytest.mark.parametrize(("key", "base", "mine", "theirs", "merged"), ROWS)
def test_the_rules(key, base, mine, theirs, merged):
    sides = [session(key, value) for value in (base, mine, theirs)]
    result = three_way(*sides)
    assert encode(result) == encode(session(key, merged))
    assert encode(sides) == encode([session(key, value) for value in (base, mine, theirs)])


def test_each_key_by_itself():
    base, mine = {"a": 1, "b": 1, "e": 1}, {"a": 2, "b": 1, "c": 1, "e": 1}
    theirs = {"a": 1, "b": 2, "d": 1}
    assert three_way(base, mine, theirs) == {"a": 2, "b": 2, "c": 1, "d": 1}


def test_a_subclass_has_the_shape_of_its_base():
    mine = {"a": defaultdict(list, x=[1])}
    assert three_way({}, mine, {"a": {"y": 1}}) == {"a": {"x": [1], "y": 1}}


# -- options ---------------------------------------------------------------------------------------


def test_after_clear_mine_replaces_theirs():
    base, theirs = {"a": 1, "_flashes": [A]}, {"a": 2, "b": 1, "_flashes": [A, B]}
    mine = {"c": 1}
    result = three_way(base, mine, theirs, cleared=True, resolvers={"a": merge.add})
    assert result == mine
    assert result is not mine


# fmt: off
KEPT = {
    "they deleted it":              (1, 2, ..., 2),
    "they deleted, I set it equal": (1, 1, ..., 1),
    "they changed, I set it equal": (1, 1, 2, 1),
    "both grew it":                 ([1], [1, 2], [1, 3], [1, 2]),
    "I deleted it after all":       (1, ..., 2, ...),
    "never there, they added it":   (..., ..., 2, 2),
}
# fmt: on


@pytest.mark.parametrize(("base", "mine", "theirs", "merged"), KEPT.values(), ids=KEPT)
def test_what_a_login_assigned_stands(base, mine, theirs, merged):
    sides = [session("a", value) for value in (base, mine, theirs)]
    result = three_way(*sides, keep={"a"}, resolvers={"a": _never})
    assert encode(result) == encode(session("a", merged))


def test_a_login_keeps_by_key():
    assert three_way({"b": 1}, {"a": 1, "b": 2}, {}, keep={"a"}) == {"a": 1}


def test_a_login_loses_no_message():
    base, mine, theirs = {"_flashes": [A]}, {"_flashes": [A, B]}, {"_flashes": [C]}
    assert three_way(base, mine, theirs, keep={"_flashes"}) == {"_flashes": [C, B]}


def _never(base: object, mine: object, theirs: object) -> object:
    raise AssertionError("asked")


@pytest.mark.parametrize(
    ("base", "mine", "theirs"),
    [
        ({"a": 1}, {}, {"a": 2}),
        ({"a": 1}, {"a": 2}, {}),
        ({"a": 1}, {"a": 2}, {"a": 1}),
        ({"a": 1}, {"a": 1}, {"a": 2}),
        ({}, {"a": 1}, {}),
        ({"b": {"a": 1}}, {"b": {"a": 2}}, {"b": {"a": 3}}),
    ],
)
def test_a_resolver_is_not_asked_where_one_side_decides(base, mine, theirs):
    three_way(base, mine, theirs, resolvers={"a": _never})


def test_a_resolver_is_asked_where_both_changed():
    asked = {"a": lambda *values: values, "_flashes": lambda *values: values}
    mine, theirs = {"a": 2, "_flashes": [B]}, {"a": 3, "_flashes": [C]}
    result = three_way({"a": [1]}, mine, theirs, resolvers=asked)
    assert result == {"a": ([1], 2, 3), "_flashes": (None, [B], [C])}


def test_two_requests_that_count_alike_are_both_counted():
    assert three_way({"n": 5}, {"n": 6}, {"n": 6}, resolvers={"n": merge.add}) == {"n": 7}
    assert three_way({}, {"n": 1}, {"n": 1}, resolvers={"n": merge.add}) == {"n": 2}


def test_what_a_resolver_raises_names_the_key():
    with pytest.raises(TypeError, match=r"merge\.add needs") as caught:
        three_way({}, {"n": 1}, {"n": "1"}, resolvers={"n": merge.add})
    assert "session['n']" in caught.value.__notes__[0]


def test_the_result_does_not_reach_theirs():
    theirs: Any = {"a": [[1]], "b": [[1]], "c": {"x": [1]}, "d": [[1]], "_flashes": [[1]]}
    before = copy.deepcopy(theirs)
    base: Any = {"a": []}
    mine: Any = {"a": [], "b": [], "c": {"y": 1}, "d": [2], "_flashes": []}
    result = three_way(base, mine, theirs, resolvers={"d": lambda base, mine, theirs: theirs})
    assert encode({**result, "b": 0}) == encode({**before, "c": {"y": 1, "x": [1]}, "b": 0})
    for value in [*result["a"], *result["b"], result["c"]["x"], *result["d"], *result["_flashes"]]:
        value.append("changed")
    assert theirs == before
    three_way({}, {}, theirs)["_flashes"][0].append("changed")
    assert theirs == before


def test_changed_keys_are_told_by_bytes():
    base = {"same": [1], "int": 1, "nested": {"x": 1}, "gone": 1, 1: float("nan")}
    mine = {"same": [1], "int": True, "nested": {"x": 2}, "new": None, 1: float("nan")}
    assert merge.changed_keys(base, mine, encode=encode) == {"int", "nested", "gone", "new"}


# -- the resolvers we bring ------------------------------------------------------------------------

BROUGHT = [
    (merge.add, 5, 7, 6, 8),
    (merge.add, 5, 3, 4, 2),
    (merge.add, None, 1, 2, 3),
    (merge.add, 0.5, 1.0, 2, 2.5),
    (merge.add, Decimal("1.5"), Decimal(2), Decimal(3), Decimal("3.5")),
    (merge.union, {1}, {1, 2}, {1, 3}, {1, 2, 3}),
    (merge.union, {1, 2}, {1}, {2}, {1, 2}),
    (merge.union, None, frozenset({1}), frozenset({2}), frozenset({1, 2})),
    (merge.union, None, [1, 2, 1], [3, 2, 3], [3, 2, 1]),
    (merge.union, [], [[1], [2]], [[2], [3], [2]], [[2], [3], [1]]),
    (merge.append, [1], [1, 2], [1, 3], [1, 3, 2]),
    (merge.append, None, [2], [3], [3, 2]),
    (merge.append, [1, 2], [2, 4], [1, 2, 3], [1, 2, 3, 4]),
    (merge.append, [1, 2], [1, 2, 1], [2], [2, 1]),
]


@pytest.mark.parametrize(("resolver", "base", "mine", "theirs", "merged"), BROUGHT)
def test_a_resolver_of_ours(resolver, base, mine, theirs, merged):
    before = copy.deepcopy((base, mine, theirs))
    assert encode(resolver(base, mine, theirs)) == encode(merged)
    assert (base, mine, theirs) == before


@pytest.mark.parametrize(
    ("resolver", "base", "mine", "theirs", "message"),
    [
        (merge.add, 1, 2, "3", r"merge\.add needs values that are all numbers, not int, int, str"),
        (merge.add, "1", 2, 3, "numbers, not str, int, int"),
        (merge.add, 0, True, 1, "numbers, not int, bool, int"),
        (merge.add, Decimal(1), 1.5, 1, "unsupported operand"),
        (merge.union, None, {1}, [1], r"merge\.union needs values that are all sets, or all lists"),
        (merge.union, None, [1], {1}, "not list, set"),
        (merge.union, None, "ab", "cd", "not str, str"),
        (merge.append, None, [1], (1,), r"merge\.append needs values that are all lists, not list"),
        (merge.append, (), [1], [1], "not tuple, list, list"),
    ],
)
def test_a_resolver_of_ours_says_what_it_takes(resolver, base, mine, theirs, message):
    with pytest.raises(TypeError, match=message):
        resolver(base, mine, theirs)


# -- for all sessions ------------------------------------------------------------------------------

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, True, 0, 1, 1.0, "a"]) | st.sets(st.sampled_from([1, 2, True, "a"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
    ),
    max_leaves=5,
)
KEYS = st.sampled_from(["a", "b", "c", "_flashes", 1])
SESSIONS = st.dictionaries(KEYS, VALUES, max_size=4)


@given(SESSIONS, SESSIONS)
def test_if_only_one_side_did_anything_the_result_is_its_own(base, other):
    same = copy.deepcopy(base)
    assert by_bytes(three_way(base, other, same)) == by_bytes(other)
    assert by_bytes(three_way(base, same, other)) == by_bytes(other)


def by_bytes(session: dict[Any, Any]) -> dict[Any, bytes]:
    return {key: encode(value) for key, value in session.items()}


@settings(max_examples=300)
@given(SESSIONS, SESSIONS, SESSIONS, st.frozensets(KEYS))
def test_whatever_two_requests_did(base, mine, theirs, keep):
    before = copy.deepcopy((base, mine, theirs))
    result = three_way(base, mine, theirs, keep=keep)
    assert encode((base, mine, theirs)) == encode(before)

    deleted = base.keys() - (mine.keys() & theirs.keys())
    assert not (deleted - {"_flashes"} - (keep & mine.keys())) & result.keys()
    for key in (keep & mine.keys()) - {"_flashes"}:
        assert encode(result[key]) == encode(mine[key])

    ours = merge.changed_keys(base, mine, encode=encode)
    others = merge.changed_keys(base, theirs, encode=encode)
    for side, changed in (mine, ours - others), (theirs, others - ours - keep):
        for key in changed & side.keys():
            assert encode(result[key]) == encode(side[key])
    # Nothing comes from nowhere.
    assert result.keys() <= mine.keys() | theirs.keys()


MESSAGES = st.lists(st.integers(0, 3), max_size=3)


MINE, THEIRS = st.lists(st.just("mine")), st.lists(st.just("theirs"))


@given(MESSAGES, st.booleans(), MINE, st.booleans(), THEIRS)
def test_a_message_is_neither_lost_nor_shown_again(queue, i_took, new, they_took, newer):
    def after(took: bool, tail: list[str]) -> dict[str, Any]:
        messages = [*([] if took else queue), *tail]
        return {"_flashes": messages} if messages else {}

    base = {"_flashes": queue} if queue else {}
    result = three_way(base, after(i_took, new), after(they_took, newer))
    assert result == after(i_took or they_took, [*newer, *new])


@given(st.integers(), st.lists(st.integers(), min_size=2, max_size=6))
def test_a_counter_is_exact_in_any_order_of_saves(start, steps):
    stored = {"n": start}
    for step in steps:  # each of them read `start`, and saves after the others
        stored = three_way({"n": start}, {"n": start + step}, stored, resolvers={"n": merge.add})
    assert stored == {"n": start + sum(steps)}
