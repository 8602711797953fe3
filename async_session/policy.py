"""How long sessions live, and what a request does to the cookie and to the store.

Everything here is a decision and nothing is done: pure functions over plain values. The table
below is Flask's (`flask.sessions.SecureCookieSessionInterface.save_session`), with a column for
the store. It is the code: `decide` looks a state up in it, its test walks through all of it, and
the documentation shows it.

    E  the dict is empty, and this request did not log in
    M  it was modified, or the request asked for a new id
    L  the session was loaded: a live record stands behind the cookie
    P  it is permanent: the cookie has a lifetime
    D  its refresh is due: permanent, `refresh_each_request`, and not refreshed lately
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, NamedTuple, Self

from async_session._checks import check_choices, seconds
from async_session.errors import ConfigurationError
from async_session.serializers import Serializer

__all__ = [
    "RULES",
    "Cookie",
    "Rule",
    "SessionPolicy",
    "Store",
    "Vary",
    "as_policy",
    "decide",
]


class Cookie(enum.Enum):
    """What the response does to the cookie."""

    NONE = "none"
    SET = "set, no Expires"
    SET_EXPIRES = "set, Expires = now + lifetime"
    DELETE = "deletion"


class Vary(enum.Enum):
    """Whether the response gets ``Vary: Cookie``."""

    NO = "no"
    IF_ACCESSED = "if accessed"
    YES = "yes"


class Store(enum.Enum):
    """What happens in the store after the request, besides the read that loaded the session."""

    NONE = "none"
    WRITE = "guarded write"
    END = "guarded tombstone"
    REFRESH = "guarded rewrite"


class Rule(NamedTuple):
    """A row: the states that it covers (None for either), and what follows."""

    state: str
    empty: bool | None
    modified: bool | None
    loaded: bool | None
    permanent: bool | None
    due: bool | None
    cookie: Cookie
    vary: Vary
    store: Store


# fmt: off
RULES = (
    #    state                          E      M      L      P      D      cookie              vary              store
    Rule("not E, M, not P",             False, True,  None,  False, None,  Cookie.SET,         Vary.YES,         Store.WRITE),
    Rule("not E, M, P",                 False, True,  None,  True,  None,  Cookie.SET_EXPIRES, Vary.YES,         Store.WRITE),
    Rule("not E, not M, D, loaded",     False, False, True,  True,  True,  Cookie.SET_EXPIRES, Vary.YES,         Store.REFRESH),
    Rule("not E, not M, D, new",        False, False, False, True,  True,  Cookie.SET_EXPIRES, Vary.YES,         Store.WRITE),
    Rule("not E, not M, otherwise",     False, False, None,  None,  None,  Cookie.NONE,        Vary.IF_ACCESSED, Store.NONE),
    Rule("E, M, loaded",                True,  True,  True,  None,  None,  Cookie.DELETE,      Vary.YES,         Store.END),
    Rule("E, M, new",                   True,  True,  False, None,  None,  Cookie.DELETE,      Vary.YES,         Store.NONE),
    Rule("E, not M",                    True,  False, None,  None,  None,  Cookie.NONE,        Vary.IF_ACCESSED, Store.NONE),
)
# fmt: on


def _first_match(*state: bool) -> Rule:
    return next(
        rule
        for rule in RULES
        if all(want is None or want == have for want, have in zip(rule[1:6], state, strict=True))
    )


_BY_STATE = {state: _first_match(*state) for state in itertools.product((False, True), repeat=5)}


def decide(*, empty: bool, modified: bool, loaded: bool, permanent: bool, due: bool) -> Rule:
    """Return the first row of `RULES` that covers a state."""
    return _BY_STATE[empty, modified, loaded, permanent, due]


_DAY = 86400
_GRACE = 3600


@dataclass(frozen=True, kw_only=True)
class SessionPolicy:
    """How long sessions live, and what happens in doubt. Immutable, checked when it is made.

    Args:
        lifetime: seconds (or a timedelta) of idleness after which a session is over. Flask's 31
            days. 0: over with the second it was written in; below: at once.
        absolute_lifetime: seconds (or a timedelta) after which it is over however much it is
            used, counted from its beginning or its last login; None for never.
        permanent: whether the cookie outlives the browser where ``session.permanent`` says
            nothing.
        refresh_each_request: whether using a permanent session prolongs it; else only writing
            does.
        refresh_interval: seconds between two such refreshes; 0 for one with every response, as in
            Flask.
        detect_mutation: whether a list or dict that was changed in place is noticed and stored.
        on_conflict: what a write does if another request has written meanwhile: ``"merge"`` key
            by key, ``"overwrite"``, or ``"raise"`` a `SessionConflict`.
        on_gone: what a write does if another request has ended the session: ``"drop"`` it, or
            ``"raise"`` a `SessionGone`.
        merge: resolvers by key for values that two requests changed: ``{"hits": merge.add}``.
        timeout: seconds that opening, and a commit as a whole, may take.
        on_store_error: ``"raise"`` a `StoreUnavailable` at the first use, or ``"anonymous"``: read
            as empty, refuse writes.
        clock_skew: seconds by which the clocks of two workers may differ.
        max_size: bytes that a stored session may have.
        serializer: writes sessions as bytes; None for `TaggedJSONSerializer`. What
            `TaggedJSONSerializer` and `MsgpackSerializer` wrote is read in any case.
        reject_unsafe: refuse what is otherwise warned about (see `strict`).

    Raises:
        ConfigurationError: a value that cannot work.

    Example:
        >>> SessionPolicy(lifetime=3600, refresh_each_request=False).lifetime
        3600
    """

    lifetime: int | timedelta = 31 * _DAY
    absolute_lifetime: int | timedelta | None = None
    permanent: bool = False
    refresh_each_request: bool = True
    refresh_interval: int = 0
    detect_mutation: bool = True
    on_conflict: Literal["merge", "overwrite", "raise"] = "merge"
    on_gone: Literal["drop", "raise"] = "drop"
    merge: Mapping[str, Callable[[Any, Any, Any], object]] = field(default_factory=dict)
    timeout: float = 1.0
    on_store_error: Literal["raise", "anonymous"] = "raise"
    clock_skew: int = 5
    max_size: int = 256 * 1024
    serializer: Serializer | None = None
    reject_unsafe: bool = False
    #: `lifetime` and `absolute_lifetime` in whole seconds
    idle: int = field(init=False, repr=False, compare=False)
    absolute: int | None = field(init=False, repr=False, compare=False)
    #: what `ttl` returns for a session without a lifetime of its own, if there is no absolute one
    usual_ttl: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "idle", seconds("lifetime", self.lifetime))
        absolute = self.absolute_lifetime
        object.__setattr__(
            self, "absolute", None if absolute is None else seconds("absolute_lifetime", absolute)
        )
        check_choices(self)
        object.__setattr__(self, "usual_ttl", self.ttl(self.idle, lifetime=self.idle))

    @classmethod
    def flask(cls, **overrides: Any) -> Self:
        """Return Flask to the letter: no clock skew, changes in place go unnoticed."""
        letter: dict[str, Any] = {"detect_mutation": False, "clock_skew": 0, "refresh_interval": 0}
        letter.update(overrides)
        return cls(**letter)

    @classmethod
    def strict(cls, **overrides: Any) -> Self:
        """Return a policy that refuses what the default only warns about.

        Secrets under 32 bytes, cookies without Secure, HttpOnly or SameSite or that browsers will
        not keep, and a Secure cookie on a plain HTTP request. Responses that set the cookie are
        sent with ``Cache-Control: no-store``.
        """
        overrides.setdefault("reject_unsafe", True)
        return cls(**overrides)

    def replace(self, **changes: Any) -> Self:
        """Return the same policy but for `changes`."""
        return dataclasses.replace(self, **changes)

    def is_alive(
        self, created: int, written: int, now: float, lifetime: int, sliding: bool
    ) -> bool:
        """Decide whether a record is a session, by its own times and the current settings.

        Args:
            created: when the session began, in epoch seconds.
            written: when it was last written or refreshed.
            now: the current time; whole seconds count.
            lifetime: the idle lifetime that applies to it, in seconds.
            sliding: it is refreshed by use, so it may be `refresh_interval` older than it looks.
        """
        now = now // 1
        idle, age = now - written, now - created
        if idle < 0 or age < 0:  # another worker's clock may be ahead of ours, a little
            if idle < -self.clock_skew or age < -self.clock_skew:
                return False
            idle = max(idle, 0)
        slack = self.refresh_interval if sliding and lifetime > 0 else 0
        return idle <= lifetime + slack and (self.absolute is None or age <= self.absolute)

    def remaining(self, *, created: int, now: int, lifetime: int) -> int:
        """Return for how many seconds a session written now stays alive if it is left alone."""
        if self.absolute is None:
            return lifetime
        return min(lifetime, created + self.absolute - now)

    def ttl(self, remaining: int, *, lifetime: int) -> int:
        """Return for how many seconds the store has to keep a record written now.

        Longer than the session lives: it may be refreshed late, and a lifetime that is lengthened
        later still finds it.

        Args:
            remaining: for how many seconds the session stays alive.
            lifetime: the idle lifetime that applies to it, in seconds.
        """
        return max(1, remaining + self.refresh_interval + max(0, min(lifetime, _GRACE)))

    def refresh_due(self, *, written: int, now: int) -> bool:
        """Decide whether a sliding session is to be refreshed by this response."""
        return now - written >= self.refresh_interval


def as_policy(value: object) -> SessionPolicy:
    """Return `value` if it is a policy, the default one for None; refuse all else."""
    if value is not None and not isinstance(value, SessionPolicy):
        raise ConfigurationError(f"{value!r} is no policy: write SessionPolicy(...)")
    return value or SessionPolicy()
