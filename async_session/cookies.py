"""Cookie headers: finding our value in one, writing another. Text in, text out.

The attributes and their order are Flask's (Werkzeug's `dump_cookie`):
``name=value; Domain; Expires; Max-Age; Secure; HttpOnly; Path; SameSite; Partitioned``.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Literal, Self
from urllib.parse import quote

from async_session._log import warn_once
from async_session.errors import ConfigurationError

__all__ = ["CookieOptions", "cookie_pattern", "cookie_value", "find_cookie", "vary_on_cookie"]

#: RFC 6265bis 5.7: browsers ignore an attribute that is longer.
_MAX_ATTRIBUTE = 1024
#: The same, 5.6: nor do they keep a name and value that are longer together. Ours takes 87.
_MAX_COOKIE = 4096
_MAX_NAME = _MAX_COOKIE - 87

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_SAME_SITE = {"lax": "Lax", "strict": "Strict", "none": "None"}
_EPOCH = "Thu, 01 Jan 1970 00:00:00 GMT"
_LOOSE_ENDS = b' \t\n\r\f\v"'
_LAST_DATE = 253402300799  # 9999-12-31T23:59:59Z, the last one that an HTTP date can name


@dataclass(frozen=True, kw_only=True)
class CookieOptions:
    """How the session cookie is named and flagged. Checked when it is made.

    Args:
        name: a token of RFC 9110; `session` as in Flask and Starlette.
        domain: None for the host that set it. A leading dot is dropped and an international name
            encoded, as in Flask.
        path: characters that cannot stand in a header are percent-encoded, as in Flask.
        secure: send over HTTPS only. A partitioned cookie always is.
        httponly: hide from scripts.
        samesite: ``lax``, ``strict``, ``none`` in any case; None leaves it out.
        partitioned: CHIPS: one cookie jar per top-level site.

    Raises:
        ConfigurationError: a value that no cookie can carry.

    Example:
        >>> CookieOptions(secure=True, samesite="lax").set_header("abc")
        'session=abc; Secure; HttpOnly; Path=/; SameSite=Lax'
    """

    name: str = "session"
    domain: str | None = None
    path: str = "/"
    secure: bool = False
    httponly: bool = True
    samesite: Literal["lax", "strict", "none", "Lax", "Strict", "None"] | None = None
    partitioned: bool = False
    #: finds the cookie in ``;`` and a ``Cookie`` header: see `cookie_pattern` and `cookie_value`
    search: Callable[[bytes], re.Match[bytes] | None] = field(init=False, repr=False, compare=False)
    _before: str = field(init=False, repr=False, compare=False)
    _after: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _TOKEN.fullmatch(self.name):
            raise ConfigurationError(
                f"{self.name!r} cannot name a cookie: use letters, digits, '-' and '_'"
            )
        if len(self.name) > _MAX_NAME:
            raise ConfigurationError(
                f"the cookie's name is {len(self.name)} characters long and browsers drop a "
                f"cookie above {_MAX_COOKIE}: shorten it"
            )
        if not isinstance(self.path, str):
            raise ConfigurationError(f"path={self.path!r} is no path for a cookie: write '/'")
        object.__setattr__(self, "secure", bool(self.secure or self.partitioned))
        object.__setattr__(self, "search", cookie_pattern(self.name).search)
        object.__setattr__(self, "_before", _attribute("Domain", _domain(self.domain)))
        object.__setattr__(self, "_after", self._flags())

    def _flags(self) -> str:
        samesite = self.samesite and _SAME_SITE.get(str(self.samesite).lower())
        if self.samesite and not samesite:
            raise ConfigurationError(
                f"samesite={self.samesite!r} is not known: use 'lax', 'strict', 'none' or None"
            )
        return "".join(
            (
                "; Secure" if self.secure else "",
                "; HttpOnly" if self.httponly else "",
                _attribute("Path", quote(self.path, safe="%!$&'()*+,/:=@")),
                f"; SameSite={samesite}" if samesite else "",
                "; Partitioned" if self.partitioned else "",
            )
        )

    def replace(self, **changes: Any) -> Self:
        """Return the same options but for `changes`."""
        return dataclasses.replace(self, **changes)

    def set_header(
        self, value: str, *, expires: int | None = None, max_age: int | None = None
    ) -> str:
        """Return a ``Set-Cookie`` value that stores `value`.

        Args:
            value: a cookie value; ours need no quoting.
            expires: seconds since the epoch; None for as long as the browser runs.
            max_age: seconds; None leaves the attribute out, as Flask does.
        """
        when = "" if expires is None else f"; Expires={_http_date(expires)}"
        age = "" if max_age is None else f"; Max-Age={max_age}"
        return f"{self.name}={value}{self._before}{when}{age}{self._after}"

    def delete_header(self) -> str:
        """Return a ``Set-Cookie`` value that removes the cookie.

        It repeats every attribute: a browser removes only the cookie of the same name, domain,
        path and partition, and refuses one whose flags are weaker.
        """
        return f"{self.name}={self._before}; Expires={_EPOCH}; Max-Age=0{self._after}"

    def check(self, *, strict: bool) -> None:
        """Warn once about what browsers will not keep; `strict` refuses it.

        Raises:
            ConfigurationError: under `strict`, and there also for a flag that is missing.
        """
        found = [text for wrong, text in self._checks() if wrong]
        if strict and not (self.secure and self.httponly and self.samesite):
            found.append(
                "the strict policy wants a cookie that is Secure, HttpOnly and has a SameSite: "
                "set all three"
            )
        for text in found:
            if strict:
                raise ConfigurationError(text)
            warn_once(text)

    def _checks(self) -> Iterator[tuple[bool, str]]:
        # Browsers look for these beginnings in any case.
        name = self.name.lower()
        drop = f"browsers drop a cookie named {self.name} that is not"
        yield (
            str(self.samesite).lower() == "none" and self.samesite is not None and not self.secure,
            "browsers drop a cookie with SameSite=None that is not Secure: set both",
        )
        yield (
            name.startswith(("__host-", "__secure-", "__http-")) and not self.secure,
            f"{drop} Secure: set it",
        )
        yield (
            name.startswith(("__http-", "__host-http-")) and not self.httponly,
            f"{drop} HttpOnly: set it",
        )
        yield (
            name.startswith("__host-") and bool(self.domain or self.path != "/"),
            f"{drop} for the whole host: leave out the Domain, and let the Path be '/'",
        )

    def check_transport(self, scheme: str, host: str, *, strict: bool) -> None:
        """Warn once about a Secure cookie on a plain request, which browsers ignore.

        A request to this very machine is let through, as browsers do.

        Raises:
            ConfigurationError: under `strict`.
        """
        if not self.secure or scheme not in ("http", "ws") or _is_loopback(host):
            return
        text = (
            "a Secure cookie was set on a plain http request, where browsers ignore it: serve "
            "the app over https, and let the server trust its proxy's X-Forwarded-Proto"
        )
        if strict:
            raise ConfigurationError(text)
        warn_once(text)


@functools.lru_cache(maxsize=64)
def _http_date(timestamp: int) -> str:
    return formatdate(min(max(timestamp, 0), _LAST_DATE), usegmt=True)


def _attribute(name: str, value: str | None) -> str:
    if not value:
        return ""
    if len(value) > _MAX_ATTRIBUTE:
        raise ConfigurationError(
            f"the cookie's {name} is {len(value)} characters long and browsers ignore one above "
            f"{_MAX_ATTRIBUTE}: shorten it"
        )
    return f"; {name}={value}"


def _domain(domain: str | None) -> str | None:
    if not domain:
        return None
    try:
        host = domain.partition(":")[0].lstrip(".")
        encoded = host.encode("idna").decode("ascii")
    except (AttributeError, UnicodeError) as error:
        raise ConfigurationError(f"{domain!r} is no domain for a cookie: {error}") from error
    if not re.fullmatch(r"[A-Za-z0-9._-]+", encoded):
        raise ConfigurationError(f"{domain!r} is no domain for a cookie: write 'example.com'")
    return encoded


@functools.lru_cache(maxsize=64)
def cookie_pattern(name: str) -> re.Pattern[bytes]:
    """Return what finds the value of the first cookie called `name` in ``;`` and a header's line.

    The semicolon lets the search skip to the next one; at a choice of two beginnings it would try
    every byte.
    """
    return re.compile(rb";\s*%b\s*=\s*([^;]*)" % re.escape(name.encode("ascii")))


def find_cookie(headers: Iterable[tuple[bytes, bytes]], pattern: re.Pattern[bytes]) -> bytes | None:
    """Return the first cookie of a name as it was sent, for `cookie_value`, or None.

    Reads the raw headers of an ASGI scope; HTTP/2 clients may send several ``cookie`` lines. The
    first of two cookies of one name wins, as in Werkzeug.

    Args:
        headers: names in lower case, and values.
        pattern: the cookie's, from `cookie_pattern`.
    """
    for header, line in headers:
        if header == b"cookie":
            found = pattern.search(b";" + line)
            if found is not None:
                return found[1]
    return None


def cookie_value(value: bytes) -> str:
    """Return the value of a cookie that was found, without the quotes around it."""
    if value[-1:] in _LOOSE_ENDS:
        value = value.strip()
        if value[:1] == value[-1:] == b'"':
            value = value[1:-1]
    return value.decode("latin-1")


def vary_on_cookie(lines: Sequence[str]) -> list[str]:
    """Return the ``Vary`` lines of a response with ``Cookie`` among them, none of them lost."""
    names = {name.strip().lower() for line in lines for name in line.split(",")}
    if "cookie" in names:
        return list(lines)
    if not lines:
        return ["Cookie"]
    return [f"{lines[0]}, Cookie", *lines[1:]]


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name in {"localhost", "[::1]"} or name.endswith(".localhost"):
        return True
    return re.fullmatch(r"127(\.\d{1,3}){3}", name, re.ASCII) is not None
