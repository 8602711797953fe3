"""The session as an app sees it: a dict that knows whether it was read, written or ended.

Nothing here does I/O. What must happen to the stored session (`login`, `regenerate`, `logout`) is
noted down as an intent and carried out by the session's keeper, when the response starts.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from async_session.errors import SessionError
from async_session.events import SessionEvent
from async_session.tracking import TrackedDict

__all__ = ["Intent", "Keeper", "Origin", "Session"]


class Intent(enum.Enum):
    """What is to become of the id that the request came with."""

    KEEP = "keep"
    #: a new id, the data moves along (`regenerate`)
    MOVE = "move"
    #: a new id for an authenticated session (`login`)
    REPLACE = "replace"
    #: nothing is to open this session again (`logout`)
    END = "end"

    @property
    def renews(self) -> bool:
        """Whether the id that the request came with is to be dead afterwards."""
        return self is not Intent.KEEP


class Origin(NamedTuple):
    """The stored session behind a request: what the next conditional write compares with.

    Attributes:
        id: the session id, as in the cookie.
        key: its hash, the store's key.
        version: the version last seen in the store; None if the id is dead (see `superseded`).
        payload: the serialized dict that this session was filled from, or wrote last.
        serializer: the id of the serializer that wrote `payload`.
        written: when it was last written, in epoch seconds.
        superseded: the id opened on a tombstone: another request gave the client a newer id.
        successor: the key of that newer session, where it took over the data.
        stored: the payload in the store, where it is more than `payload`: others' changes were
            merged into what this session wrote, and are not in its dict.
    """

    id: str
    key: str
    version: bytes | None = None
    payload: bytes = b""
    serializer: int = 0
    written: int = 0
    superseded: bool = False
    successor: str | None = None
    stored: bytes | None = None

    def __repr__(self) -> str:
        # Neither id nor data: error reports show the repr of local variables.
        return f"<Origin {self.key}>"


class Keeper(Protocol):
    """What a session needs of the manager that opened it."""

    @property
    def clock(self) -> Callable[[], float]:
        """The time, in epoch seconds."""
        ...

    @property
    def permanent(self) -> bool:
        """Whether sessions that say nothing about it are permanent."""
        ...

    @property
    def lifetime(self) -> int:
        """Seconds that a session without a lifetime of its own lives."""
        ...

    async def save(self, session: Session, /) -> None:
        """Store a session now."""
        ...


class Session(TrackedDict):
    """A user's data, as a plain dict: read it, change it, and it is saved with the response.

    Everything that reads counts as access (the response gets ``Vary: Cookie``), everything that
    writes as a modification, as in Flask. A list or dict inside that is changed in place is
    noticed and stored too, unless the policy says otherwise.

    Attributes:
        accessed: whether anything was read or written. May be set.
        modified: whether something was written. May be set: the app's own word.
        created: when the session began, in epoch seconds; a login begins it anew. 0 if it is new.
        authenticated_at: when `login` was last called, in epoch seconds, or None.

    Example:
        >>> session = Session({"cart": [1]})
        >>> session["name"] = "Ada"
        >>> session.modified, session["cart"]
        (True, [1])
    """

    created: int = 0
    authenticated_at: int | None = None

    #: True if the store could not answer: whether there is a session is not known.
    unavailable: bool = False

    _keeper: Keeper | None = None
    _origin: Origin | None = None
    _intent: Intent = Intent.KEEP
    #: this request called login(): its session is stored even if the dict is empty
    _logged_in: bool = False
    #: a commit failed: it is not tried again
    _failed: bool = False
    #: the response has started: no cookie can be sent any more
    _answered: bool = False
    #: the adapter answered itself: what the app still sends is dropped
    _refused: bool = False
    #: the response says that it depends on the cookie
    _varies: bool = False
    #: what happened and was not told yet
    _events: tuple[SessionEvent, ...] = ()
    #: the address of the request, as in its ASGI scope: (host, port)
    _client: Sequence[object] | None = None
    _owner: str | None = None
    #: whose session `logout` ended
    _past_owner: str | None = None
    #: a lifetime of this session's own, in seconds
    _lifetime: int | None = None
    #: entries of the stored header that this version does not know, kept for the next one
    _extras: Mapping[str, object] = {}

    def __init__(self, data: Any = (), /) -> None:
        if callable(data):
            raise TypeError(
                f"Session() holds one user's data and got {type(data).__name__}: to give a Quart "
                "app sessions write QuartSession(app), for any other app.add_middleware("
                "SessionMiddleware, ...)"
            )
        super().__init__(data)

    # What an app asks about the session

    @property
    def new(self) -> bool:
        """Whether this request found no session, or left the one that it found behind."""
        self.accessed = True
        origin = self._origin
        return origin is None or origin.version is None or self._intent is Intent.END

    @property
    def handle(self) -> str | None:
        """The store's key of this session: safe to show and to log. None until it is stored."""
        return None if self._origin is None else self._origin.key

    @property
    def owner(self) -> str | None:
        """Whose session it is, as given to `login`. Assigning another owner is a `login`."""
        self.accessed = True
        return self._owner

    @owner.setter
    def owner(self, owner: str | int | UUID) -> None:
        if str(owner) != self._owner:
            self.login(owner)

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser: the key ``_permanent``, as in Flask."""
        default = False if self._keeper is None else self._keeper.permanent
        return bool(self.get("_permanent", default))

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self["_permanent"] = bool(value)

    @property
    def lifetime(self) -> int:
        """Seconds of idleness after which the session is over; the policy's, unless set.

        Set it, to seconds or a timedelta, to give this one session a lifetime of its own
        ("remember me").
        """
        if self._lifetime is not None or self._keeper is None:
            return self._lifetime or 0
        return self._keeper.lifetime

    @lifetime.setter
    def lifetime(self, value: int | timedelta) -> None:
        self._lifetime = int(value.total_seconds() if isinstance(value, timedelta) else value)
        self.mark_modified()

    # What an app asks for

    def login(self, owner: str | int | UUID) -> None:
        """Sign a user in: a new id, this owner, and a session that begins now.

        The data stays; the old id is dead when the response starts, so an id that was planted
        before the login is worth nothing after it (OWASP ASVS 7.2.4).

        Args:
            owner: who it is, such as the user's primary key. Kept as a string.
        """
        if not isinstance(owner, str | int | UUID) or not str(owner):
            raise TypeError(f"login() got {owner!r}: give it the user's id, login(str(user.id))")
        if self._intent is not Intent.END:
            self._intent = Intent.REPLACE
        self._logged_in = True
        self._owner = str(owner)
        self.created = self.authenticated_at = self._now()
        self.mark_modified()

    def regenerate(self) -> None:
        """Give the session a new id and keep its data; the old id is dead when the response starts.

        Call it where privileges change. A session that is not stored yet gets a new id anyway.
        """
        self.accessed = True
        if self._intent is Intent.KEEP:
            self._intent = Intent.MOVE

    def logout(self) -> None:
        """End the session: its data is gone, and no request under way can bring it back.

        What is written afterwards starts a new session under a new id. If the store cannot be
        reached, the response is an error, never a page that says "signed out".
        """
        self.clear()
        self._assigned = frozenset()
        self._intent = Intent.END
        self._logged_in = False
        self._past_owner = self._owner
        self._owner = self.authenticated_at = self._lifetime = None
        self._extras = {}
        self.created = 0

    async def save(self) -> None:
        """Store the session now, instead of when the response starts.

        Needed, if the session is new, before the first byte of a streamed response or of a
        websocket.

        Raises:
            SessionGone: another request ended it.
            StoreUnavailable: the store cannot be reached, or not in time.
        """
        if self._keeper is None:
            raise SessionError("this session was made by hand: no manager can save it")
        await self._keeper.save(self)

    def _now(self) -> int:
        return int(time.time() if self._keeper is None else self._keeper.clock())
