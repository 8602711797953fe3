"""Fixtures for every test."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import traceback
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from servers import (
    MemcachedServer,
    MotoServer,
    PostgreSQLServer,
    RedisServer,
    SecantusServer,
    Server,
)
from stores import EVERYWHERE, STORES

from async_session import SessionStore
from async_session.stores.base import SupportsClose

S = TypeVar("S", bound=Server)

#: Seconds by which a coroutine ends before pytest-timeout would end it: what its fixtures take.
BEFORE_THE_TIMEOUT = 30

# Here, before anything imports the kit: its assertions explain themselves as a test's do.
pytest.register_assert_rewrite("async_session.testing.conformance")


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests that only use it. Keys are random: nobody flushes."""
    yield from _running(RedisServer(tmp_path_factory.mktemp("redis")))


@pytest.fixture
def own_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may kill, restart and freeze."""
    yield from _running(RedisServer(tmp_path))


@pytest.fixture(scope="session")
def memcached_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One memcached for all tests that only use it."""
    for server in _running(MemcachedServer(tmp_path_factory.mktemp("memcached"))):
        yield f"memcached://{server.address}"


@pytest.fixture
def own_memcached_server(tmp_path: Path) -> Iterator[MemcachedServer]:
    """A memcached that the test may kill, restart and freeze."""
    yield from _running(MemcachedServer(tmp_path))


@pytest.fixture(scope="session")
def memcached_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[MemcachedServer]]:
    """Three memcached servers for all tests that only use them."""
    nodes = [MemcachedServer(tmp_path_factory.mktemp("memcached")) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        yield nodes


@pytest.fixture(scope="session")
def dynamodb_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One DynamoDB for all tests that only use it: an emulator, or what DYNAMODB_URL names."""
    if url := os.environ.get("DYNAMODB_URL"):
        yield url
        return
    for server in _running(MotoServer(tmp_path_factory.mktemp("moto"))):
        yield server.url


@pytest.fixture
def own_moto_server(tmp_path: Path) -> Iterator[MotoServer]:
    """An emulator that the test may kill, restart and freeze."""
    yield from _running(MotoServer(tmp_path))


@pytest.fixture(scope="session")
def mongodb_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One MongoDB for all tests that only use it: an emulator, or what MONGODB_URL names.

    That is a URL with a database, in which the tests leave a collection "sessions".
    """
    if url := os.environ.get("MONGODB_URL"):
        yield url
        return
    for server in _running(SecantusServer(tmp_path_factory.mktemp("secantus"))):
        yield server.url


@pytest.fixture
def own_secantus_server(tmp_path: Path) -> Iterator[SecantusServer]:
    """An emulator of MongoDB that the test may kill, restart and freeze."""
    yield from _running(SecantusServer(tmp_path))


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """One PostgreSQL for all tests that only use it."""
    for server in _removed(PostgreSQLServer()):
        yield server.url


@pytest.fixture(scope="module")
def _crashing_postgresql() -> Iterator[PostgreSQLServer]:
    yield from _removed(PostgreSQLServer())


@pytest.fixture
def own_postgresql_server(_crashing_postgresql: PostgreSQLServer) -> PostgreSQLServer:
    """A PostgreSQL that the test may kill, restart and freeze. It runs, and holds old data."""
    _crashing_postgresql.restart()
    return _crashing_postgresql


def _removed(server: PostgreSQLServer) -> Iterator[PostgreSQLServer]:
    try:
        yield from _running(server)
    finally:
        server.remove()


def _running(server: S) -> Iterator[S]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Both. A module whose subject is asyncio's alone overrides this."""
    return str(request.param)


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Let a blocking call in an event loop fail the test (asyncio only: it knows no other)."""
    with blockbuster_ctx() as guard:
        # The making of a Quart app looks for its directory; tests make theirs in the loop.
        # A test that stops a PostgreSQL asks the kernel for its children.
        guard.functions["io.TextIOWrapper.read"].can_block_in("tests/servers.py", "_children")
        for name in ("os.getcwd", "os.path.abspath", "os.stat"):
            guard.functions[name].can_block_in("quart/app.py", "__init__")
            guard.functions[name].can_block_in("flask/sansio/app.py", "__init__")
        # So does the making of a client of MongoDB: is this a container?
        guard.functions["os.stat"].can_block_in("pymongo/pool_options.py", "_metadata_env")
        yield guard


@pytest.fixture(params=sorted(STORES))
def made_store(request: pytest.FixtureRequest) -> SessionStore:
    # Not in a loop: an app makes its stores when it is imported.
    return STORES[str(request.param)](request)


@pytest.fixture
async def any_store(made_store: SessionStore) -> AsyncIterator[SessionStore]:
    """Every store in turn, each fresh; on trio those that run there."""
    yield made_store
    if isinstance(made_store, SupportsClose):
        await made_store.aclose()


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """End a coroutine that hangs from within its event loop, and show where it was.

    The timeout of pytest-timeout strikes the loop instead, and anyio's runner, which tears fixtures
    down in the task that ran the test, would wait for that task without end.
    """
    test = pyfuncitem.obj
    if inspect.iscoroutinefunction(test) and "anyio_backend" in pyfuncitem.funcargs:
        marker = pyfuncitem.get_closest_marker("timeout")
        seconds = float(marker.args[0] if marker else pyfuncitem.config.getini("timeout"))

        @functools.wraps(test)
        async def in_time(**arguments: object) -> None:
            with anyio.fail_after(seconds - BEFORE_THE_TIMEOUT) as scope:
                try:
                    await test(**arguments)
                except anyio.get_cancelled_exc_class():
                    if scope.cancel_called:
                        traceback.print_exc()
                    raise

        pyfuncitem.obj = in_time
    return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what cannot be: a driver that knows asyncio only, on trio."""
    items[:] = [item for item in items if not _is_impossible(getattr(item, "callspec", None))]


def _is_impossible(spec: Any) -> bool:
    params: dict[str, object] = getattr(spec, "params", {})
    store = params.get("made_store")
    return params.get("anyio_backend") == "trio" and store is not None and store not in EVERYWHERE
