"""The session of a Quart app that was given no store."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from quart.sessions import NullSession, SessionInterface

if TYPE_CHECKING:
    from quart import Quart
    from quart.wrappers import BaseRequestWebsocket

__all__ = ["NullInterface"]


class _NullSession(NullSession):
    """Can be read, as empty; says how to choose a store when it is written to."""

    def _fail(self, *args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError(
            "this app has no session store: set SESSION_TYPE, for example to 'filesystem' or "
            "'redis', or write QuartSession(app, store=...)"
        )

    __setitem__ = __delitem__ = clear = pop = popitem = update = setdefault = _fail


class NullInterface(SessionInterface):
    """Opens no session, so that Quart makes a null session."""

    null_session_class = _NullSession

    async def open_session(self, app: Quart, request: BaseRequestWebsocket) -> None:
        return None
