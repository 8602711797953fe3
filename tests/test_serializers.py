"""What goes in comes out, or saying so; and bytes from anywhere do no harm."""

from __future__ import annotations

import contextlib
import enum
import gc
import json
import math
import subprocess
import sys
import time as clock
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import ormsgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from async_session._packing import MAX_DEPTH, MAX_ITEMS, MAX_KEYS
from async_session.errors import SerializationError
from async_session.serializers import MsgpackSerializer, Serializer, TaggedJSONSerializer

GOLDEN = Path(__file__).parent / "golden" / "flask-cookies.json"
VECTORS = [v for v in json.loads(GOLDEN.read_text())["tagged_json"] if "dumps" in v]
LOSSLESS = [v for v in VECTORS if v["lossless"]]
NAMES = {
    "Markup": Markup,
    "UUID": UUID,
    "datetime": datetime,
    "timedelta": timedelta,
    "timezone": timezone,
}

json_serializer: Serializer = TaggedJSONSerializer()
dumps: Callable[[Any], bytes] = json_serializer.dumps
loads = json_serializer.loads


@pytest.fixture(scope="module", params=[TaggedJSONSerializer, MsgpackSerializer])
def serializer(request):
    return request.param()


def golden(vector: dict) -> dict:
    return eval(vector["py"], NAMES.copy())


def exact(value: object) -> object:
    """Describe value and type, so that True is not 1, -0.0 is not 0.0 and nan is nan."""
    kind = type(value)
    if isinstance(value, dict):
        return kind, [(exact(key), exact(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return kind, [exact(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return kind, sorted((exact(item) for item in value), key=repr)
    if isinstance(value, (datetime, time)):
        return kind, value.replace(tzinfo=None), value.fold, value.utcoffset(), str(value.tzinfo)
    if isinstance(value, (float, Decimal)):
        return kind, repr(value)
    return kind, value


def assert_comes_out(data: dict, serializer: Any = json_serializer) -> None:
    assert exact(serializer.loads(serializer.dumps(data))) == exact(data)


# -- round trips -----------------------------------------------------------------------------------

INDIA = timezone(timedelta(hours=5, minutes=30))
BERLIN = ZoneInfo("Europe/Berlin")
VALUES = [
    *[None, True, False, 0, 1, -1, 2**53 + 1, 10**4000, 0.1, -0.0, 1e308, 5e-324],
    *[math.inf, -math.inf, math.nan],
    *["", "hé€😀", "a/b<>&", '{" t":[1]}', '{"', "\\", '"', "\x00\x1f\x7f", "\u2028"],
    *["\ud83d", "\ude00", "\ude00\ud83d", "\ud83d\ude00", "a\ud83d\ude00\ud83d\ude00b", "\\ud83d"],
    *["한국어", "\U0010ffff"],
    *[[], [1, [2, [3]]], {}, {"a": {"b": {}}}, (), (1,), [(1, 2), (3, 4)], ((), [()])],
    *[b"", b"\x00\xff", [b"x", (b"y",)], Markup(""), Markup("<b>\ud83d\ude00</b>")],
    *[UUID(int=0), UUID(int=2**128 - 1)],
    # as Flask writes them
    *[datetime(2026, 11, 20, 12, 30, 15, tzinfo=UTC), datetime(100, 1, 1, tzinfo=UTC)],
    # as Flask would change them
    *[datetime(2026, 11, 20, 12, 30, 15), datetime(2026, 11, 20, 12, 30, 15, 1, tzinfo=UTC)],
    *[datetime(2026, 11, 20, 12, tzinfo=INDIA), datetime(99, 1, 1, tzinfo=UTC)],
    *[datetime.min, datetime.max, datetime.min.replace(tzinfo=UTC)],
    datetime(2026, 1, 1, tzinfo=timezone(-timedelta(hours=3, seconds=7, microseconds=9))),
    *[datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=n))) for n in (1, -999999)],
    *[datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=fold) for fold in (0, 1)],
    *[datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN), datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC"))],
    *[datetime(2026, 1, 1, fold=1), datetime(2026, 1, 1, tzinfo=UTC, fold=1)],
    *[date.min, date(2026, 11, 20), date.max],
    *[time(), time(23, 59, 59, 999999), time(1, fold=1), time(12, tzinfo=INDIA)],
    *[time(12, tzinfo=BERLIN), time(12, tzinfo=UTC)],
    *[timedelta(), timedelta.min, timedelta.max, timedelta(microseconds=-1)],
    *[Decimal("1.10"), Decimal("-0"), Decimal("1E+999999"), Decimal("0E-7"), Decimal("1" * 60)],
    *[Decimal("NaN"), Decimal("-sNaN12"), Decimal("Infinity"), Decimal("-Infinity")],
    *[set(), {1, 2.0, "3", None}, {True}, {(1, frozenset({2}))}, frozenset(), frozenset({b"a"})],
    *[{1: "a", "1": "b"}, {None: 0}, {True: 0, 2: 0}, {1.5: 0}, {(1, (2,)): {3: 4}}],
    *[{b"a": 1, "b": 2}, {UUID(int=1): 1}, {date.min: 1}, {frozenset({1, 2}): 1}, {"": 1}],
    *[{Markup("a"): 1}, {"\ud83d\ude00": 1}, {math.inf: 1}, {Decimal("1.5"): 1}, {(): ()}],
    # dicts that look like tags, and nearly
    *[{" t": [1, 2]}, {" di": 1}, {" di": {" t": (1,)}}, {" di__": 1}, {" t__": 1}, {" se": {1}}],
    *[{" p": [[1, 2]]}, {" s": []}, {" t": 1, " b": 2}, {" x": 1}, {" ": 1}, {Markup(" t"): 1}],
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:40])
def test_a_value_comes_out_as_it_went_in_wherever_it_stands(value, serializer):
    assert_comes_out({"key": value}, serializer)
    assert_comes_out({"key": [(value,), {"deep": value}]}, serializer)
    assert_comes_out({"key": {1: value, "b": [b""]}}, serializer)


@pytest.mark.parametrize("value", [v for v in VALUES if isinstance(v, dict)], ids=ascii)
def test_a_session_may_have_any_keys(value, serializer):
    assert_comes_out(value, serializer)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=()))
    | st.sampled_from(["\ud83d\ude00", " t", " di", " se", "_flashes", '{" t":'])
    | st.binary(max_size=20)
    | st.uuids()
    | st.text(max_size=10).map(Markup)
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones())
    | st.datetimes(timezones=st.timedeltas(timedelta(-1, 60), timedelta(1, -60)).map(timezone))
    | st.times(timezones=st.none() | st.just(UTC))
    | st.dates()
    | st.timedeltas()
    | st.decimals()
)


def is_hashable(value: object) -> bool:
    try:
        return bool(hash(value)) or True
    except TypeError:  # Decimal("sNaN")
        return False


HASHABLE = st.recursive(
    SCALARS.filter(is_hashable),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
ANYTHING = st.recursive(
    SCALARS | st.sets(HASHABLE, max_size=4) | HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from([" t", " di"]), inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
    ),
    max_leaves=12,
)
SESSIONS = st.dictionaries(st.text(max_size=8), ANYTHING, max_size=5) | st.dictionaries(
    HASHABLE, ANYTHING, max_size=3
)


@settings(deadline=None)
@given(SESSIONS)
def test_any_session_comes_out_as_it_went_in(serializer, data):
    payload = serializer.dumps(data)
    again = serializer.loads(payload)
    assert exact(again) == exact(data)
    assert serializer.dumps(again) == payload


# -- Flask -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", LOSSLESS, ids=lambda vector: vector["py"])
def test_we_write_what_flask_writes(vector):
    assert dumps(golden(vector)).decode() == vector["dumps"]


def test_a_year_that_readers_of_http_dates_mistake_is_ours():
    assert b'{" dt":' in dumps({"k": datetime(99, 1, 1, tzinfo=UTC)})
    assert b'{" d":' in dumps({"k": datetime(100, 1, 1, tzinfo=UTC)})


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["py"])
def test_we_read_what_flask_wrote(vector):
    assert exact(loads(vector["dumps"].encode())) == exact(
        eval(vector["loads"], {**NAMES, "datetime": sys.modules["datetime"]})
        if "datetime.datetime" in vector["loads"]
        else eval(vector["loads"], NAMES.copy())
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["py"])
def test_we_lose_nothing_where_flask_does(vector, serializer):
    assert_comes_out(golden(vector), serializer)


def test_flask_reads_what_we_write_with_its_tags():
    from flask.json.tag import TaggedJSONSerializer as FlaskSerializer

    for vector in LOSSLESS:
        data = golden(vector)
        assert exact(FlaskSerializer().loads(dumps(data).decode())) == exact(data)


# -- what is stored as something else --------------------------------------------------------------


class Level(enum.IntEnum):
    HIGH = 3


class Text(enum.StrEnum):
    A = "a"


class Mixed(str, enum.Enum):  # noqa: UP042 - as it was written before there was StrEnum
    A = "a"


class Wrapped(str):
    def __html__(self):
        return "&lt;b&gt;"


class Aware(tzinfo):
    """A zone like those of dateutil: no name that zoneinfo knows."""

    def utcoffset(self, when):
        return timedelta(hours=2)

    def dst(self, when):
        return None

    def tzname(self, when):
        return "local"


class Named(Aware):
    key = "Asia/Tokyo"  # another offset than it says


class Moment(datetime):
    pass


class Point(NamedTuple):
    x: object
    y: object


BECOMES = [
    (Level.HIGH, 3),
    (Text.A, "a"),
    (Mixed.A, "a"),
    (Point(1, b"2"), (1, b"2")),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    ({Text.A: 1}, {"a": 1}),
    ({Level.HIGH: 1}, {3: 1}),
    (type("L", (list,), {})([1, (2,)]), [1, (2,)]),
    (type("F", (float,), {})(1.5), 1.5),
    (type("B", (bytes,), {})(b"x"), b"x"),
    (type("S", (set,), {})({1}), {1}),
    (type("D", (Decimal,), {})("1.50"), Decimal("1.50")),
    (Moment(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
    (Wrapped("<b>"), Markup("&lt;b&gt;")),
    (
        datetime(2026, 1, 1, tzinfo=Aware()),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(0, 7200))),
    ),
    (
        datetime(2026, 1, 1, tzinfo=Named()),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(0, 7200))),
    ),
]


@pytest.mark.parametrize(("value", "stored"), BECOMES, ids=ascii)
def test_a_subclass_is_stored_as_its_base_type(value, stored, serializer):
    assert exact(serializer.loads(serializer.dumps({"k": [value]}))) == exact({"k": [stored]})
    assert exact(serializer.loads(serializer.dumps({"k": value}))) == exact({"k": stored})


def test_a_session_is_read_below_its_own_methods():
    class Watched(dict):
        def touched(self, *args):
            raise AssertionError("read")

        __iter__ = __getitem__ = __len__ = keys = items = values = get = copy = touched

    assert dumps(Watched(a=(1,))) == b'{"a":{" t":[1]}}'


# -- what cannot be stored -------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1


class Rich:
    def __html__(self):
        return "<b>"


class HashableList(list):
    def __hash__(self):  # type: ignore[override]  # pyright: ignore
        return 1


class Twin(str):
    """Equal to nothing but itself, though the same text."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


REFUSED = [
    (object(), "holds an object: store plain data, e.g. its id"),
    ([Color.RED], "holds a Color inside a list: store plain data, e.g. its id"),
    ({"a": (len,)}, "holds a builtin_function_or_method inside a tuple"),
    ({"a": {1: 2j}}, "holds a complex inside a dict"),
    ((x for x in "abc"), "holds a generator"),
    (bytearray(b"x"), "holds a bytearray"),
    (Rich(), "holds a Rich"),
    (Fraction(1, 3), "holds a Fraction"),
    (range(3), "holds a range"),
    (dict, "holds a type"),
    ([SimpleNamespace(a=1)], "holds a SimpleNamespace inside a list"),
    ({object}, "holds a type inside a set"),
    ({Color.RED: 1}, "holds a Color inside a dict"),
    (10**5000, "holds an int of more digits than Python converts"),
    ([{"a": (-(10**5000),)}], "holds an int of more digits than Python converts"),
    ({HashableList()}, "tell apart"),
    ({(HashableList(),): 1}, "tell apart"),
    ({Twin("a"), Twin("a")}, "tell apart"),
    ({Twin("a"): 1, Twin("a"): 2}, "tell apart"),
]


@pytest.mark.parametrize(
    ("value", "message"), REFUSED, ids=lambda v: v if isinstance(v, str) else ""
)
def test_an_error_names_the_key_and_the_value(value, message, serializer):
    with pytest.raises(SerializationError) as caught:
        serializer.dumps({"fine": [(1,)], "cart": value, "later": 1})
    assert caught.value.key == "cart"
    assert str(caught.value).startswith("session['cart'] ")
    assert message in str(caught.value)
    with pytest.raises(SerializationError, match=r"session\['cart'\]"):
        serializer.dumps({"cart": value})


def test_an_error_names_a_key_that_cannot_be_stored(serializer):
    with pytest.raises(
        SerializationError, match=r"the key <Color\.RED: 1> holds a Color"
    ) as caught:
        serializer.dumps({Color.RED: 1})
    assert caught.value.key is Color.RED
    with pytest.raises(SerializationError, match="the key of type int holds an int of more digits"):
        serializer.dumps({10**5000: 1})


def nest(kind, depth):
    value: Any = kind(())
    for _ in range(depth - 1):
        value = (
            {1: value} if kind is dict else {" t": value} if kind is OrderedDict else kind([value])
        )
    return value


@pytest.mark.parametrize("kind", [list, tuple, frozenset, dict, OrderedDict])
def test_depth_is_bounded(kind, serializer):
    data = {"k": nest(kind, MAX_DEPTH - 1)}
    assert serializer.loads(serializer.dumps(data)) == data
    with pytest.raises(
        SerializationError, match=r"\['k'\] is more than 64 containers deep"
    ) as caught:
        serializer.dumps({"k": nest(kind, MAX_DEPTH)})
    assert caught.value.key == "k"


def test_a_circle_is_refused(serializer):
    circle: list = []
    circle.append({"a": circle})
    with pytest.raises(SerializationError, match="holds itself") as caught:
        serializer.dumps({"fine": 1, "circle": circle})
    assert caught.value.key == "circle"


@pytest.mark.parametrize("leaf", [0, ()])
def test_lists_that_share_are_not_followed_without_end(leaf, serializer):
    shared: list = [leaf]
    for _ in range(MAX_DEPTH - 10):
        shared = [shared, shared]
    with pytest.raises(SerializationError, match=f"holds more than {MAX_ITEMS} values") as caught:
        serializer.dumps({"shared": shared})
    assert caught.value.key == "shared"


def test_the_number_of_keys_is_bounded(serializer):
    data = dict.fromkeys(map(str, range(MAX_KEYS)), 0)
    assert serializer.loads(serializer.dumps(data)) == data
    data["one more"] = 0
    with pytest.raises(SerializationError, match="10001 keys"):
        serializer.dumps(data)
    with pytest.raises(SerializationError, match="10001 keys"):
        loads(json.dumps(data).encode())
    with pytest.raises(SerializationError, match="10001 keys"):
        MsgpackSerializer().loads(ormsgpack.packb(data))


# -- the same data, the same bytes -----------------------------------------------------------------


@given(st.lists(HASHABLE, max_size=12), st.randoms())
def test_equal_sets_give_equal_bytes(serializer, items, random):
    # Those of equal keys are dropped first, for which of 1 and True a set keeps depends on order.
    items = list(dict.fromkeys(items))
    shuffled = random.sample(items, len(items))
    assert serializer.dumps({"k": set(items)}) == serializer.dumps({"k": set(shuffled)})
    assert serializer.dumps({"k": [frozenset(items)]}) == serializer.dumps(
        {"k": [frozenset(shuffled)]}
    )


def test_sets_that_collide_differently_give_equal_bytes():
    one, other = {8, 0}, {0, 8}  # two orders of one hash bucket
    assert list(one) != list(other)
    assert dumps({"k": one}) == dumps({"k": other}) == b'{"k":{" se":[0,8]}}'


def test_order_of_a_dict_is_kept():
    assert dumps({"b": {"z": 1, "a": 2}, "a": ()}) == b'{"b":{"z":1,"a":2},"a":{" t":[]}}'


# -- hostile and corrupt bytes ---------------------------------------------------------------------

COLLIDING = [i * (2**61 - 1) for i in range(1, 3000)]
HOSTILE = [
    *[b"", b" ", b"{", b"{}x", b"\xff", b"\x00" * 40, b"\x80\x04}.", b"\xef\xbb\xbf{}", b"'a'"],
    *[b"null", b"1", b'"a"', b"[]", b'[["a",1]]', b'{" t":[]}', b'{" se":[]}', b'{" d":"x"}'],
    *[b"{1:2}", b'{"a":undefined}', b'{"a":"\n"}', b'{"a":"\\ud8"}', b'{"a":' + b"1" * 5000 + b"}"],
    *[b'{"a":' * 100_000, b"[" * 1_000_000, b'{"a":' + b"[" * 196 + b"]" * 196 + b"}"],
    *[b'{"k":' + b'{" t":[' * 500 + b"]}" * 500 + b"}"],
    *[
        b'{"k":{%s}}' % tag
        for tag in [
            *[b'" t":1', b'" t":{}', b'" t":null', b'" b":1', b'" b":"a"', b'" b":"\\u00e9"'],
            *[b'" b":"e A=="', b'" u":1', b'" u":""', b'" u":"zz"', b'" u":{" b":""}', b'" m":1'],
            *[b'" d":1', b'" d":""', b'" d":"Fri, 20 Nov 2026 12:30:15"', b'" d":"\\ud800"'],
            *[b'" d":"Mon, 20 Nov 2026 12:30:15 GMT"', b'" d":"Fri, 31 Feb 2026 12:30:15 GMT"'],
            *[b'" d":"Fri, 20 Nov 9999999999999 12:30:15 GMT"', b'" d":"Fri, 20 Nov 2026 1 GMT"'],
            *[b'" d":"Fri, 20 Nov 2026 12:30:15:1:1:1:1 GMT"'],
            *[b'" dt":"x"', b'" dt":[]', b'" dt":["x",null,0]', b'" dt":[1,null,0]'],
            *[b'" dt":["2026-01-01",null,2]', b'" dt":["2026-01-01",null,"0"]'],
            *[
                b'" dt":["2026-01-01",%s,0]' % zone
                for zone in [b"1", b"[]", b'""', b'"Nowhere/No"']
            ],
            *[
                b'" dt":["2026-01-01","%s",0]' % zone
                for zone in [b"../../etc/passwd", b"/etc/passwd"]
            ],
            *[
                b'" dt":["2026-01-01","%s",0]' % zone
                for zone in [b"Europe", b"\\u0000", b"\\ud800"]
            ],
            *[b'" dt":["2026-01-01","%s",0]' % zone for zone in [b"zone.tab", b"a" * 5000, b"."]],
            *[b'" ti":["25:00",null,0]', b'" da":"2026-02-31"', b'" da":"\\ud800"', b'" da":[]'],
            *[b'" td":[]', b'" td":1.5', b'" td":true', b'" td":1' + b"0" * 400],
            *[b'" de":"x"', b'" de":1', b'" de":"1e99999999999999999999"', b'" de":""'],
            *[b'" s":[1]', b'" s":"x"', b'" se":[[]]', b'" se":[{}]', b'" se":{}', b'" fs":[[]]'],
            *[b'" se":[{" de":"sNaN"}]', b'" se":[{" t":[[]]}]', b'" p":[1]', b'" p":[[1]]'],
            *[b'" p":[[1,2,3]]', b'" p":[[[],1]]', b'" p":[[{" de":"sNaN"},1]]', b'" p":{}'],
            *[b'" di":1', b'" di":{}', b'" di":{"a":1}', b'" di":{" t":1}', b'" di":{" t":[1]}'],
            *[b'" di":{"x__":1}', b'" di":{" t__":1,"a":2}', b'" di":{" p":[[1,2]]}'],
        ]
    ],
]


@pytest.mark.parametrize("payload", HOSTILE, ids=lambda payload: ascii(payload)[:50])
def test_corrupt_bytes_are_one_kind_of_error(payload):
    began = clock.perf_counter()
    with pytest.raises(SerializationError):
        loads(payload)
    assert clock.perf_counter() - began < 2


def test_a_zone_file_that_cannot_be_read_is_the_same_error(monkeypatch, serializer):
    def refuse(key: str) -> None:
        raise PermissionError(key)

    payload = serializer.dumps({"k": datetime(2026, 1, 1, tzinfo=BERLIN)})
    monkeypatch.setattr("zoneinfo.ZoneInfo", refuse)
    with pytest.raises(SerializationError):
        serializer.loads(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":1,"a":2}',
        b'{"k":{ " t":[1]}}',
        b'{"k":{"\\u0020t":[1]}}',
        b'{"k":NaN}',
        json.dumps({"k": {" se": COLLIDING}}, separators=(",", ":")).encode(),
        b'{"k":"' + b'\\"' * 130_000 + b'","l":[' + b"[]," * 1000 + b"[]]}",
    ],
    ids=lambda payload: ascii(payload)[:50],
)
def test_odd_bytes_that_are_harmless_are_read_in_bounded_time(payload):
    began = clock.perf_counter()
    assert type(loads(payload)) is dict
    assert clock.perf_counter() - began < 2


@pytest.mark.parametrize("start", [b"[" * 200 + b'"', b"{" * 200 + b'"\\'])
def test_text_without_an_end_is_looked_at_once(start):
    began = clock.perf_counter()
    with pytest.raises(SerializationError):
        loads(start + b'\\"' * 130_000)
    assert clock.perf_counter() - began < 2


@given(st.binary() | st.text().map(str.encode) | st.binary().map(b"\x81\xa1k".__add__))
@example(b'{"a":{" t":')
def test_no_bytes_raise_anything_else(serializer, payload):
    try:
        data = serializer.loads(payload)
    except SerializationError:
        return
    assert type(data) is dict


@settings(deadline=None)
@given(SESSIONS, st.data())
def test_no_damage_to_a_payload_raises_anything_else(serializer, session, data):
    payload = bytearray(serializer.dumps(session))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        end = at + data.draw(st.integers(0, 4))
        payload[at:end] = data.draw(
            st.sampled_from([b"", b"0", b'"', b"[", b"}", b" ", b"\xff", b"__"])
            | st.sampled_from([b"\x80", b"\x93", b"\xa9", b"\xc1", b"\xc8", b"\xd4\x03", b"\xdf"])
        )
        payload = payload or bytearray(b"{")
    try:
        damaged = serializer.loads(bytes(payload))
    except SerializationError:
        return
    assert type(damaged) is dict


def test_a_short_stack_is_one_kind_of_error(serializer):
    deep = serializer.dumps({"k": nest(tuple, 60)})

    def down(left: int, call):
        return call() if left == 0 else down(left - 1, call)

    left = next(n for n in range(5000) if _overflows(down, n))
    for call in (lambda: serializer.loads(deep), lambda: serializer.dumps({"k": nest(tuple, 60)})):
        if sys.version_info >= (3, 12):
            # C code does not count there, so that it may do without what is left.
            with contextlib.suppress(SerializationError):
                down(left - 30, call)
            continue
        with pytest.raises(SerializationError):
            down(left - 30, call)


def _overflows(down, depth):
    try:
        down(depth, int)
    except RecursionError:
        return True
    return False


# -- what MessagePack adds -------------------------------------------------------------------------

msgpack = MsgpackSerializer()

AS_JSON = [
    *[2**64, -(2**63) - 1, timedelta.max, {2**70}, "\ud83d", ("\ud83d\ude00",), {"\ud83d": 1}],
    *[{1: 2}, {"a": {(): 1}}, Markup("<b>"), Level.HIGH, Point(1, 2), [OrderedDict(a=1)]],
]


@pytest.mark.parametrize("value", AS_JSON, ids=ascii)
def test_what_messagepack_would_change_is_written_as_json(value):
    assert msgpack.dumps({"k": value}) == dumps({"k": value})


@pytest.mark.parametrize(
    "value",
    [value for value in VALUES if type(value) not in {int, str, dict, Markup, timedelta}],
    ids=lambda value: ascii(value)[:40],
)
def test_all_else_is_messagepack(value):
    assert msgpack.dumps({"k": value})[:3] == b"\x81\xa1k"


def test_an_extension_has_the_number_it_always_had():
    values = [
        *[(1,), UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1), time(1)],
        *[date(2026, 1, 1), timedelta(0, 1), Decimal("1.5"), {1}, frozenset({1})],
    ]
    payload = msgpack.dumps({"k": values})
    seen = ormsgpack.unpackb(payload, ext_hook=lambda code, data: (code, ormsgpack.unpackb(data)))
    assert seen["k"] == [
        *[(1, [1]), (2, "0" * 31 + "1"), (3, "Thu, 01 Jan 2026 00:00:00 GMT")],
        *[(4, ["2026-01-01T00:00:00", None, 0]), (5, ["01:00:00", None, 0]), (6, "2026-01-01")],
        *[(7, 1_000_000), (8, "1.5"), (9, [1]), (10, [1])],
    ]


def extensions(depth: int) -> bytes:
    inside = b"\x01"
    for _ in range(depth):
        inside = b"\xc9%b\x01\x91%b" % ((len(inside) + 1).to_bytes(4, "big"), inside)
    return b"\x81\xa1k" + inside


HOSTILE_MSGPACK = [
    *[
        b"\x80\x80",
        b"\x81",
        b"\x81\xa1k",
        b"\x01",
        b"\x90",
        b"\xc0",
        b"\xc1",
        b"\xa1a",
        b"\xd4\x01\x90",
    ],
    *[
        b"\x81\xa1k\xc4\x05abc",
        b"\x81\xa1k\xa1\xff",
        b"\x81\x01\x02",
        b"\x81\xc0\x02",
        b"\x81\xc4\x01a\x01",
    ],
    *[
        b"\x81\xa1k" + start + b"\xff" * 4
        for start in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9")
    ],
    *[b"\x81\xa1k" + b"\x91" * 100_000, b"\x81\xa1k" * 100_000, b"\xdd\xff\xff\xff\xff"],
    *[extensions(MAX_DEPTH + 1), extensions(50_000), b"\x81\xa1k\xd6\xff\x00\x00\x00\x00"],
    *[
        b"\x81\xa1k\xc7%c%c%b" % (len(inside), code, inside)
        for code, inside in [
            *[
                (0, b"\x90"),
                (11, b"\x90"),
                (127, b""),
                (1, b""),
                (1, b"\x80"),
                (1, b"\x91"),
                (1, b"\x90\x90"),
            ],
            *[(2, b"\x01"), (2, b"\xa2zz"), (3, b"\xa1x"), (4, b"\x90"), (4, b"\x93\xa1x\xc0\x00")],
            *[
                (5, b"\x93\xa525:00\xc0\x00"),
                (6, b"\xa1x"),
                (7, b"\xc3"),
            ],
            *[(8, b"\xa1x"), (8, b"\x01"), (9, b"\x91\x90"), (9, b"\x91\x80"), (10, b"\xa1a")],
        ]
    ],
]


@pytest.mark.parametrize("payload", HOSTILE_MSGPACK, ids=lambda payload: ascii(payload)[:50])
def test_corrupt_messagepack_is_the_same_kind_of_error(payload):
    began = clock.perf_counter()
    with pytest.raises(SerializationError):
        msgpack.loads(payload)
    assert clock.perf_counter() - began < 2


def test_a_payload_that_is_cut_off_or_goes_on_is_none(serializer):
    payload = serializer.dumps({"k": ["text", (1, date.min)], "n": 1000})
    for cut in range(len(payload)):
        with pytest.raises(SerializationError):
            serializer.loads(payload[:cut])
    for more in (b"\x00" * 10, b"\xc0", b"}", payload):
        with pytest.raises(SerializationError):
            serializer.loads(payload + more)


# -- what a plain session costs --------------------------------------------------------------------


def python_calls(call: Callable[[], object]) -> list[str]:
    """Return the names of the functions in Python that a call runs, itself left out."""
    seen: list[str] = []

    def profile(frame: Any, event: str, arg: object) -> None:
        if event == "call":
            seen.append(frame.f_code.co_name)

    before = sys.getprofile()
    gc.disable()  # what it collects is not ours
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
        gc.enable()
    return seen


@pytest.mark.parametrize("size", [1, 1000])
def test_a_plain_session_is_not_walked_through(serializer, size):
    data = {"user": 42, "cart": [{"sku": "a", "price": 1.5, "gift": None}] * size}
    payload = serializer.dumps(data)
    encode = ["encode"] if serializer.id == 1 else []
    told_apart = ["<listcomp>"] * 2 if sys.version_info < (3, 12) else []
    calls = python_calls(lambda: serializer.dumps(data))
    assert calls[1:] == ["dumps", "is_plain", *told_apart, *encode]
    bounded = ["check_keys"] if len(payload) > MAX_KEYS else []
    read = ["_read"] if serializer.id == 2 else ["_check_brackets"] if size > 1 else []
    assert python_calls(lambda: serializer.loads(payload))[1:] == ["loads", *read, *bounded]


# -- what is imported ------------------------------------------------------------------------------

WITHOUT_MARKUPSAFE = """
import sys
from async_session.serializers import TaggedJSONSerializer, SerializationError
assert not {"markupsafe", "flask", "zoneinfo", "pickle"} & set(sys.modules), "imported too much"
sys.modules["markupsafe"] = None
serializer = TaggedJSONSerializer()
assert serializer.loads(serializer.dumps({"a": (1, b"x")})) == {"a": (1, b"x")}
try:
    serializer.loads(b'{"a":{" m":"<b>"}}')
except SerializationError as error:
    assert "install markupsafe" in str(error), error
else:
    raise AssertionError("read without markupsafe")
"""


def test_markupsafe_is_needed_only_to_read_a_markup():
    subprocess.run([sys.executable, "-c", WITHOUT_MARKUPSAFE], check=True)


WITHOUT_ORMSGPACK = """
import sys
from async_session import serializers
assert "ormsgpack" not in sys.modules, "imported too much"
sys.modules["ormsgpack"] = MODULE
try:
    serializers.MsgpackSerializer()
except serializers.ConfigurationError as error:
    assert "1.13.1: pip install 'async_session[fast]'" in str(error), error
else:
    raise AssertionError("made without ormsgpack")
"""


@pytest.mark.parametrize("module", ["None", "type(sys)('old')"])
def test_an_ormsgpack_that_is_missing_or_old_is_named_with_its_extra(module):
    code = WITHOUT_ORMSGPACK.replace("MODULE", module).replace(
        "try:", "if sys.modules['ormsgpack']: sys.modules['ormsgpack'].__version__ = '1.13.0'\ntry:"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
