"""What can go wrong, as one small tree.

SessionError
|-- ConfigurationError    a setting that cannot work (also a ValueError)
|-- SerializationError    a value that cannot be stored; names its key
|   `-- SessionTooLarge   more bytes than the policy allows
|-- StoreError            the backend failed; the driver's exception is its cause
|   `-- StoreUnavailable  the backend cannot be reached, or not in time
|-- SessionGone           the session ended while this request was using it
`-- SessionConflict       another request kept changing it
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "SerializationError",
    "SessionConflict",
    "SessionError",
    "SessionGone",
    "SessionTooLarge",
    "StoreError",
    "StoreUnavailable",
]


class SessionError(Exception):
    """The root of every error that this package raises on purpose."""


class ConfigurationError(SessionError, ValueError):
    """A setting that cannot work. The message says what to write instead."""


class SerializationError(SessionError):
    """A value that the serializer cannot store. Nothing was written, no cookie was set.

    Attributes:
        key: the session key that holds the value, or ``None`` if it is not known.
    """

    def __init__(self, message: str, *, key: object = None) -> None:
        super().__init__(message)
        self.key = key


class SessionTooLarge(SerializationError):
    """The session needs more bytes than ``SessionPolicy.max_size``. Nothing was written.

    Attributes:
        key: the session key that takes the most room.
        size: the size of the whole record, in bytes.
        max_size: the most that is allowed, in bytes.
    """

    def __init__(self, message: str, *, size: int, max_size: int, key: object = None) -> None:
        super().__init__(message, key=key)
        self.size = size
        self.max_size = max_size


class StoreError(SessionError):
    """The backend failed. The driver's exception, if there was one, is ``__cause__``."""


class StoreUnavailable(StoreError):
    """The backend cannot be reached, or did not answer within the deadline.

    Whether a session exists is not known: this is never the same as "no session".
    """


class SessionGone(SessionError):
    """The session was ended by another request, so this write was not made.

    Attributes:
        handle: the ended session's store key. Safe to log; it is not the session id.
    """

    def __init__(self, message: str, *, handle: str) -> None:
        super().__init__(message)
        self.handle = handle


class SessionConflict(SessionError):
    """Another request changed the session at the same time, and this write was not made.

    Attributes:
        handle: the session's store key. Safe to log; it is not the session id.
    """

    def __init__(self, message: str, *, handle: str) -> None:
        super().__init__(message)
        self.handle = handle
