"""The engine, without a framework: open a session for a cookie, commit it, say what to send.

cookie -> Session (`opening`) -> the policy's table -> store.save (`commits`) -> CookieAction
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import NoReturn

from async_session import policy as rules
from async_session._checks import as_clock
from async_session.codec import Codec
from async_session.commits import Committer
from async_session.errors import SessionError, SessionGone, StoreError
from async_session.events import Listener, note
from async_session.opening import Opener
from async_session.plan import CookieAction, cookie_action, rule_for
from async_session.policy import SessionPolicy, as_policy
from async_session.record import Ended
from async_session.session import Intent, Origin, Session
from async_session.stores.base import SessionStore
from async_session.stores.urls import as_store
from async_session.tokens import CookieSigner, check_strength, secret_keys

__all__ = ["CookieAction", "SessionManager"]

# Members of an enum are slow to look up, and every write asks for these.
_KEEP, _END = Intent.KEEP, Intent.END
_WRITE, _REFRESH, _STORE_END = rules.Store.WRITE, rules.Store.REFRESH, rules.Store.END

_TOO_LATE = (
    "a session was started, or given a new id, when its cookie could no longer be sent: do it "
    "before the response's first byte or the websocket's accept, or `await session.save()` there"
)


class SessionManager(Opener):
    """Opens sessions from cookie values and commits them to a store.

    Safe to share between requests, threads' event loops and tasks; it keeps no session.

    Args:
        store: a store, or the URL of one.
        secret_key: signs the cookies: ``str``, ``bytes`` or Starlette's ``Secret``.
        secret_key_fallbacks: older keys, which still verify.
        policy: how long sessions live and what happens in doubt.
        clock: the time in epoch seconds; all time is read through it.
        sign: False leaves the cookie unsigned (Flask-Session's ``SESSION_USE_SIGNER = False``);
            `secret_key` is then not used.
        on_event: who is told of each `SessionEvent`: a function, a coroutine function, or several.

    Raises:
        ConfigurationError: a setting that cannot work.
    """

    def __init__(
        self,
        store: SessionStore | str,
        *,
        secret_key: object,
        secret_key_fallbacks: Sequence[object] = (),
        policy: SessionPolicy | None = None,
        clock: Callable[[], float] = time.time,
        sign: bool = True,
        on_event: Listener | Iterable[Listener] = (),
    ) -> None:
        store, self.owns_store = as_store(store)
        policy, clock = as_policy(policy), as_clock(clock)
        keys = secret_keys(secret_key, secret_key_fallbacks) if sign else ()
        if keys:
            check_strength(keys[0], strict=policy.reject_unsafe)
        signer = CookieSigner(keys, signed=sign)
        codec = Codec(policy.serializer, max_size=policy.max_size)
        super().__init__(store, signer, codec, policy=policy, clock=clock, on_event=on_event)
        self._committer = Committer(store=store, policy=policy, codec=codec, clock=clock)

    # Committing

    async def commit(self, session: Session) -> CookieAction:
        """Store what the request did and return what its response must send.

        Call it before the response's first byte. The write goes on to its end even if the caller
        is cancelled meanwhile. A commit that failed is not tried again for the same session.

        Raises:
            SerializationError: a value cannot be stored; nothing was written.
            SessionGone: the session was ended meanwhile, and the policy says to raise.
            SessionConflict: others kept changing it.
            StoreUnavailable: the store cannot be reached, or not in time.
        """
        action = self.action_of_a_read(session)
        return await self.commit_changes(session) if action is None else action

    async def commit_changes(self, session: Session) -> CookieAction:
        """Do what `commit` does, where `action_of_a_read` has returned None."""
        session._answered = True
        if session.unavailable or session._failed:
            no_store = session.unavailable and self.policy.on_store_error == "anonymous"
            return CookieAction(vary=session.accessed, no_store=no_store)
        now = int(self.clock())
        kept, rule = True, self._rule(session, now)
        if rule is not None:
            session._failed = True  # until it has succeeded: a failed commit is not tried again
            kept = await self._guarded(session, rule)
            session._failed = session._dirty = False
            if not kept and rule.store is _WRITE and self.policy.on_gone == "raise":
                raise _gone(session)
        elif session._events:
            await self._tell(session)
        origin = session._origin
        return cookie_action(
            session,
            rule if kept else None,
            self.policy,
            now=now,
            value=None if origin is None else self._signer.sign(origin.id),
        )

    async def save(self, session: Session) -> None:
        """Store a session now (`Session.save`).

        Raises:
            SessionGone: another request ended it.
            SessionError: it is new and the response has started: its cookie cannot be sent.
        """
        rule = self._rule(session, int(self.clock()))
        if rule is None:
            await self._tell(session)
            raise _gone(session)
        if self._is_late(session, rule):
            self._refuse(session)
        try:
            kept = await self._guarded(session, rule)
        except StoreError:
            session._failed = True  # what became of it is not known
            raise
        session._dirty = False
        if not kept and rule.store is not _REFRESH:
            raise _gone(session)

    async def finish(self, session: Session) -> None:
        """Store what was changed after the response started; call it when the app call ends.

        Raises:
            SessionError: a new session, or a new id, whose cookie can no longer be sent.
        """
        session._answered = True
        if session.unavailable or session._failed:
            return
        rule = self._rule(session, int(self.clock()))
        if rule is None:
            await self._tell(session)
            return
        if not (session._dirty or session._handed_out or session._intent.renews):
            return
        if rule.store is _REFRESH or not session._dirty:
            rule = rule._replace(store=rules.Store.NONE)  # only a change made in place is left
        if session._intent is _END:
            # The logout counts, even where what was written after it comes too late.
            late, rule = rule.store is _WRITE, rule._replace(store=rules.Store.END)
        else:
            late = self._is_late(session, rule)
        if not late or session._intent is _END:
            await self._guarded(session, rule)
        if late:
            self._refuse(session)
        session._dirty = False

    def _is_late(self, session: Session, rule: rules.Rule) -> bool:
        """Tell whether a row needs a cookie that can no longer be sent."""
        if not session._answered:
            return False
        origin = session._origin
        if origin is None or origin.version is None:
            return rule.store is _WRITE
        return session._intent in (Intent.MOVE, Intent.REPLACE)

    def _refuse(self, session: Session) -> NoReturn:
        session._failed = True
        raise SessionError(_TOO_LATE)

    def _rule(self, session: Session, now: int) -> rules.Rule | None:
        rule = rule_for(session, self.policy, now=now)
        if rule is None and session._dirty:
            session._dirty = False  # there is nothing to save it to
            note(session, "dropped", session.handle, reason="superseded")
        return rule

    async def _guarded(self, session: Session, rule: rules.Rule) -> bool:
        """Carry a row out, whole or not at all; return False if another request was there first."""
        try:
            work = self._work(session, rule)
            if work is not None and not await work:
                return False
            session._intent = _KEEP
            return True
        except StoreError as error:
            note(session, "unavailable", session.handle, reason="commit", error=error)
            raise
        finally:
            if session._events:
                await self._tell(session)

    def _work(self, session: Session, rule: rules.Rule) -> Coroutine[object, object, bool] | None:
        """Return what a row comes down to. Serialises first: nothing is written if that fails."""
        origin, committer = session._origin, self._committer
        payload = self._payload(session, rule)
        if session._intent is _END and origin is not None:
            return committer.safely(self._end(session, origin, payload))
        if origin is None or origin.version is None:
            if payload is None:
                return None
            return committer.safely(committer.create(session, payload, origin))
        if rule.store is _STORE_END:
            return committer.safely(self._end(session, origin, None))
        if payload is None:
            return committer.refresh(session, origin) if rule.store is _REFRESH else None
        if session._intent is _KEEP:
            return committer.update(session, origin, payload)
        why = Ended.REPLACED if session._intent is Intent.REPLACE else Ended.MOVED
        return committer.safely(committer.replace(session, origin, payload, why))

    def _payload(self, session: Session, rule: rules.Rule) -> bytes | None:
        """Return what is to be written; None if there is nothing new to write."""
        if rule.store is _WRITE:
            return self._codec.encode(dict(dict.items(session)))
        # Flask writes the whole cookie at a refresh, with what was changed in place, or written
        # and then declared unmodified.
        refresh = rule.store is _REFRESH
        looks = (self.policy.detect_mutation or refresh) and session._handed_out
        origin = session._origin
        if origin is None or origin.version is None or not (looks or (refresh and session._dirty)):
            return None
        if rule.store is _STORE_END:
            return None
        payload = self._codec.encode(dict(dict.items(session)))
        changed = self._codec.has_changed(payload, origin.payload, origin.serializer)
        return payload if changed else None

    async def _end(self, session: Session, origin: Origin, payload: bytes | None) -> bool:
        """End the stored session, then start the new one that was written after a logout."""
        before = await self._committer.end(session, origin)
        session._origin = None
        if payload is not None:
            return await self._committer.create(session, payload)
        # A login has given the client a newer cookie: a request that merely emptied the old
        # session must not delete that one.
        if before is Ended.REPLACED and session._intent is not _END:
            session._origin = Origin(origin.id, origin.key, superseded=True)
            note(session, "dropped", origin.key, reason="replaced")
            return False
        return True


def _gone(session: Session) -> SessionGone:
    handle = session.handle or ""
    return SessionGone(f"session {handle} was ended by another request", handle=handle)
