"""What holds for the package as a whole: its layers, its names, its weight.

All of it is read from the source, so a module that cannot be imported here is checked as well.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

NAME = "async_session"

#: A module imports from its own layer and from those above it. A name stands for all modules below.
LAYERS: list[tuple[str, set[str]]] = [
    ("errors", {"errors"}),
    ("runtime", {"_aio", "_log", "_shared_timer"}),
    (
        "values",
        {
            "_json",
            "_packing",
            "_tags",
            "cookies",
            "events",
            "merge",
            "outage",
            "serializers",
            "session",
            "tokens",
            "tracking",
        },
    ),
    ("record", {"codec", "record"}),
    ("policy", {"_checks", "plan", "policy"}),
    ("stores", {"stores"}),
    (
        "manager",
        {
            "commits",
            "guarded",
            "legacy",
            "manager",
            "opening",
            "owners",
            "turns",
            "updates",
            "writers",
        },
    ),
    (
        "adapters",
        {
            "_flask_session",
            "_late_writes",
            "_null_session",
            "_quart_context",
            "_response",
            "_starlette_settings",
            "fastapi",
            "quart",
            "starlette",
        },
    ),
    ("tools", {"cli", "pytest_plugin", "telemetry", "testing"}),
    # The root offers names of all layers, so no module may import a name from it.
    ("root", {""}),
]
RANK = {name: rank for rank, (_, names) in enumerate(LAYERS) for name in names}

#: The order alone would allow these: a store knows nothing of sessions.
STORES_MAY_IMPORT = {"errors", "runtime", "stores"}

#: Which module may import which package from elsewhere, at any depth of its code.
THIRD_PARTY = {
    # what the package depends on
    "anyio": {
        "_aio",
        "_shared_timer",
        "stores",
        "manager",
        "starlette",
        "fastapi",
        "quart",
        "testing",
    },
    "itsdangerous": {"tokens", "cookies", "legacy"},
    # frameworks: each in its own adapter
    "starlette": {"starlette", "fastapi", "testing"},
    "fastapi": {"fastapi"},
    "pydantic": {"fastapi"},
    "quart": {"quart", "_late_writes", "_null_session", "_quart_context"},
    "flask": {"quart", "_flask_session"},
    "werkzeug": {"quart", "_flask_session"},
    "markupsafe": {"_tags", "serializers"},
    "ormsgpack": {"serializers"},
    # drivers: each in its own store
    "aiofiles": {"stores.filesystem"},
    "aiomcache": {"stores._memcached"},
    "sqlalchemy": {"stores.sqlalchemy", "stores._sql"},
    "bson": {"stores._mongodb"},
    "pymongo": {"stores.mongodb", "stores._mongodb"},
    "aiobotocore": {"stores.dynamodb", "stores._dynamodb"},
    "botocore": {"stores._dynamodb"},
    "redis": {"stores.redis", "stores._redis"},
    "valkey": {"stores.redis", "stores._redis"},
    # tools
    "opentelemetry": {"telemetry"},
    "httpx": {"testing"},
    "hypothesis": {"testing._machine", "testing.manager_machine", "testing.store_machine"},
    "pytest": {"pytest_plugin", "testing"},
}

#: What a bare `import async_session` may bring along: our two dependencies and what these need.
LIGHT = {
    NAME,
    "anyio",
    "exceptiongroup",
    "idna",
    "itsdangerous",
    "sniffio",
    "typing_extensions",
}


class Module(NamedTuple):
    """A module of the package; its name has no leading "async_session."."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))

    @property
    def layer(self) -> str:
        return LAYERS[RANK[self.name.partition(".")[0]]][0]


def find_package() -> Path:
    spec = importlib.util.find_spec(NAME)
    assert spec is not None, "async_session is not installed"
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def find_modules() -> Iterator[Module]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        yield Module(".".join(parts), path, ast.parse(path.read_text("utf-8")))


PACKAGE = find_package()
MODULES = {module.name: module for module in find_modules()}

each_module = pytest.mark.parametrize(
    "module", MODULES.values(), ids=lambda module: module.name or "root"
)
each_public_module = pytest.mark.parametrize(
    "module",
    [module for module in MODULES.values() if module.is_public],
    ids=lambda module: module.name or "root",
)


# ------------------------------------------------------------------------------------- imports


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def import_statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield all imports that can run, also those within functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and is_type_checking(child.test):
            for statement in child.orelse:
                yield from import_statements(ast.Module([statement], []))
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        else:
            yield from import_statements(child)


def imported(module: Module) -> Iterator[str]:
    """Yield what a module imports, by full dotted names; for our own, down to the module."""
    for statement in import_statements(module.tree):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
            continue
        base = statement.module or ""
        if statement.level:
            here = [NAME, *module.name.split(".")] if module.name else [NAME]
            up = statement.level - (1 if module.is_package else 0)
            base = ".".join([*here[: len(here) - up], *filter(None, [base])])
        for alias in statement.names:
            # `from package import module` imports the module, not a name of the package.
            full = f"{base}.{alias.name}"
            yield full if full.removeprefix(f"{NAME}.") in MODULES else base


def own_imports(module: Module) -> set[str]:
    names = {name for name in imported(module) if name.partition(".")[0] == NAME}
    return {name.removeprefix(NAME).removeprefix(".") for name in names}


def foreign_imports(module: Module) -> set[str]:
    tops = {name.partition(".")[0] for name in imported(module)}
    return tops - {NAME} - set(sys.stdlib_module_names)


@each_module
def test_module_has_its_place(module: Module) -> None:
    assert module.name.partition(".")[0] in RANK, "give the module a place in LAYERS"


@each_module
def test_imports_keep_the_order_of_the_layers(module: Module) -> None:
    if module.name == "":
        return
    rank = RANK[module.name.partition(".")[0]]
    wrong = {name for name in own_imports(module) if RANK[name.partition(".")[0]] > rank}
    assert not wrong, f"{module.name} ({module.layer}) may not import {wrong}"


@each_module
def test_stores_know_nothing_of_sessions(module: Module) -> None:
    if module.layer != "stores":
        return
    layers = {LAYERS[RANK[name.partition(".")[0]]][0] for name in own_imports(module)}
    assert layers <= STORES_MAY_IMPORT


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {name: own_imports(module) - {name} for name, module in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@each_module
def test_frameworks_and_drivers_stay_at_the_edge(module: Module) -> None:
    for package in foreign_imports(module):
        places = THIRD_PARTY.get(package, set())
        at_home = any(f"{module.name}.".startswith(f"{place}.") for place in places)
        # a private helper beside its store or adapter: stores/_redis_wire.py
        helper = any(module.name.startswith(f"{place}_") for place in places)
        assert at_home or helper, f"{module.name} may not import {package}"


# ---------------------------------------------------------------------------------------- weight


def run_bare(code: str) -> str:
    """Run code in a new Python, outside this directory, and return what it prints."""
    path = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", path + code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_root_loads_no_framework_and_no_driver() -> None:
    code = (
        "import json\n"
        "before = set(sys.modules)  # an environment may load things of its own at start\n"
        f"import {NAME}\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    loaded = set(json.loads(run_bare(code)))
    assert loaded - set(sys.stdlib_module_names) <= LIGHT


def test_all_names_of_the_root_work_without_any_extra() -> None:
    code = (
        "class OnlyTheDependencies:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.partition('.')[0]\n"
        f"        if top not in {sorted(LIGHT)!r} and top not in sys.stdlib_module_names:\n"
        "            raise ModuleNotFoundError(f'not here: {name}', name=name)\n"
        "sys.meta_path.insert(0, OnlyTheDependencies())\n"
        f"import {NAME}\n"
        f"from {NAME} import *\n"
        f"for name in getattr({NAME}, '__all__', ()):\n"
        f"    assert name in globals() and name in dir({NAME}), name\n"
    )
    run_bare(code)


# ----------------------------------------------------------------------------------------- names


def declared_names(module: Module) -> list[str] | None:
    """Return `__all__` as it is written, or None without one."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def defined_names(module: Module) -> set[str]:
    """Return the public names a module makes itself; type variables are nobody's business."""
    names: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and not is_type_variable(node.value):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def is_type_variable(value: ast.expr) -> bool:
    kinds = {"ParamSpec", "TypeVar", "TypeVarTuple"}
    return isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in kinds


def bound_names(module: Module) -> set[str]:
    """Return all names a module has at its top level, imported ones and its modules too."""
    names = set(defined_names(module))
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
    below = f"{module.name}." if module.name else ""
    names.update(name.removeprefix(below) for name in MODULES if name.startswith(below))
    return names


def kind_and_name(name: str) -> tuple[int, str]:
    """Sort constants first, then classes, then the rest; ruff's order of `__all__`."""
    if len(name) > 1 and name.isupper():
        return 0, name
    return (1 if name[0].isupper() else 2), name


@each_public_module
def test_all_is_what_the_module_defines(module: Module) -> None:
    declared = declared_names(module)
    if declared is None:
        assert not defined_names(module), "the module needs an __all__"
        return
    forgotten, not_there = (
        defined_names(module) - set(declared),
        set(declared) - bound_names(module),
    )
    assert not forgotten
    assert not not_there
    assert declared == sorted(set(declared), key=kind_and_name)


def is_marked(node: ast.AST, *marks: str) -> bool:
    """Tell whether a function has one of these decorators."""
    decorators = getattr(node, "decorator_list", [])
    return any(ast.unparse(decorator).split(".")[-1] in marks for decorator in decorators)


def without_docstring(module: Module) -> Iterator[str]:
    """Yield public classes, functions and methods that do not say what they are."""
    public = set(declared_names(module) or ())
    if not ast.get_docstring(module.tree):
        yield "the module itself"
    for node in module.tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name in public and not is_marked(node, "overload"):
            yield from undocumented(node, node.name)


def inherited_names(node: ast.ClassDef) -> set[str]:
    """Return what a class has from a built-in one that it names as its base."""
    bases = (ast.unparse(base).partition("[")[0] for base in node.bases)
    return {name for base in bases for name in dir(getattr(builtins, base, object))}


def undocumented(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[str]:
    if not ast.get_docstring(node):
        yield name
    if not isinstance(node, ast.ClassDef):
        return
    for inner in node.body:
        if not isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if inner.name.startswith("_") or is_marked(inner, "overload", "override", "setter"):
            continue
        # A method of dict says what dict says; the name of a test is a sentence already.
        if inner.name in inherited_names(node) or inner.name.startswith("test_"):
            continue
        yield from undocumented(inner, f"{name}.{inner.name}")


@each_public_module
def test_public_names_say_what_they_are(module: Module) -> None:
    silent = list(without_docstring(module))
    assert not silent


# ----------------------------------------------------------------------------------------- files


def test_the_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()


@each_module
def test_a_file_fits_in_one_reading(module: Module) -> None:
    lines = module.path.read_text("utf-8").count("\n")
    assert lines <= 270
