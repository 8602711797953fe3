"""Any sequence of requests of several browsers, compared with a model of what sessions come to."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import merge
from ..errors import SessionError
from ..manager import CookieAction, SessionManager
from ..policy import SessionPolicy
from ..record import Record, decode
from ..session import Origin, Session
from ..stores.base import SessionStore
from ._machine import AgeingStore, StoreUser
from ._manager_model import COUNTER, LIFETIME, REFRESH, Model, Request, Sent
from .interleaving import Schedule, TurnStore

# `_machine` comes first: it says what to install where hypothesis is missing.
from hypothesis import strategies as st  # isort: skip
from hypothesis.stateful import Bundle, consumes, initialize, multiple, precondition, rule  # isort: skip

if TYPE_CHECKING:
    from hypothesis.stateful import MultipleResults

__all__ = ["ManagerMachine"]

_SECRET = "the secret key of a test"  # noqa: S105  # signs nobody else's cookies
_BROWSERS = st.integers(0, 1)
_KEYS = st.sampled_from(["a", "b"])
#: What a request says, in the words of the model.
_Said = tuple[Any, ...]
_SAYS: st.SearchStrategy[list[_Said]] = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _KEYS, st.integers(0, 9)),
        st.tuples(st.just("count")),
        st.tuples(st.just("remove"), _KEYS),
        st.tuples(st.just("login"), st.sampled_from(["ada", "grace"])),
        st.tuples(st.sampled_from(["clear", "regenerate", "logout"])),
    ),
    max_size=3,
)
#: And how an app says it to its session.
_SESSION: Mapping[str, Callable[..., object]] = {
    "write": Session.__setitem__,
    "count": lambda session: session.update({COUNTER: session.get(COUNTER, 0) + 1}),
    "remove": lambda session, key: session.pop(key, None),
    "clear": Session.clear,
    "login": Session.login,
    "regenerate": Session.regenerate,
    "logout": Session.logout,
}
#: Longer than a tombstone stands; shorter than a session lives.
_LONGEST_REQUEST = 60


@dataclass(frozen=True, eq=False)
class _Flying:
    """A request under way: whose it is, its session, and what the model knows of it."""

    browser: int
    session: Session
    said: Request


class _Opened(NamedTuple):
    """What a cookie opens: a session, or that it has got a new id, and the key of that."""

    data: Mapping[Any, object]
    owner: str | None
    superseded: bool
    successor: str | None


class _Seen(NamedTuple):
    """What there is: what each cookie opens, and the keys of all records that live."""

    opened: dict[str, _Opened]
    keys: set[str]


class ManagerMachine(StoreUser):
    """Run any sequence of requests through a manager, and compare what they do with a model.

    Browsers open requests, which read, write, log in, regenerate, log out and empty the session,
    and are committed in any order, later, one by one or two with their store calls between each
    other. After each commit the cookie that was sent must be the one that the model says, every
    cookie that was ever sent must open what the model says, to the key and the owner or to where it
    has moved, and no record may live whose id nobody was sent. Two at once must come to what they
    would have come to one after the other.

    A state machine of hypothesis: override `make_store` or `make_manager`, and run the attribute
    ``TestCase`` with unittest or pytest, or the class with
    `hypothesis.stateful.run_state_machine_as_test`. Needs hypothesis; runs on asyncio.

    Attributes:
        policy: what the model knows: sliding sessions, and ``merge.add`` for the key ``"hits"``.
    """

    policy = SessionPolicy(
        lifetime=LIFETIME,
        permanent=True,
        refresh_interval=REFRESH,
        merge={COUNTER: merge.add},
        timeout=30,  # a slow store is no fault
    )

    requests: Bundle[_Flying] = Bundle("requests")
    cookies: Bundle[str] = Bundle("cookies")

    def __init__(self) -> None:
        super().__init__()
        self._stored = AgeingStore(self.store, self.clock)
        self._manager = self.make_manager(TurnStore(self._stored))
        self._model = Model(self.now)
        self._flying: list[_Flying] = []
        self._jars: dict[int, str | None] = {0: None, 1: None}
        self._cookies: dict[int, str] = {}  # of each life of the model

    def make_manager(self, store: SessionStore) -> SessionManager:
        """Return the manager of one example: on this store, with `policy` and `clock`."""
        return SessionManager(store, secret_key=_SECRET, policy=self.policy, clock=self.clock)

    # Requests begin

    @initialize(target=cookies)
    def sign_in(self) -> str:
        """Sign somebody in; both browsers hold the cookie, as two tabs do."""
        says: list[_Said] = [("login", "ada"), ("write", "a", 1), ("write", "b", 1)]
        (cookie,) = self._commit([self._open(0, None, says)], [])
        self._jars[1] = cookie
        return cookie

    @rule(target=requests, browser=_BROWSERS, says=_SAYS)
    def open(self, browser: int, says: list[_Said]) -> _Flying:
        """Open a request with the cookie of a browser, and let it say what it wants."""
        return self._open(browser, self._jars[browser], says)

    @rule(target=requests, browser=_BROWSERS, cookie=cookies, says=_SAYS)
    def open_old(self, browser: int, cookie: str, says: list[_Said]) -> _Flying:
        """Open a request with a cookie that was sent at some time."""
        return self._open(browser, cookie, says)

    def _open(self, browser: int, cookie: str | None, says: list[_Said]) -> _Flying:
        lives = {cookie: life for life, cookie in self._cookies.items()}
        said = self._model.open(None if cookie is None else lives[cookie])
        session = self.run(self._manager.open(cookie))
        assert (dict(session), session.owner) == (said.mine, said.owner)
        for verb, *arguments in says:
            _SESSION[verb](session, *arguments)
            getattr(said, verb)(*arguments)
            assert (dict(session), session.owner) == (said.mine, said.owner)
        request = _Flying(browser, session, said)
        self._flying.append(request)
        return request

    # Requests end

    @rule(target=cookies, request=consumes(requests))
    def commit(self, request: _Flying) -> MultipleResults[str]:
        """Answer a request."""
        return multiple(*self._commit([request], []))

    @precondition(lambda self: len(self._flying) > 1)
    @rule(
        target=cookies,
        one=consumes(requests),
        two=consumes(requests),
        choices=st.lists(st.integers(0, 1), max_size=12),
    )
    def commit_both(self, one: _Flying, two: _Flying, choices: list[int]) -> MultipleResults[str]:
        """Answer two requests at once; `choices` says how their store calls alternate."""
        return multiple(*self._commit([one, two], choices))

    @rule(seconds=st.sampled_from([1, 29, 30, 60, 61, LIFETIME, LIFETIME + REFRESH]))
    def advance(self, seconds: int) -> None:
        """Let time pass, but no request under way take longer than a request may."""
        oldest = min((flying.said.now for flying in self._flying), default=self.now + seconds)
        self.now += max(0, min(seconds, oldest + _LONGEST_REQUEST - self.now))
        self._model.now = self.now
        seen = self.run(self._look(self._cookies.values()))
        wrong = self._difference(self._model, self._cookies, seen)
        assert not wrong, wrong

    def _commit(self, flying: Sequence[_Flying], choices: Sequence[int]) -> list[str]:
        """Commit requests, and compare; return the cookies that are new."""
        actions: dict[_Flying, CookieAction] = {}
        errors: list[SessionError] = []

        async def commit(request: _Flying) -> None:
            try:
                actions[request] = await self._manager.commit(request.session)
            except SessionError as error:
                errors.append(error)

        jobs = {str(n): functools.partial(commit, request) for n, request in enumerate(flying)}
        self.run(Schedule(choices).run(jobs))
        assert not errors, f"a commit raised {errors}"
        for request, action in actions.items():  # in the order in which they were answered
            if action.delete or action.value:
                self._jars[request.browser] = action.value
        self._flying = [request for request in self._flying if request not in flying]
        known = set(self._cookies)
        self._adopt(actions)
        return [self._cookies[life] for life in self._cookies if life not in known]

    # What comes of it

    def _adopt(self, actions: dict[_Flying, CookieAction]) -> None:
        """Go on with what the model says of these commits, in whichever order it agrees."""
        sent = {action.value for action in actions.values() if action.value}
        seen = self.run(self._look(sent.union(self._cookies.values())))
        wrong: list[str] = []
        for order in itertools.permutations(actions):
            model, cookies = copy.deepcopy(self._model), dict(self._cookies)
            found = [
                _wrong_cookie(model.commit(request.said), actions[request], cookies)
                for request in order
            ]
            wrong.append("; ".join(filter(None, found)) or self._difference(model, cookies, seen))
            if not wrong[-1]:
                self._model, self._cookies = model, cookies
                return
        raise AssertionError(" (or, in the other order:) ".join(wrong))

    async def _look(self, cookies: Iterable[str]) -> _Seen:
        values = await self._stored.values()
        opened = {cookie: _opened(await self._manager.open(cookie)) for cookie in cookies}
        records = {key for key, value in values.items() if value and type(decode(value)) is Record}
        return _Seen(opened, records)

    def _difference(self, model: Model, cookies: Mapping[int, str], seen: _Seen) -> str:
        """Say what there is and should not be; nothing if all is as in the model."""
        for life, cookie in cookies.items():
            said = model.open(life)
            moved = None if said.successor is None else self._key(cookies[said.successor])
            be = _Opened(said.mine, said.owner, said.superseded is not None, moved)
            if (is_ := seen.opened[cookie]) != be:
                return f"the cookie of session {life} opens {is_} and should open {be}"
        alive = {self._key(cookies[life]) for life in cookies if not model.lives[life].over}
        if seen.keys - alive:
            return f"{len(seen.keys - alive)} records live that ended, or whose id was never sent"
        return ""

    def _key(self, cookie: str) -> str:
        ticket = self._manager._signer.verify(cookie)
        assert ticket is not None
        return ticket.key


def _opened(session: Session) -> _Opened:
    past = session._origin or Origin("", "")
    return _Opened(dict(session), session.owner, past.superseded, past.successor)


def _wrong_cookie(expected: Sent, action: CookieAction, cookies: dict[int, str]) -> str:
    """Say what is wrong with the cookie that was sent; note it down if it is a new life's."""
    sent = "delete" if action.delete else "set" if action.value else "none"
    if sent != expected.cookie:
        return f"the cookie that was sent is {sent!r} and should be {expected.cookie!r}"
    if expected.life is None or action.value is None:
        return ""
    if expected.life not in cookies and action.value not in cookies.values():
        cookies[expected.life] = action.value
    right = cookies.get(expected.life) == action.value
    return "" if right else f"the cookie that was sent is not that of session {expected.life}"
