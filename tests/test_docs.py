"""The documentation is run, its links are followed, and what it lists is compared with the code.

A page is one test: its Python blocks run from top to bottom in one namespace and one event loop, so
that a block may say `await`. A block that begins with a comment such as ``# test_app.py`` is a file
instead: it is written to a directory, where pytest runs when the page is at its end. Blocks inside
an HTML comment are not shown to readers; they use what the page has defined.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Protocol

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

import async_session
from async_session import CookieOptions, SessionPolicy
from async_session.starlette import SessionMiddleware
from async_session.testing import StoreConformance

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TEXTS = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]

#: Pages show pieces of an app that only make sense beside the text.
NOT_RUN = {"docs/flask-rules.md"}

#: What the pages call their server; the tests have another one.
REDIS = "redis://localhost:6379/0"
FILE = re.compile(r"# ([\w/]+\.py)\n")


@pytest.fixture(autouse=True)
def blockbuster() -> None:
    """Let a page do what its readers do, also where a driver reads a file when it connects."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ------------------------------------------------------------------------------------ examples


class Run:
    """One page as it is being run."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.directory = directory
        self.redis_url = redis_url
        self.runner = asyncio.Runner()
        self.files = 0

    def evaluate(self, example: Example) -> None:
        source = str(example.parsed).replace(REDIS, self.redis_url)
        if file := FILE.match(source):
            self.files += 1
            (self.directory / file[1]).write_text(source)
            return
        # Line numbers of the page, for the traceback.
        source = "\n" * (example.line + example.parsed.line_offset) + source
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code: CodeType = compile(source, example.path, "exec", flags, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            self.runner.run(eval(code, example.namespace))
        else:
            exec(code, example.namespace)

    def test_the_files(self) -> None:
        if not self.files:
            return
        assert list(self.directory.glob("test_*.py")), "a page with files needs a test among them"
        command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
        # pytest-asyncio warns if nobody has chosen.
        command += ["-o", "asyncio_default_fixture_loop_scope=function"]
        environment = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
        run = subprocess.run(
            [*command, "--rootdir", str(self.directory)],
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=environment,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if name(page) not in NOT_RUN], ids=name)
def test_examples(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    needs_redis = REDIS in page.read_text("utf-8")
    redis_url: str = request.getfixturevalue("redis_url") if needs_redis else REDIS
    run = Run(tmp_path, redis_url)
    document = Sybil([CodeBlockParser("python", run.evaluate)]).parse(page)
    document.namespace["__name__"] = "__main__"
    with run.runner:
        for example in document.examples():
            example.evaluate()
    run.test_the_files()


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(async_session.__path__, "async_session."):
        yield importlib.import_module(found.name)


MODULES = [async_session, *modules()]


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES if ">>>" in inspect.getsource(module)],
    ids=lambda module: module.__name__,
)
def test_examples_in_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert (result.failed, result.attempted > 0) == (0, True)


# --------------------------------------------------------------------------------------- links

LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def prose(path: Path) -> str:
    return FENCED.sub("", path.read_text("utf-8"))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = (title.lower() for title in HEADING.findall(prose(path)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(link)
    assert not wrong


def test_every_page_is_reached_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        targets = (
            link.partition("#")[0] for link in LINK.findall(prose(page)) if "://" not in link
        )
        waiting += [(page.parent / target).resolve() for target in targets if target]
    lost = set(DOCS.rglob("*.md")) - seen
    assert not lost, "link them in docs/index.md"


# ----------------------------------------------------------------------------------- reference

PUBLIC = [
    "async_session",
    "async_session.starlette",
    "async_session.quart",
    "async_session.telemetry",
    "async_session.serializers",
    "async_session.testing",
    *(
        module.__name__
        for module in MODULES
        if module.__name__.startswith("async_session.stores.") and "._" not in module.__name__
    ),
]


def sections(page: str) -> dict[str, str]:
    """Return the text below each heading, by the names in backquotes in that heading."""
    text = (DOCS / page).read_text("utf-8")
    found: dict[str, str] = {}
    for part in re.split(r"^#{2,4} ", text, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        for name in re.findall(r"`([\w.]+)", title):
            name = name.rpartition(".")[2]
            found[name] = found.get(name, "") + body
    return found


def parameters(thing: object) -> set[str]:
    if not callable(thing) or (isinstance(thing, type) and issubclass(thing, BaseException)):
        return set()
    if isinstance(thing, type) and (issubclass(thing, Enum) or Protocol in thing.__mro__):
        return set()
    try:
        names = list(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return set()
    return {name for name in names if not name.startswith("_")} - {"args", "kwargs", "value"}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_has_every_public_name(module: str) -> None:
    loaded = importlib.import_module(module)
    documented = sections("reference.md")
    missing = [name for name in loaded.__all__ if name not in documented]
    assert not missing
    for name in loaded.__all__:
        thing = getattr(loaded, name)
        # These have a page of their own, which the test below compares.
        if thing in (SessionPolicy, SessionMiddleware, CookieOptions):
            continue
        untold = {word for word in parameters(thing) if word not in documented[name]}
        assert not untold, f"{name} takes {untold}"


def table(heading: str) -> dict[str, str]:
    """Return the second column of the table under a heading, by the first, without backquotes."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", sections("settings.md")[heading], re.MULTILINE)
    return {option: default.strip("`") for option, default in rows}


def shown(default: object) -> str:
    if default is inspect.Parameter.empty or default is dataclasses.MISSING:
        return "required"
    return getattr(default, "__name__", None) or repr(default).replace("'", '"')


def test_the_settings_of_the_policy() -> None:
    options = {
        field.name: shown({} if field.default is dataclasses.MISSING else field.default)
        for field in dataclasses.fields(SessionPolicy)
        if field.init
    }
    assert table("SessionPolicy") == options


def test_the_settings_of_the_cookie() -> None:
    fields = [field for field in dataclasses.fields(CookieOptions) if field.init]
    assert table("CookieOptions") == {field.name: shown(field.default) for field in fields}


def test_the_settings_of_the_middleware() -> None:
    signature: Any = inspect.signature(SessionMiddleware).parameters
    options = {key: shown(item.default) for key, item in signature.items() if key != "app"}
    assert table("SessionMiddleware") == options | {"clock": "time.time"}


# ----------------------------------------------------------------------------------- guarantees


def functions_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_test_that_the_pages_name_is_there() -> None:
    text = "\n".join(page.read_text("utf-8") for page in TEXTS)
    named = set(re.findall(r"([\w/.]+)::(test_\w+)", text))
    assert len(named) > 60
    wrong = [f"{place}::{test}" for place, test in sorted(named) if not is_there(place, test)]
    assert not wrong


def is_there(place: str, test: str) -> bool:
    if place == "StoreConformance":
        return hasattr(StoreConformance, test)
    path = ROOT / "tests" / place.removeprefix("tests/")
    return path.is_file() and test in functions_in(path)


def test_every_guarantee_is_in_one_place() -> None:
    """It is shown, shown in part, or open; and what is shown says by what."""
    text = (DOCS / "guarantees.md").read_text("utf-8")
    rows: dict[str, dict[str, str]] = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title = part.partition("\n")[0]
        found = re.findall(r"^\| ([A-Z]{1,2}-\d+) \|(.*)$", part, flags=re.MULTILINE)
        rows[title] = dict(found)
    assert set(rows) == {"Security", "Faults", "Beside the numbers", "Shown in part", "Open"}
    everywhere = [key for found in rows.values() for key in found]
    assert len(everywhere) == len(set(everywhere))
    assert set(everywhere) == {
        f"{kind}-{n}" for kind, most in IDS.items() for n in range(1, most + 1)
    }
    for title in ("Security", "Faults", "Shown in part"):
        assert [key for key, row in rows[title].items() if "::test_" not in row] == []
    assert [key for key, row in rows["Open"].items() if "::" in row] == []


#: The numbered requirements: how many there are of each kind.
IDS = {"ID": 10, "RT": 3, "LT": 6, "LO": 2, "CK": 8, "CA": 3, "ST": 9, "US": 5, "KY": 2, "F": 21}
