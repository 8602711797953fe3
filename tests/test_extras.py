"""What each optional package is for: without it there is one clear error, naming the extra."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

#: the extra, the packages that are missing, and what is tried
MISSING = [
    ("dynamodb", "aiobotocore aiobotocore.client", "store_from_url('dynamodb:///Tab?region=r')"),
    ("fast", "ormsgpack", "from async_session.serializers import MsgpackSerializer as M; M()"),
    ("filesystem", "aiofiles aiofiles.os", "store_from_url('file:///a')"),
    ("memcached", "aiomcache", "store_from_url('memcached://h')"),
    ("mongo", "pymongo motor", "store_from_url('mongodb://h/d')"),
    ("otel", "opentelemetry opentelemetry.trace", "import async_session.telemetry"),
    ("postgresql", "asyncpg", "store_from_url('postgresql://h/d')"),
    ("quart", "quart", "import async_session.quart"),
    ("redis", "redis", "store_from_url('redis://h')"),
    ("sqlalchemy", "sqlalchemy", "store_from_url('sqlite:////a.db')"),
    ("sqlalchemy", "aiosqlite", "store_from_url('sqlite:////a.db')"),
    ("valkey", "redis valkey", "store_from_url('valkey://h')"),
]
#: Motor is not asked for: who has a collection of its client has it. And the middleware is for any
#: ASGI app: it imports neither Starlette nor FastAPI.
NEVER_IMPORTED = {"fastapi": "fastapi starlette", "motor": "motor", "starlette": "starlette"}


def run_without(packages: str, statement: str) -> str:
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({packages.split()!r}))\n"
        "from async_session import ConfigurationError, store_from_url\n"
        f"try: {statement}\n"
        "except ConfigurationError as error: print(error)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(("extra", "packages", "statement"), MISSING)
def test_a_missing_package_names_its_extra(extra: str, packages: str, statement: str) -> None:
    assert f"pip install 'async_session[{extra}]'" in run_without(packages, statement)


@pytest.mark.parametrize("packages", NEVER_IMPORTED.values())
def test_what_is_never_imported_cannot_be_missing(packages: str) -> None:
    statement = "import async_session.starlette; store_from_url('mongodb://h/d')"
    assert run_without(packages, statement) == ""


def test_no_extra_is_forgotten() -> None:
    extras = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
    assert {extra for extra, *_ in MISSING} | NEVER_IMPORTED.keys() == extras.keys()
