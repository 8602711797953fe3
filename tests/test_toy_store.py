"""The store on the page "Write a store", taken from there: the kit, and an app on both adapters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from harness import ADAPTERS, VIEWS, Client

from async_session import SessionStore
from async_session.testing import RecordingStore, StoreConformance

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "write-a-store.md"
BLOCK = re.compile(r"^```python\n# dbm_store\.py\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def source() -> str:
    (found,) = BLOCK.findall(PAGE.read_text("utf-8"))
    return str(found)


@pytest.fixture(autouse=True)
def blockbuster() -> BlockBuster | None:
    """Let it block: it says that it does."""
    return None


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    namespace: dict[str, Any] = {"__name__": "dbm_store"}
    exec(compile(source(), str(PAGE), "exec"), namespace)
    made: SessionStore = namespace["DbmStore"](str(tmp_path / "sessions"))
    return made


class TestToyStore(StoreConformance):
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def store(self, store: SessionStore) -> SessionStore:
        return store


def test_it_is_as_short_as_the_page_says() -> None:
    assert len([line for line in source().splitlines() if line.strip()]) <= 40


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
async def test_an_app_on_it(adapter: str, store: SessionStore) -> None:
    recording = RecordingStore(store)
    client = Client(ADAPTERS[adapter](VIEWS, recording))
    await client.get("sign_in")
    assert (await client.get("read")).body == "{'user': 'ada', 'theme': 'dark'}"
    old = client.twin()
    await client.get("login")
    assert client.cookie != old.cookie
    assert (await old.get("read")).body == "{}"
    await client.get("write")
    assert "'written': True" in (await client.get("read")).body
    await client.get("logout")
    assert client.cookie is None
    assert [verb for verb, _ in recording.calls].count("delete") == 0
