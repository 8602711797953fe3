"""What sessions come to, without stores, versions or races: the model of `ManagerMachine`.

A *life* is a session under one id. A *request* opens a life, says what is to become of it, and is
committed at some later time, when other requests may have been there first. Lives are numbered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ..record import Ended
from ..session import Intent

__all__ = ["COUNTER", "LIFETIME", "REFRESH", "Life", "Model", "Request", "Sent"]

LIFETIME = 1000
REFRESH = 60
#: Seconds for which an ended session can be told from one that never was.
_TOMBSTONE = 30
#: The key that two requests which changed it have both counted up.
COUNTER = "hits"

Data = dict[str, int]


@dataclass
class Life:
    """A session under one id: alive until `over`, or until nobody has used it for its lifetime."""

    data: Data
    owner: str | None
    written: int
    version: int = 0
    over: Ended | None = None
    over_since: int = 0
    successor: int | None = None

    def finish(self, why: Ended, now: int, successor: int | None = None) -> None:
        """End it."""
        self.over, self.over_since, self.successor = why, now, successor


@dataclass
class Request:
    """What a request found, and what it has said so far. `life` is None if it is anonymous."""

    now: int
    life: int | None = None
    found: Life | None = None
    superseded: Ended | None = None
    successor: int | None = None
    base: Data = field(default_factory=dict)
    mine: Data = field(default_factory=dict)
    owner: str | None = None
    intent: Intent = Intent.KEEP
    assigned: set[str] = field(default_factory=set)
    cleared: bool = False
    modified: bool = False
    logged_in: bool = False

    def write(self, key: str, value: int) -> None:
        """As ``session[key] = value``."""
        self.mine[key] = value
        self.assigned.add(key)
        self.modified = True

    def count(self) -> None:
        """As ``session["hits"] = session.get("hits", 0) + 1``."""
        self.write(COUNTER, self.mine.get(COUNTER, 0) + 1)

    def remove(self, key: str) -> None:
        """As ``session.pop(key, None)``."""
        if self.mine.pop(key, None) is not None:
            self.modified = True

    def clear(self) -> None:
        """As ``session.clear()``."""
        self.mine.clear()
        self.cleared = self.modified = True

    def login(self, owner: str) -> None:
        """As ``session.login(owner)``."""
        self.intent = Intent.END if self.intent is Intent.END else Intent.REPLACE
        self.owner = owner
        self.logged_in = self.modified = True

    def regenerate(self) -> None:
        """As ``session.regenerate()``."""
        self.intent = Intent.MOVE if self.intent is Intent.KEEP else self.intent

    def logout(self) -> None:
        """As ``session.logout()``."""
        self.clear()
        self.assigned.clear()
        self.intent, self.owner, self.logged_in = Intent.END, None, False

    @property
    def empty(self) -> bool:
        """Whether nothing is left of its session. An owner is something, until it is emptied."""
        signed_in = self.logged_in or (self.owner is not None and not self.modified)
        return not self.mine and not signed_in

    def merged(self, theirs: Data) -> Data:
        """Return the data that keeps what this request did, and what others did meanwhile."""
        if self.cleared:
            return dict(self.mine)
        values = ((key, self._pick(key, theirs.get(key))) for key in self.mine | theirs)
        return {key: value for key, value in values if value is not None}

    def _pick(self, key: str, other: int | None) -> int | None:
        base, mine = self.base.get(key), self.mine.get(key)
        if self.logged_in and key in self.assigned and mine is not None:
            return mine
        if base is not None and (mine is None or other is None):
            return None
        if base == other or other is None:
            return mine
        if base == mine or mine is None:
            return other
        return other + mine - (base or 0) if key == COUNTER else mine

    @property
    def own(self) -> Data:
        """What it put there itself: all that a login keeps whose session has ended meanwhile."""
        return {
            key: value
            for key, value in self.mine.items()
            if key in self.assigned or value != self.base.get(key)
        }


class Sent(NamedTuple):
    """What a response does to the cookie: nothing, "delete" it, or "set" it to that of a life."""

    cookie: str = "none"
    life: int | None = None


_NOTHING, _DELETE = Sent(), Sent("delete")


class Model:
    """All sessions there ever were, as they are at the time `now`."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.lives: list[Life] = []

    def state(self, number: int) -> Ended | None:
        """Return how a life ended, as far as one can still tell; None if it did not."""
        life = self.lives[number]
        lapsed = self.now - life.over_since >= _TOMBSTONE
        return Ended.ENDED if life.over and lapsed else life.over

    def open(self, number: int | None) -> Request:
        """Return a request that comes with the cookie of a life."""
        anonymous = Request(self.now)
        if number is None:
            return anonymous
        life, state = self.lives[number], self.state(number)
        if state is Ended.ENDED:
            return anonymous
        if state is not None:
            return Request(self.now, number, superseded=state, successor=life.successor)
        if self.now - life.written > LIFETIME + REFRESH:
            return anonymous
        found = Life(dict(life.data), life.owner, life.written, life.version)
        return Request(
            self.now, number, found, base=found.data, mine=dict(found.data), owner=found.owner
        )

    def commit(self, request: Request) -> Sent:
        """Carry out what a request said, now; return what its response sends."""
        intent = request.intent
        if request.superseded:
            renewing_nothing = intent is Intent.MOVE and not request.mine
            if intent is Intent.KEEP or renewing_nothing:
                return _NOTHING
        if intent is Intent.END:
            self._end(request)
            return _DELETE if request.empty else self._begin(request, request.mine)
        if request.found is None:
            return self._commit_new(request)
        if request.empty:
            if not request.modified and intent is Intent.KEEP:
                return _NOTHING
            # A login meanwhile has given the client another cookie, which must not be deleted.
            return _NOTHING if self._end(request) is Ended.REPLACED else _DELETE
        if not request.modified and intent is Intent.KEEP:
            return self._refresh(request, request.found)
        return self._commit_loaded(request)

    def _commit_new(self, request: Request) -> Sent:
        if request.empty:
            return _DELETE if request.modified else _NOTHING
        sent = self._begin(request, request.mine)
        self._end(request)
        return sent

    def _refresh(self, request: Request, found: Life) -> Sent:
        assert request.life is not None
        life = self.lives[request.life]
        due = self.now - found.written >= REFRESH
        if not due or life.over or life.version != found.version:
            return _NOTHING
        life.version, life.written = life.version + 1, self.now
        return Sent("set", request.life)

    def _commit_loaded(self, request: Request) -> Sent:
        assert request.life is not None
        life, state = self.lives[request.life], self.state(request.life)
        if request.intent is Intent.REPLACE:
            if state is None:
                sent = self._begin(request, request.merged(life.data))
                life.finish(Ended.REPLACED, self.now)
                return sent
            if state is Ended.MOVED:
                self._end_from(life.successor)
            return self._begin(request, request.own)
        if state is not None:
            return _NOTHING
        if request.intent is Intent.MOVE:
            sent = self._begin(request, request.merged(life.data))
            life.finish(Ended.MOVED, self.now, sent.life)
            return sent
        life.data, life.written = request.merged(life.data), self.now
        life.version += 1
        return Sent("set", request.life)

    def _begin(self, request: Request, data: Data) -> Sent:
        self.lives.append(Life(dict(data), request.owner, self.now))
        return Sent("set", len(self.lives) - 1)

    def _end(self, request: Request) -> Ended | None:
        """End what a request came with, wherever it has moved; return how it had ended before."""
        if request.superseded:
            return self._end_from(request.successor) or request.superseded
        return self._end_from(request.life)

    def _end_from(self, number: int | None) -> Ended | None:
        why = None
        while number is not None and (state := self.state(number)) is not None:
            why = state
            number = self.lives[number].successor if state is Ended.MOVED else None
        if number is not None:
            self.lives[number].finish(Ended.ENDED, self.now)
        return why
