"""Session ids: drawn at random, signed for the cookie, hashed for the store.

id      32 random bytes as 43 characters of URL-safe base64. It exists in the cookie and in a
        request's memory, nowhere else.
cookie  the id, a dot, and its signature: a cookie that we did not make is told from one that
        we did before any store is asked.
key     SHA-256 of the id: what stores, logs and device lists see. Knowing a key, or all of
        them, opens no session.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

from itsdangerous import BadSignature, Signer

from async_session._log import warn_once
from async_session.errors import ConfigurationError

__all__ = ["CookieSigner", "Ticket", "check_strength", "new_id", "secret_keys", "store_key"]

#: OWASP ASVS 5.0 (7.2.3) asks for 128 bits of entropy; this is 256.
_ID_BYTES = 32

_KINDS = "write a str or bytes, or an object whose str() is the secret"
_GOOD = "use the output of python -c 'import secrets; print(secrets.token_hex())'"
K = TypeVar("K", str, bytes)
T = TypeVar("T")

#: Cookies that are remembered as verified: some 2 MB.
_MOST_KNOWN = 4096
_ID = r"[A-Za-z0-9_-]{43}"
_SIGNED = re.compile(rf"{_ID}\.[A-Za-z0-9_-]{{43}}", re.ASCII)
_UNSIGNED = re.compile(_ID, re.ASCII)


def new_id() -> str:
    """Draw a session id: 256 bits from the operating system's generator, 43 characters."""
    return urlsafe_b64encode(secrets.token_bytes(_ID_BYTES)).rstrip(b"=").decode("ascii")


def store_key(session_id: str) -> str:
    """Return the key of a session id: 64 lower-case hexadecimal digits."""
    return hashlib.sha256(session_id.encode("ascii")).hexdigest()


def secret_keys(current: object, fallbacks: object = ()) -> tuple[bytes, ...]:
    """Return the keys as bytes, the current one first, or say what is wrong with them.

    Args:
        current: ``str``, ``bytes``, or an object whose ``str()`` is the secret (Starlette's
            ``Secret``).
        fallbacks: older keys that still verify; any sequence of the same, or None.
    """
    if isinstance(fallbacks, (str, bytes)):
        raise ConfigurationError(
            "the fallback keys are one string, so each of its characters would be a key: "
            "write a list, ['the-old-key']"
        )
    if fallbacks is not None and not isinstance(fallbacks, Sequence | set | frozenset):
        raise ConfigurationError(
            f"the fallback keys are a {type(fallbacks).__name__}: write a list, ['the-old-key']"
        )
    return tuple(_as_bytes(key) for key in (current, *(fallbacks or ())))


def _as_bytes(secret: object) -> bytes:
    if hasattr(secret, "get_secret_value"):  # pydantic's: its text is stars, the same for all
        raise ConfigurationError("a secret key is wrapped: write key.get_secret_value()")
    text = secret if isinstance(secret, bytes) else str(secret or "").encode()
    if not text:
        raise ConfigurationError(f"a secret key is empty: {_GOOD}")
    if type(secret).__str__ is object.__str__:
        raise ConfigurationError(f"a secret key is of type {type(secret).__name__}: {_KINDS}")
    return text


def check_strength(key: bytes, *, strict: bool) -> None:
    """Warn once about a secret under 16 bytes; `strict` refuses one under 32."""
    if strict and len(key) < 32:
        raise ConfigurationError(
            f"the secret key has {len(key)} bytes and the strict policy wants 32: {_GOOD}"
        )
    if len(key) < 16:
        warn_once(f"the secret key has only {len(key)} bytes and might be guessed: {_GOOD}")


class Ticket(NamedTuple):
    """What a cookie value that we made says.

    Attributes:
        id: the session id.
        key: the store key that follows from it.
    """

    id: str
    key: str

    def __repr__(self) -> str:
        return f"<Ticket {self.key}>"  # never the id: error reports show local variables


class CookieSigner:
    """Turns ids into cookie values and back.

    Args:
        keys: the current key first, then older ones: the first signs, all verify.
        signed: False leaves the signature out and keeps the check of the format
            (Flask-Session's ``SESSION_USE_SIGNER = False``).
    """

    def __init__(self, keys: Sequence[bytes], *, signed: bool = True) -> None:
        self._pattern = _SIGNED if signed else _UNSIGNED
        self._signer = _signer(keys) if signed else None
        #: Cookie values that were verified before, as they stand in a header. Only we can make one,
        #: in one spelling, so nobody can flood it.
        self.known: dict[bytes, Ticket] = {}
        self._signed: dict[str, str] = {}

    def sign(self, session_id: str) -> str:
        """Return the cookie value for an id, signed with the current key."""
        if self._signer is None:
            return session_id
        value = self._signed.get(session_id)
        if value is None:
            value = self._signer.sign(session_id).decode("ascii")
            _remember(self._signed, session_id, value)
        return value

    def verify(self, value: str) -> Ticket | None:
        """Return what a cookie value says, or None if we did not make it. Never raises.

        The format comes first: it bounds the work on what an attacker sends, and it leaves one
        spelling only of each cookie (base64 decoders ignore padding and stray bits).
        """
        if self._pattern.fullmatch(value) is None:
            return None
        sent = value.encode("ascii")
        if sent in self.known:
            return self.known[sent]
        session_id = self._unsign(value)
        if session_id is None:
            return None
        ticket = Ticket(session_id, store_key(session_id))
        if self._signer is not None:
            _remember(self.known, sent, ticket)
        return ticket

    def fault(self, value: str) -> Literal["format", "signature"]:
        """Return what is wrong with a value that `verify` refused."""
        return "signature" if self._pattern.fullmatch(value) else "format"

    def _unsign(self, value: str) -> str | None:
        if self._signer is None:
            return value
        try:
            return self._signer.unsign(value).decode("ascii")
        except BadSignature:
            return None


def _remember(cache: dict[K, T], key: K, value: T) -> None:
    if len(cache) >= _MOST_KNOWN:
        cache.clear()
    cache[key] = value


def _signer(keys: Sequence[bytes]) -> Signer:
    # Deriving the keys once instead of at each check makes a check four times cheaper.
    salt = "async_session.cookie"
    derived = [
        Signer(key, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256).derive_key()
        for key in keys
    ]
    # itsdangerous wants the current key last.
    return Signer(derived[::-1], salt=salt, key_derivation="none", digest_method=hashlib.sha256)
