"""The stores that stand in front of another, and the kit under either pytest plugin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from async_session.errors import StoreError, StoreUnavailable
from async_session.stores.base import Match, SupportsClose, SupportsSweep
from async_session.stores.filesystem import FileSystemStore
from async_session.stores.memory import MemoryStore
from async_session.testing import FaultyStore, RecordingStore, StoreConformance

KEY, OTHER = "a" * 64, "b" * 64
OLD, NEW = b"old-version-0001", b"new-version-0002"


class TestRecording(StoreConformance):
    @pytest.fixture
    def store(self) -> RecordingStore:
        return RecordingStore(MemoryStore())


class TestFaulty(StoreConformance):
    @pytest.fixture
    def store(self) -> FaultyStore:
        return FaultyStore(MemoryStore())


@pytest.mark.anyio
async def test_it_notes_every_call_in_order() -> None:
    store = RecordingStore(FaultyStore(MemoryStore()))
    await store.save(KEY, OLD, ttl=10)
    assert await store.open(KEY) == OLD
    assert await store.save(KEY, NEW, ttl=10, match=Match.ABSENT) is False
    await store.delete(OTHER)
    assert store.calls == [("save", KEY), ("open", KEY), ("save", KEY), ("delete", OTHER)]
    store.calls.clear()
    assert isinstance(store.store, FaultyStore)
    store.store.fail("open")
    with pytest.raises(StoreUnavailable):
        await store.open(KEY)
    assert store.calls == [("open", KEY)], "a call that failed was a call"


@pytest.mark.parametrize("front", [RecordingStore, FaultyStore])
def test_it_offers_what_the_store_behind_offers(
    front: type[RecordingStore | FaultyStore], tmp_path: Path
) -> None:
    memory, files = front(MemoryStore()), front(FileSystemStore(tmp_path))
    assert memory.deadline == 0.0  # type: ignore[union-attr]
    assert not hasattr(files, "deadline")
    assert not isinstance(memory, (SupportsSweep, SupportsClose))
    assert isinstance(files, SupportsSweep)
    assert isinstance(files, SupportsClose)
    assert repr(memory) == f"{front.__name__}(MemoryStore(max_items=100000))"


@pytest.mark.anyio
async def test_it_fails_the_chosen_calls_and_no_others() -> None:
    store = FaultyStore(MemoryStore())
    mine = StoreError("mine")
    store.fail("save", times=2, skip=1, error=mine)
    assert await store.save(KEY, OLD, ttl=10) is True
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            await store.save(KEY, NEW, ttl=10)
        assert caught.value is mine
        assert await store.open(KEY) == OLD
    assert await store.save(KEY, NEW, ttl=10) is True
    await store.delete(KEY)


@pytest.mark.anyio
@pytest.mark.parametrize("verb", ["open", "save", "delete"])
async def test_every_verb_can_fail_until_it_is_healed(verb: str) -> None:
    store = FaultyStore(MemoryStore())
    store.fail(verb, times=None)  # type: ignore[arg-type]
    calls = {
        "open": lambda: store.open(KEY),
        "save": lambda: store.save(KEY, OLD, ttl=10),
        "delete": lambda: store.delete(KEY),
    }
    for _ in range(3):
        for name, call in calls.items():
            if name == verb:
                with pytest.raises(StoreUnavailable, match=verb):
                    await call()
            else:
                await call()
    store.heal()
    await calls[verb]()


@pytest.mark.anyio
async def test_an_answer_can_be_lost_after_the_call() -> None:
    store = FaultyStore(MemoryStore())
    store.fail("save", after=True)
    with pytest.raises(StoreUnavailable):
        await store.save(KEY, OLD, ttl=10)
    assert await store.open(KEY) == OLD
    store.fail("delete", after=True)
    with pytest.raises(StoreUnavailable):
        await store.delete(KEY)
    assert await store.open(KEY) is None
    store.fail("open", after=True)
    with pytest.raises(StoreUnavailable):
        await store.open(KEY)


@pytest.mark.anyio
@pytest.mark.parametrize("after", [False, True])
async def test_a_call_can_hang_until_it_is_cancelled(after: bool) -> None:
    store = FaultyStore(MemoryStore())
    store.hang("save", after=after)
    with anyio.move_on_after(0.05) as scope:
        await store.save(KEY, OLD, ttl=10)
    assert scope.cancelled_caught
    assert await store.open(KEY) == (OLD if after else None)
    assert await store.save(KEY, NEW, ttl=10) is True


KIT = """
import pytest, pytest_asyncio
from async_session.stores.memory import MemoryStore
from async_session.testing import StoreConformance
{mark}
class TestTheirs(StoreConformance):
    @{fixture}
    async def store(self):
        yield MemoryStore()
"""


@pytest.mark.parametrize(
    ("mark", "fixture", "mode"),
    [
        ("", "pytest.fixture", "strict"),
        ("@pytest.mark.asyncio", "pytest_asyncio.fixture", "strict"),
        ("", "pytest_asyncio.fixture", "auto"),
        ("", "pytest.fixture", "auto"),
    ],
    ids=["anyio", "pytest-asyncio-strict", "pytest-asyncio-auto", "pytest-asyncio-auto-plain"],
)
def test_the_kit_runs_under_either_plugin(
    tmp_path: Path, mark: str, fixture: str, mode: str
) -> None:
    run = run_theirs(tmp_path, KIT.format(mark=mark, fixture=fixture), mode)
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout
    assert "failed" not in run.stdout
    assert "skipped" not in run.stdout


def run_theirs(
    directory: Path, source: str, mode: str, *options: str
) -> subprocess.CompletedProcess[str]:
    (directory / "test_theirs.py").write_text(source)
    (directory / "pytest.ini").write_text(
        f"[pytest]\nasyncio_mode = {mode}\n"
        "asyncio_default_fixture_loop_scope = function\naddopts = --strict-markers -W error -q\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(directory), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, check=False)


SWEEPER = """
import pytest
from async_session.stores.filesystem import FileSystemStore
from async_session.testing import {names}
class TestTheirs({names}):
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request):
        return request.param
    @pytest.fixture
    async def store(self, tmp_path):
        store = FileSystemStore(tmp_path / "sessions", fsync=False)
        yield store
        await store.aclose()
"""


@pytest.mark.parametrize(
    ("names", "failures"),
    [("StoreConformance, SweepConformance", 0), ("StoreConformance", 2)],
    ids=["proved", "forgotten"],
)
def test_a_sweep_that_is_not_proved_is_a_failure(tmp_path: Path, names: str, failures: int) -> None:
    source = SWEEPER.format(names=names)
    run = run_theirs(tmp_path, source, "strict", "-k", "sweep or cancelled_open")
    assert run.returncode == (1 if failures else 0), run.stdout
    assert run.stdout.count("FAILED") == failures
    assert ("2 failed" in run.stdout) == bool(failures)
    assert "skipped" not in run.stdout
