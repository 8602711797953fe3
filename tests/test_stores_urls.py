"""Stores from URLs, and what else is taken for a store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from async_session.errors import ConfigurationError
from async_session.stores.base import SessionStore
from async_session.stores.dynamodb import DynamoDBStore
from async_session.stores.filesystem import FileSystemStore
from async_session.stores.memcached import MemcachedStore
from async_session.stores.memory import MemoryStore
from async_session.stores.mongodb import MongoStore
from async_session.stores.redis import RedisStore
from async_session.stores.sqlalchemy import SQLAlchemyStore
from async_session.stores.urls import as_store, store_from_url
from async_session.testing import FaultyStore, RecordingStore


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("memory://", MemoryStore, "MemoryStore(max_items=100000)"),
        ("file:///var/lib/app", FileSystemStore, "FileSystemStore('/var/lib/app')"),
        ("file:///var/my%20app%3F", FileSystemStore, "FileSystemStore('/var/my app?')"),
        (
            "dynamodb://a:b@h:1/Tab?region=r",
            DynamoDBStore,
            "DynamoDBStore('dynamodb://h:1/?region=r', table='Tab')",
        ),
        ("redis://h:1/2", RedisStore, "RedisStore('redis://h:1/2', prefix='session:')"),
        ("rediss://u:p@h", RedisStore, "RedisStore('rediss://h', prefix='session:')"),
        (
            "memcached://H,b:1",
            MemcachedStore,
            "MemcachedStore('memcached://h:11211,b:1', prefix='session:')",
        ),
        (
            "mongodb://u:p@h,b:1/d",
            MongoStore,
            "MongoStore('mongodb://h,b:1/d?collection=sessions')",
        ),
        (
            "mongodb+srv://u:p@h.example.org/d?collection=c",
            MongoStore,
            "MongoStore('mongodb+srv://h.example.org/d?collection=c')",
        ),
        ("redis+unix:///s", RedisStore, "RedisStore('redis+unix:///s', prefix='session:')"),
        (
            "sqlite:////a.db",
            SQLAlchemyStore,
            "SQLAlchemyStore('sqlite:////a.db', table='sessions')",
        ),
        (
            "postgresql://u:p@h/d",
            SQLAlchemyStore,
            "SQLAlchemyStore('postgresql://h/d', table='sessions')",
        ),
    ],
)
def test_what_a_url_makes(url: str, kind: type, shown: str) -> None:
    store, owned = as_store(url)
    assert type(store) is kind
    assert repr(store) == shown
    assert owned is True


@pytest.mark.parametrize(
    "url", ["", "redis", "mysql://u:s3cret@host/db", "/var/lib", "://", "REDIS://h"]
)
def test_an_unknown_scheme_lists_the_known(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        store_from_url(url)
    known = "file://, memcached://, memory://, mongodb://, redis://, redis+unix://, rediss://"
    assert all(scheme in str(caught.value) for scheme in known.split(", "))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["file://", "file:///", "file://var/lib", "file:///a?mode=1", "file:///a#b", "memory://x"],
)
def test_urls_that_mean_something_else(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write"):
        store_from_url(url)


def test_a_store_is_taken_as_it_is() -> None:
    for store in (MemoryStore(), RecordingStore(MemoryStore()), FaultyStore(MemoryStore())):
        assert as_store(store) == (store, False)


class Blocking:
    def open(self, key: str) -> None: ...
    def save(self, key: str, data: bytes, *, ttl: int) -> None: ...
    def delete(self, key: str) -> None: ...


@pytest.mark.parametrize(
    ("value", "instead"),
    [
        (Redis(), r"RedisStore\(client\)"),
        (MemoryStore, r"MemoryStore\(\.\.\.\)"),
        (Path("/var/lib"), r"FileSystemStore\(path\)"),
        ({}, "memory://"),
        (None, "memory://"),
        (Blocking(), "async open, save and delete"),
    ],
    ids=["redis", "class", "path", "dict", "none", "blocking"],
)
def test_what_is_no_store_is_refused(value: Any, instead: str) -> None:
    with pytest.raises(ConfigurationError, match=instead):
        as_store(value)


def test_no_driver_is_loaded_before_it_is_asked_for() -> None:
    script = (
        "import sys, async_session.stores.urls, async_session.testing as t\n"
        "async_session.stores.urls.store_from_url('memory://')\n"
        "heavy = {'redis', 'aiomcache', 'aiofiles', 'pytest', 'hypothesis', 'motor'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_ours_are_stores_to_a_type_checker_and_at_run_time() -> None:
    stores: list[SessionStore] = [
        MemoryStore(),
        FileSystemStore("/var/lib/app"),
        MemcachedStore("localhost"),
        RedisStore("redis://localhost"),
    ]
    assert all(isinstance(store, SessionStore) for store in stores)
