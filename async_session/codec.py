"""Between a session's dict and the payload of its record, with any serializer that wrote one."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from async_session.errors import ConfigurationError, SerializationError, SessionTooLarge
from async_session.serializers import MsgpackSerializer, Serializer, TaggedJSONSerializer

__all__ = ["Codec"]


class Codec:
    """Writes payloads with one serializer and reads those of our own as well.

    Args:
        serializer: the one that writes; None for `TaggedJSONSerializer`.
        max_size: bytes that a payload may have.
    """

    def __init__(self, serializer: Serializer | None = None, *, max_size: int) -> None:
        self._writer = serializer or TaggedJSONSerializer()
        #: how to read what each serializer wrote, by its id
        self.loads = {
            TaggedJSONSerializer.id: TaggedJSONSerializer().loads,
            MsgpackSerializer.id: _read_msgpack,
            self._writer.id: self._writer.loads,
        }
        self._max_size = max_size
        self.id = self._writer.id

    def encode(self, data: Mapping[object, object]) -> bytes:
        """Return the payload of a dict.

        Raises:
            SerializationError: a value cannot be stored; its `key` says where.
            SessionTooLarge: the payload has more than `max_size` bytes.
        """
        payload = self._writer.dumps(data)
        if len(payload) > self._max_size:
            raise self._too_large(data, len(payload))
        return payload

    def encode_value(self, value: object) -> bytes:
        """Return bytes that are equal for values that are stored alike, and only for them."""
        return self._writer.dumps({"": value})

    def decode(self, serializer: int, payload: bytes) -> dict[object, object]:
        """Return the dict of a payload.

        Raises:
            SerializationError: the bytes are not of that serializer, or it is not known here.
        """
        if serializer not in self.loads:
            raise SerializationError(f"it was written by serializer {serializer}, unknown here")
        return self.loads[serializer](payload)

    def has_changed(self, payload: bytes, base: bytes, base_serializer: int) -> bool:
        """Tell whether `payload`, written here, says something else than `base` does."""
        if base_serializer != self.id:
            # Another serializer, or another version, wrote it: that alone is no change.
            base = self._writer.dumps(self.decode(base_serializer, base))
        return payload != base

    def _too_large(self, data: Mapping[object, object], size: int) -> SessionTooLarge:
        key = max(data, key=lambda key: len(self.encode_value(data[key])))
        return SessionTooLarge(
            f"the session takes {size} bytes and max_size allows {self._max_size}; most of it is "
            f"session[{key!r}]: store less there, or raise SessionPolicy(max_size=...)",
            size=size,
            max_size=self._max_size,
            key=key,
        )


# Made when it is needed: a fleet that writes JSON may have to read what another has written.
_msgpack = functools.cache(MsgpackSerializer)


def _read_msgpack(payload: bytes) -> dict[object, object]:
    try:
        return _msgpack().loads(payload)
    except ConfigurationError as error:
        raise SerializationError(str(error)) from error
