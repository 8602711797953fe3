"""The sessions of a Quart app that was given no store, or no secret key."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from quart.sessions import NullSession, SessionInterface

if TYPE_CHECKING:
    from quart import Quart
    from quart.wrappers import BaseRequestWebsocket

__all__ = ["KeylessSession", "NullInterface"]


class KeylessSession(NullSession):
    """Can be read, as empty; says why when it is written to; like Flask's, but for ``|=``."""

    _why = "the session is unavailable because no secret key was set: set SECRET_KEY"

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError(self._why)

    __setitem__ = __delitem__ = clear = pop = popitem = update = setdefault = _refuse
    login = regenerate = logout = save = _refuse


class _StorelessSession(KeylessSession):
    _why = (
        "this app has no session store: set SESSION_TYPE, for example to 'filesystem' or "
        "'redis', or write QuartSession(app, store=...)"
    )

    __ior__ = KeylessSession._refuse  # Flask forgets it, and ours is to lose nothing


class NullInterface(SessionInterface):
    """Opens no session, so that Quart makes a null session."""

    null_session_class = _StorelessSession

    async def open_session(self, app: Quart, request: BaseRequestWebsocket) -> None:
        return None
