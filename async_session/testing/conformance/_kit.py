"""What all tests of the kit share: where they run, and what they store."""

from __future__ import annotations

import random

import pytest

__all__ = ["TTL", "KitTests", "chosen", "random_key", "random_value"]

#: Seconds; longer than any test.
TTL = 60

#: The same choices in every run.
chosen = random.Random("store conformance")  # noqa: S311


def random_key() -> str:
    """Return a key that no other test uses."""
    return chosen.randbytes(32).hex()


def random_value(size: int = 16) -> bytes:
    """Return a value of `size` bytes, under a version of its own."""
    return chosen.randbytes(size)


@pytest.mark.anyio
class KitTests:
    """The base of all classes of the kit."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Return the name of the event loop to run on, or several as the fixture's `params`."""
        return "asyncio"
