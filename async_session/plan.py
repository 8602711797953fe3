"""What a request comes to: which row of the policy's table applies, and what its response sends.

Pure functions over a session and its policy; the manager carries out what they say.
"""

from __future__ import annotations

from typing import NamedTuple

from async_session.cookies import CookieOptions
from async_session.policy import Cookie, Rule, SessionPolicy, decide
from async_session.session import Intent, Session

__all__ = ["NOTHING", "VARY", "CookieAction", "cookie_action", "cookie_line", "rule_for"]


class CookieAction(NamedTuple):
    """What a response has to do for its session.

    Attributes:
        value: the cookie value to set, or None.
        delete: whether to delete the cookie.
        vary: whether to add ``Vary: Cookie``.
        no_store: whether to send ``Cache-Control: no-store``.
        expires: when the cookie expires, in epoch seconds; None for with the browser.
        max_age: the same in seconds from now, which is the session's lifetime.
    """

    value: str | None = None
    delete: bool = False
    vary: bool = False
    no_store: bool = False
    expires: int | None = None
    max_age: int | None = None


_KEEP = Intent.KEEP  # an enum's member is slow to look up, and every write asks for it

#: What most responses do: nothing at all, or say that they depend on the cookie.
NOTHING = CookieAction()
VARY = CookieAction(vary=True)


def rule_for(session: Session, policy: SessionPolicy, *, now: int) -> Rule | None:
    """Return the row that applies; None if the id has been superseded, so that nothing does.

    A request that opened on a superseded id can still log in, log out, or regenerate something
    that it has put into its empty session.
    """
    origin, intent = session._origin, session._intent
    no_items = not dict.__len__(session)
    if origin is not None and origin.superseded:
        starts_anew = intent is not _KEEP and not (intent is Intent.MOVE and no_items)
        if not starts_anew:
            return None
    live = origin is not None and origin.version is not None
    permanent = bool(dict.get(session, "_permanent", policy.permanent))
    # An owner keeps a session alive that holds nothing else, until the app empties it.
    signed_in = session._logged_in or (session._owner is not None and not session.modified)
    return decide(
        empty=no_items and not signed_in,
        modified=session.modified or (live and intent is not _KEEP),
        loaded=live,
        permanent=permanent,
        due=permanent
        and policy.refresh_each_request
        and policy.refresh_due(written=origin.written if origin else 0, now=now),
    )


def cookie_action(
    session: Session,
    rule: Rule | None,
    policy: SessionPolicy,
    *,
    now: int,
    value: str | None,
) -> CookieAction:
    """Return what the response sends for a row that was carried out.

    Args:
        session: after its commit.
        rule: the row; None if nothing was written in the end, so that no cookie is sent.
        policy: whose lifetimes apply.
        now: the current time, in epoch seconds.
        value: the cookie value of the stored session, or None if there is none.
    """
    if rule is None or rule.cookie is Cookie.NONE:
        return VARY if session.accessed else NOTHING
    no_store = policy.reject_unsafe
    if rule.cookie is Cookie.DELETE or value is None:
        return CookieAction(delete=True, vary=True, no_store=no_store)
    if rule.cookie is Cookie.SET:
        return CookieAction(value, vary=True, no_store=no_store)
    left = policy.idle if session._lifetime is None else session._lifetime
    if policy.absolute is not None:
        left = policy.remaining(created=session.created, now=now, lifetime=left)
    return CookieAction(value, False, True, no_store, now + left, left)


def cookie_line(action: CookieAction, options: CookieOptions, *, with_max_age: bool) -> str | None:
    """Return the ``Set-Cookie`` value for an action, or None if it sets none.

    Args:
        action: what to do.
        options: the cookie's name and flags.
        with_max_age: add Max-Age beside Expires, as Starlette does and Flask does not.
    """
    if action.delete:
        return options.delete_header()
    if action.value is None:
        return None
    max_age = action.max_age if with_max_age else None
    return options.set_header(action.value, expires=action.expires, max_age=max_age)
