"""Starlette's own tests of its session middleware, run with ours in its place.

They come from the source distribution of the very version that is installed; it is fetched when
they are needed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CASES = 15
#: The suite wants the leading dot of a domain, which RFC 6265 (5.2.3) drops, and so does Flask.
FAILING = {"test_domain_cookie"}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Starlette's source. Without the network: skip here, fail where CI is set."""
    directory = tmp_path_factory.mktemp("starlette")
    wanted = f"starlette=={version('starlette')}"
    # Only Starlette itself has to come as source; what builds it may come as it likes.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", "starlette", "--dest", str(directory), wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        message = f"the source of {wanted} cannot be had: {done.stderr[-500:]}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(directory, filter="data")
    (root,) = (path for path in directory.iterdir() if path.is_dir())
    return root


def outcomes(suite: Path, backend: str, store: str) -> tuple[set[str], set[str]]:
    """Return the cases that passed and those that failed, by name."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rA", "-p", "starlette_session_plugin"),
            *("-p", "no:asyncio", "-p", "no:cacheprovider", "-k", f"{backend} or not trio"),
            "tests/middleware/test_session.py",
        ],
        cwd=suite,
        env=os.environ | {"PYTHONPATH": paths, "ASYNC_SESSION_TEST_STORE": store},
        capture_output=True,
        text=True,
        timeout=100,
    )
    lines = re.findall(r"^(PASSED|FAILED) \S+::(\S+)", done.stdout, re.MULTILINE)
    # A case on one backend is named after it; cases without an event loop are not.
    wanted = [line for line in lines if f"[{backend}" in line[1] or not on_a_backend(line[1])]
    assert wanted, done.stdout[-2000:] + done.stderr[-2000:]
    passed, failed = ({name for found, name in wanted if found == kind} for kind in KINDS)
    return passed, failed


KINDS = ("PASSED", "FAILED")


def on_a_backend(name: str) -> bool:
    return "asyncio" in name or "trio" in name


def check(suite: Path, backend: str, store: str) -> None:
    passed, failed = outcomes(suite, backend, store)
    assert {name.partition("[")[0] for name in failed} == FAILING
    assert (len(passed), len(failed)) == (CASES - 1, 1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", ["memory", "files"])
def test_suite(kind: str, backend: str, suite: Path, tmp_path: Path) -> None:
    check(suite, backend, "memory://" if kind == "memory" else f"file://{tmp_path}/sessions")


def test_suite_on_redis(suite: Path, redis_url: str) -> None:
    check(suite, "asyncio", redis_url)
