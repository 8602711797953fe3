"""What the MongoDB store promises beyond the contract: settings, conditions, index, clients."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from bson.codec_options import TypeDecoder, TypeRegistry
from bson.raw_bson import RawBSONDocument
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient, ReadPreference, WriteConcern, errors
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent
from pymongo.read_concern import ReadConcern
from servers import SecantusServer

from async_session import _log
from async_session._flask_session import store_from_config
from async_session.errors import ConfigurationError, StoreError, StoreUnavailable
from async_session.stores import _mongodb_commands
from async_session.stores.base import Match
from async_session.stores.mongodb import MongoStore

KEY = "ab" + "0" * 62
OLD, NEW = b"old-version-0001" + b"o" * 500, b"new-version-0002" + b"n" * 500
NOW = 1_800_000_000.25

Client = AsyncMongoClient[dict[str, Any]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Notes(CommandListener):
    """Keeps the commands that a client sends."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.commands.append(dict(event.command))

    def succeeded(self, event: object) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def of(self, name: str) -> list[dict[str, Any]]:
        return [command for command in self.commands if name in command]


@pytest.fixture
def notes() -> Notes:
    return Notes()


_names = itertools.count()


@pytest.fixture
async def client(mongodb_url: str, notes: Notes) -> AsyncIterator[Client]:
    client: Client = AsyncMongoClient(mongodb_url, event_listeners=[notes])
    yield client
    await client.close()


@pytest.fixture
async def sessions(client: Client) -> AsyncIterator[Any]:
    """A collection that does not exist yet."""
    sessions = client.get_default_database()[f"sessions-{next(_names)}-{time.time_ns()}"]
    yield sessions
    await sessions.drop()


@pytest.fixture
def store(sessions: Any) -> MongoStore:
    return MongoStore(sessions, timeout=5, clock=lambda: NOW)


class BytesAsText(TypeDecoder):
    @property
    def bson_type(self) -> type[bytes]:
        return bytes

    def transform_bson(self, value: bytes) -> str:
        return value.hex()


# What is sent.


@pytest.mark.anyio
async def test_the_settings_that_the_promises_rest_on(
    mongodb_url: str, sessions: Any, notes: Notes
) -> None:
    careless = sessions.with_options(
        write_concern=WriteConcern(w=0),
        read_preference=ReadPreference.SECONDARY_PREFERRED,
        read_concern=ReadConcern("available"),
    )
    store = MongoStore(careless, timeout=3)
    for call in calls(store):
        await call
    await store.open(KEY)
    writes = notes.of("insert") + notes.of("update") + notes.of("delete")
    assert len(writes) == 4
    assert [write["writeConcern"] for write in writes] == [{"w": "majority", "j": True}] * 4
    finds = notes.of("find")
    assert [find["readConcern"] for find in finds] == [{"level": "local"}] * 2
    assert not any("$readPreference" in command for command in writes + finds)
    assert all(0 < command["maxTimeMS"] <= 3000 for command in writes + finds)


@pytest.mark.anyio
@pytest.mark.parametrize("level", ["majority", "linearizable"])
async def test_a_stronger_read_concern_stays(sessions: Any, notes: Notes, level: str) -> None:
    store = MongoStore(sessions.with_options(read_concern=ReadConcern(level)))
    await store.open(KEY)
    (find,) = notes.of("find")
    assert find["readConcern"] == {"level": level}
    assert MongoStore(f"mongodb://h/d?readConcernLevel={level}").deadline == 1.0


@pytest.mark.anyio
async def test_each_condition_is_in_the_write(store: MongoStore, notes: Notes) -> None:
    assert await store.save(KEY, OLD, ttl=60, match=Match.ABSENT) is True
    assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is True
    assert await store.save(KEY, OLD, ttl=60) is True
    (insert,) = notes.of("insert")
    assert insert["documents"][0]["_id"] == KEY
    guarded, blind = (command["updates"][0] for command in notes.of("update"))
    assert (guarded["q"], guarded["upsert"]) == ({"_id": KEY, "version": OLD[:16]}, False)
    assert guarded["u"]["version"] == NEW[:16]
    assert (blind["q"], blind["upsert"]) == ({"_id": KEY}, True)


@pytest.mark.anyio
async def test_a_document(store: MongoStore, sessions: Any) -> None:
    for match, data in ((Match.ABSENT, OLD), (OLD[:16], NEW), (Match.ANY, OLD)):
        assert await store.save(KEY, data, ttl=400 * 86400, match=match)
        found = await sessions.find_one({"_id": KEY})
        until = datetime.fromtimestamp(NOW + 0.75 + 400 * 86400 + 300, UTC).replace(tzinfo=None)
        expected = {"_id": KEY, "version": data[:16], "payload": data, "expires": until}
        assert found == expected


@pytest.mark.anyio
@pytest.mark.parametrize(
    "options",
    [
        {"tz_aware": True},
        {"document_class": RawBSONDocument},
        {"type_registry": TypeRegistry([BytesAsText()])},
    ],
    ids=["tz", "raw", "types"],
)
async def test_how_a_client_decodes_does_not_matter(mongodb_url: str, options: Any) -> None:
    client: AsyncMongoClient[Any] = AsyncMongoClient(mongodb_url, **options)
    store = MongoStore(client.get_default_database()["sessions"], timeout=5)
    await store.save(KEY, OLD, ttl=60)
    assert await store.open(KEY) == OLD
    assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is True
    await store.delete(KEY)
    await client.close()


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["$where", "a.b", "", "$ne", "\x00", "{}"])
async def test_a_key_is_text_and_nothing_else(store: MongoStore, key: str) -> None:
    assert await store.save(key, OLD, ttl=60, match=Match.ABSENT) is True
    assert await store.open(key) == OLD
    assert await store.open(KEY) is None
    await store.delete(key)


@pytest.mark.anyio
@pytest.mark.parametrize("key", [{"$ne": None}, b"a", None, 1], ids=str)
async def test_no_other_type_is_a_key(store: MongoStore, notes: Notes, key: Any) -> None:
    with pytest.raises(ValueError, match="a key is a str"):
        await store.open(key)
    with pytest.raises(ValueError, match="a key is a str"):
        await store.save(key, OLD, ttl=60)
    with pytest.raises(ValueError, match="a key is a str"):
        await store.delete(key)
    assert notes.commands == []


@pytest.mark.anyio
async def test_a_version_has_16_bytes(store: MongoStore) -> None:
    for version in (b"", b"short", bytes(17)):
        with pytest.raises(ValueError, match="16 bytes"):
            await store.save(KEY, NEW, ttl=60, match=version)


@pytest.mark.anyio
async def test_a_value_that_no_document_holds(store: MongoStore) -> None:
    largest = OLD + bytes(16 * 1024 * 1024 - 1024)
    assert await store.save(KEY, largest, ttl=60) is True
    for match in (Match.ANY, Match.ABSENT, OLD[:16]):
        with pytest.raises(StoreError, match="16 MB") as caught:
            await store.save(KEY, bytes(17 * 1024 * 1024), ttl=60, match=match)
        assert type(caught.value) is StoreError
        assert isinstance(caught.value.__cause__, errors.DocumentTooLarge)
    assert await store.open(KEY) == largest


@pytest.mark.anyio
async def test_a_document_of_somebody_else_is_an_error(store: MongoStore, sessions: Any) -> None:
    await sessions.insert_one({"_id": KEY, "payload": {"a": 1}})
    with pytest.raises(StoreError, match="no session"):
        await store.open(KEY)


@pytest.mark.anyio
async def test_a_unique_index_of_somebody_else_is_no_match(
    store: MongoStore, sessions: Any
) -> None:
    # Our documents have no such field, so the second of them is a duplicate: not of its key.
    await sessions.create_index("id", unique=True)
    assert await store.save(KEY, OLD, ttl=60, match=Match.ABSENT) is True
    for match in (Match.ABSENT, Match.ANY):
        with pytest.raises(StoreError, match="MongoDB refused"):
            await store.save(KEY[::-1], OLD, ttl=60, match=match)


@pytest.mark.anyio
async def test_upserts_that_meet_are_tried_again(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymongo.asynchronous.collection import AsyncCollection

    real, failures = AsyncCollection.replace_one, 0

    async def replace_one(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise errors.DuplicateKeyError("E11000", 11000, {"keyPattern": {"_id": 1}})
        return await real(self, *args, **kwargs)

    monkeypatch.setattr(AsyncCollection, "replace_one", replace_one)
    failures = 4
    assert await store.save(KEY, OLD, ttl=60) is True
    failures = 5
    with pytest.raises(StoreError):
        await store.save(KEY, NEW, ttl=60)
    assert await store.open(KEY) == OLD


# Reads at once.


KEYS = [f"{number:064x}" for number in range(20)]


def asked(notes: Notes) -> tuple[list[int], list[str]]:
    """Return how many sessions each command for several asked for, and the keys asked for alone."""
    filters = [find["filter"]["_id"] for find in notes.of("find")]
    together = sorted(len(each["$in"]) for each in filters if isinstance(each, dict))
    return together, sorted(each for each in filters if isinstance(each, str))


async def read_all(store: MongoStore) -> list[object]:
    return list(await asyncio.gather(*map(store.open, KEYS), return_exceptions=True))


@pytest.fixture
async def values(store: MongoStore, notes: Notes) -> list[object]:
    values = [OLD + key.encode() for key in KEYS]
    for key, value in zip(KEYS, values, strict=True):
        await store.save(key, value, ttl=60)
    notes.commands.clear()
    return list(values)


@pytest.mark.anyio
async def test_reads_at_once_share_a_command(
    store: MongoStore, notes: Notes, values: list[object]
) -> None:
    assert await read_all(store) == values
    assert asked(notes) == ([4, 16], [])


@pytest.mark.anyio
async def test_reads_at_once_share_nothing_else(
    store: MongoStore, sessions: Any, notes: Notes, values: list[object]
) -> None:
    await sessions.update_one({"_id": KEYS[1]}, {"$set": {"payload": "text"}})
    await store.delete(KEYS[2])
    reads = [asyncio.ensure_future(store.open(key)) for key in (*KEYS[:4], KEYS[3])]
    await asyncio.sleep(0)
    reads[0].cancel()
    async with asyncio.timeout(5):
        found = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert isinstance(found[1], StoreError)
    assert found[2:] == [None, values[3], values[3]]
    assert asked(notes) == ([5], [KEYS[2]])


@pytest.mark.anyio
@pytest.mark.parametrize("error", [{"errorCode": 13}, {"closeConnection": True}], ids=str)
async def test_when_a_command_for_several_fails_each_is_read_alone(
    store: MongoStore, notes: Notes, values: list[object], failpoint: FailPoint, error: Any
) -> None:
    await failpoint.set("find", mode={"times": 1}, **error)
    assert await asyncio.gather(*map(store.open, KEYS[:9])) == values[:9]
    assert asked(notes) == ([9], KEYS[:9])


@pytest.mark.anyio
async def test_what_an_answer_had_no_room_for_is_read_alone(
    store: MongoStore, notes: Notes, values: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    find, read = _mongodb_commands._find, _mongodb_commands._read

    async def cut(*args: Any) -> Any:
        return (await find(*args))[:3]

    async def fail(sessions: Any, key: str, seconds: float) -> Any:
        if key == KEYS[15]:
            raise errors.PyMongoError("injected")
        return await read(sessions, key, seconds)

    monkeypatch.setattr(_mongodb_commands, "_find", cut)
    monkeypatch.setattr(_mongodb_commands, "_read", fail)
    found = await read_all(store)
    assert isinstance(found.pop(15), StoreError)
    assert found == values[:15] + values[16:]
    assert len(asked(notes)[1]) == 13


@pytest.mark.anyio
@pytest.mark.parametrize("why", ["linearizable", "Mongos", "LoadBalancer"])
async def test_reads_that_go_alone(
    sessions: Any, notes: Notes, values: list[object], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "linearizable":  # which is for one document
        sessions = sessions.with_options(read_concern=ReadConcern(why))
    else:  # one shard that hangs is nothing to the sessions of others
        server = SimpleNamespace(server_type_name=why)
        topology = SimpleNamespace(
            server_descriptions=lambda: {("h", 1): server}, has_writable_server=lambda: True
        )
        monkeypatch.setattr(AsyncMongoClient, "topology_description", topology)
    assert await read_all(MongoStore(sessions, timeout=5)) == values
    assert asked(notes) == ([], KEYS)


# The index.


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(_log, "_given", set())
    caplog.set_level(logging.WARNING, "async_session")
    return caplog


@pytest.mark.anyio
async def test_reads_create_nothing(store: MongoStore, sessions: Any, notes: Notes) -> None:
    assert await store.open(KEY) is None
    await store.delete(KEY)
    assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is False
    notes.commands.clear()
    assert await store.open(KEY) is None
    assert [next(iter(command)) for command in notes.commands] == ["find"]
    assert await sessions.count_documents({}) == 0


@pytest.mark.anyio
async def test_the_first_save_makes_the_index_once(
    store: MongoStore, sessions: Any, notes: Notes
) -> None:
    await asyncio.gather(*(store.save(f"{n:064}", OLD, ttl=60) for n in range(20)))
    (made,) = notes.of("createIndexes")
    assert made["indexes"] == [
        {"key": {"expires": 1}, "expireAfterSeconds": 0, "name": "expires_1"}
    ]
    assert (await sessions.index_information())["expires_1"]["expireAfterSeconds"] == 0


@pytest.mark.anyio
async def test_what_has_expired_is_removed(own_secantus_server: SecantusServer) -> None:
    now = time.time()
    store = MongoStore(own_secantus_server.url, timeout=5, clock=lambda: now)
    await store.save(KEY, OLD, ttl=3600)
    now -= 3600
    await store.save(KEY[::-1], OLD, ttl=3000)
    for _ in range(100):
        if await store.open(KEY[::-1]) is None:
            break
        await asyncio.sleep(0.1)
    else:
        pytest.fail("the server did not remove what had expired")
    assert await store.open(KEY) == OLD
    await store.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"expireAfterSeconds": 3600}], ids=str)
async def test_another_index_is_left_alone(
    store: MongoStore, sessions: Any, warnings: pytest.LogCaptureFixture, options: Any
) -> None:
    await sessions.create_index("expires", **options)
    before = await sessions.index_information()
    for _ in range(3):
        assert await store.save(KEY, OLD, ttl=60) is True
    (warning,) = warnings.messages
    assert "collMod" in warning
    assert sessions.full_name in warning
    assert await sessions.index_information() == before


class FailPoint:
    """Makes the server fail commands of the clients that test it."""

    def __init__(self, client: Client) -> None:
        self._admin = client.admin

    async def set(self, *commands: str, mode: Any = "alwaysOn", **data: Any) -> None:
        await self._admin.command(
            "configureFailPoint", "failCommand", mode=mode, data={"failCommands": commands, **data}
        )

    async def off(self) -> None:
        await self._admin.command("configureFailPoint", "failCommand", mode="off")


@pytest.fixture
async def failpoint(client: Client) -> AsyncIterator[FailPoint]:
    """Needs a server that was started with test commands; the emulator is."""
    failpoint = FailPoint(client)
    await failpoint.off()
    yield failpoint
    await failpoint.off()


@pytest.mark.anyio
async def test_without_permission_for_the_index_sessions_work(
    store: MongoStore, failpoint: FailPoint, warnings: pytest.LogCaptureFixture
) -> None:
    await failpoint.set("createIndexes", errorCode=13)
    for _ in range(3):
        assert await store.save(KEY, OLD, ttl=60) is True
    (warning,) = warnings.messages
    assert "cannot make the index" in warning


@pytest.mark.anyio
async def test_an_index_that_takes_long_does_not_fail_the_save(
    sessions: Any,
    failpoint: FailPoint,
    warnings: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    notes: Notes,
) -> None:
    store = MongoStore(sessions, timeout=0.5)
    await failpoint.set("createIndexes", blockConnection=True, blockTimeMS=1500)
    began = time.monotonic()
    assert await store.save(KEY, OLD, ttl=60) is True
    assert time.monotonic() - began < 0.6
    (warning,) = warnings.messages
    assert "tries again" in warning
    await failpoint.off()
    assert await store.save(KEY, OLD, ttl=60) is True
    assert len(notes.of("createIndexes")) == 1, "not at every save"
    later = time.monotonic() + 61
    monkeypatch.setattr("async_session.stores.mongodb.time.monotonic", lambda: later)
    assert await store.save(KEY, OLD, ttl=60) is True
    monkeypatch.undo()
    assert len(notes.of("createIndexes")) == 2
    assert "expires_1" in await sessions.index_information()


# Failures.


@pytest.mark.anyio
async def test_a_write_that_no_majority_confirmed_is_of_unknown_outcome(
    store: MongoStore, failpoint: FailPoint
) -> None:
    wce = {"code": 64, "errmsg": "waiting for replication timed out", "errInfo": {"wtimeout": True}}
    await failpoint.set("insert", "update", "delete", writeConcernError=wce)
    for match in (Match.ABSENT, OLD[:16], Match.ANY):
        with pytest.raises(StoreUnavailable, match="replication timed out") as caught:
            await store.save(KEY, OLD, ttl=60, match=match)
        assert isinstance(caught.value.__cause__, errors.WriteConcernError)
    assert await store.open(KEY) == OLD, "and this time it was written"
    with pytest.raises(StoreUnavailable):
        await store.delete(KEY)


@pytest.mark.anyio
@pytest.mark.parametrize("code", [189, 10107, 11600, 11602, 91, 13436])
async def test_a_failover_is_waited_for_or_unavailable(
    mongodb_url: str, failpoint: FailPoint, code: int
) -> None:
    # The emulator does not tell its monitors that it has stepped down: they have to ask.
    url = with_options(mongodb_url, "serverMonitoringMode=poll")
    store, impatient = MongoStore(url, timeout=5), MongoStore(url, timeout=0.7)
    failing = ("insert", "update", "delete", "find")
    await store.save(KEY, OLD, ttl=60)
    await failpoint.set(*failing, errorCode=code, mode={"times": 1})
    assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is True
    await failpoint.set(*failing, errorCode=code, mode={"times": 1})
    assert await store.open(KEY) == NEW
    await failpoint.set(*failing, errorCode=code)
    for call in calls(impatient):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await call
        assert time.monotonic() - began < 0.9
    await store.aclose()
    await impatient.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("code", [6, 64, 133, 262])
async def test_a_router_without_a_shard_is_unavailable(
    store: MongoStore, failpoint: FailPoint, code: int
) -> None:
    # No labels: else the driver would wait for another router.
    failing = ("insert", "update", "delete", "find")
    await failpoint.set(*failing, errorCode=code, errorLabels=[])
    for call in calls(MongoStore(store._given, timeout=0.5)):  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await call


@pytest.mark.anyio
@pytest.mark.parametrize("code", [2, 8, 13, 18, 9001 + 1, 8000])
async def test_a_refusal_is_no_outage(store: MongoStore, failpoint: FailPoint, code: int) -> None:
    await failpoint.set("insert", "update", "delete", "find", errorCode=code)
    for call in calls(store):
        with pytest.raises(StoreError, match="MongoDB refused") as caught:
            await call
        assert type(caught.value) is StoreError


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (errors.AutoReconnect("gone"), StoreUnavailable),
        (errors.NotPrimaryError("stepped down"), StoreUnavailable),
        (errors.NetworkTimeout("timed out"), StoreUnavailable),
        (errors.ServerSelectionTimeoutError("no primary"), StoreUnavailable),
        (errors.WaitQueueTimeoutError("no connection free"), StoreUnavailable),
        (errors.ExecutionTimeout("took too long", 50), StoreUnavailable),
        (errors.WTimeoutError("not replicated", 64), StoreUnavailable),
        (errors.WriteConcernError("not replicated", 100), StoreUnavailable),
        (errors.ConfigurationError("The DNS query name does not exist"), StoreUnavailable),
        (OSError("gone"), StoreUnavailable),
        (errors.OperationFailure("no such command", 59), StoreError),
        (errors.OperationFailure("bad auth", 18), StoreError),
        (errors.InvalidOperation("Cannot use AsyncMongoClient after close"), StoreError),
        (errors.ProtocolError("what?"), StoreError),
        (RuntimeError("Event loop is closed"), StoreError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_no_exception_of_the_driver_comes_through(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[StoreError]
) -> None:
    async def fail(*args: Any, **kwargs: Any) -> Any:
        raise raised

    for name in ("find_one", "insert_one", "replace_one", "delete_one"):
        monkeypatch.setattr(f"pymongo.asynchronous.collection.AsyncCollection.{name}", fail)
    monkeypatch.setattr("pymongo.asynchronous.database.AsyncDatabase.command", fail)
    for call in calls(store):
        with pytest.raises(StoreError) as caught:
            await call
        assert type(caught.value) is kind
        assert caught.value.__cause__ is raised


@pytest.mark.anyio
async def test_an_error_does_not_repeat_the_whole_answer(
    store: MongoStore, failpoint: FailPoint
) -> None:
    await failpoint.set("find", errorCode=13)
    with pytest.raises(StoreError) as caught:
        await store.open(KEY)
    assert "full error" not in str(caught.value)


@pytest.mark.anyio
async def test_a_cancelled_save_ends_with_its_write(
    store: MongoStore, failpoint: FailPoint
) -> None:
    await store.save(KEY, OLD, ttl=60)
    await failpoint.set("update", blockConnection=True, blockTimeMS=300)
    saving = asyncio.create_task(store.save(KEY, NEW, ttl=60, match=OLD[:16]))
    await asyncio.sleep(0.05)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert await store.open(KEY) == NEW


@pytest.mark.anyio
async def test_a_cancelled_read_ends_at_once(store: MongoStore, failpoint: FailPoint) -> None:
    await failpoint.set("find", blockConnection=True, blockTimeMS=300)
    began = time.monotonic()
    opening = asyncio.create_task(store.open(KEY))
    await asyncio.sleep(0.05)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert time.monotonic() - began < 0.2
    await asyncio.gather(*store._calls.tasks)
    assert not store._calls.tasks


# Clients.


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        object,
        lambda: AsyncMongoClient,
        lambda: AsyncMongoClient(),
        lambda: AsyncMongoClient()["app"],
        lambda: AsyncIOMotorClient(connect=False),
        lambda: AsyncIOMotorClient(connect=False)["app"],
        lambda: MongoClient(connect=False)["app"]["sessions"],
        lambda: {"host": "localhost"},
        lambda: b"mongodb://localhost/app",
    ],
)
def test_what_is_no_collection_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"MongoStore\(client\['app'\]\['sessions'\]\)"):
        MongoStore(make())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost", "no MongoDB URL: write MongoStore"),
        ("localhost:27017/app", "no MongoDB URL"),
        ("", "no MongoDB URL"),
        ("redis://localhost", "no MongoDB URL"),
        ("mongodb://localhost", "names no database"),
        ("mongodb://localhost/", "names no database"),
        ("mongodb://localhost?collection=a", "names no database"),
        ("mongodb://localhost/?collection=a", "names no database"),
        ("mongodb://localhost/app?collection=", "collection=sessions"),
        ("mongodb://localhost/app?collection=a%00b", "collection=sessions"),
        ("mongodb://localhost/app?collection=a%24b", "collection=sessions"),
        ("mongodb://localhost/app?colection=a", "cannot read"),
        ("mongodb://localhost/app?w=x&maxPoolSize=many", "cannot read"),
        ("mongodb://localhost:s3cret/app", "cannot read"),
        ("mongodb://user:s3/cret@localhost/app", "cannot read"),
        ("mongodb://user:s3@cret@localhost/app", "cannot read"),
        ("mongodb+srv://a.example.org,b.example.org/app", "cannot read"),
        ("mongodb+srv://a.example.org:27017/app", "cannot read"),
    ],
)
def test_urls_that_cannot_work(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        MongoStore(url)
    assert "s3" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_the_timeout_is_checked() -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        MongoStore("mongodb://localhost/app", timeout=0)
    assert MongoStore("mongodb://localhost/app", timeout=2).deadline == 2.0


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mongodb://user:s3cret@h:1,b/app?w=1", "mongodb://h:1,b/app?collection=sessions"),
        ("mongodb://user:s3cret@h/app?collection=x%2Ey&tls=true", "mongodb://h/app?collection=x.y"),
        ("mongodb+srv://u:s3cret@c.a.org/app", "mongodb+srv://c.a.org/app?collection=sessions"),
    ],
)
def test_no_secret_is_shown(url: str, shown: str) -> None:
    assert repr(MongoStore(url)) == f"MongoStore('{shown}')"


def test_the_options_of_a_url_reach_the_client() -> None:
    for given, (connect, select) in {
        "": (5.0, 5.0),
        "?connectTimeoutMS=700": (0.7, 5.0),
        "?serverselectiontimeoutms=800&collection=c": (5.0, 0.8),
    }.items():
        clients: Any = MongoStore(f"mongodb://localhost/app{given}")._clients
        options = clients._address.client().options
        assert options.pool_options.connect_timeout == connect
        assert options.server_selection_timeout == select


def test_what_a_collection_is_shown_as() -> None:
    client: Client = AsyncMongoClient("mongodb://user:s3cret@localhost", connect=False)
    assert repr(MongoStore(client.app.sessions)) == "MongoStore(<pymongo collection app.sessions>)"
    motor: Any = AsyncIOMotorClient("mongodb://user:s3cret@localhost", connect=False)
    assert repr(MongoStore(motor.app.sessions)) == "MongoStore(<motor collection app.sessions>)"


@pytest.mark.anyio
async def test_a_client_stays_open(store: MongoStore, client: Client) -> None:
    await store.open(KEY)
    await store.aclose()
    assert await client.admin.command("ping")
    assert await store.open(KEY) is None


@pytest.mark.anyio
async def test_a_closed_client_is_an_error(mongodb_url: str) -> None:
    client: Client = AsyncMongoClient(mongodb_url)
    store = MongoStore(client.get_default_database()["sessions"])
    await store.open(KEY)
    await client.close()
    for call in calls(store):
        with pytest.raises(StoreError) as caught:
            await call
        assert type(caught.value) is StoreError


# SESSION_TYPE.


@pytest.mark.parametrize("key", ["SESSION_MONGODB", "SESSION_URI"])
def test_session_type_with_a_url(key: str) -> None:
    store = store_from_config({"SESSION_TYPE": "mongodb", key: "mongodb://u:p@h/d?collection=c"})
    assert repr(store) == "MongoStore('mongodb://h/d?collection=c')"


@pytest.mark.parametrize("kind", [AsyncMongoClient, AsyncIOMotorClient])
def test_session_type_with_a_client(kind: Any) -> None:
    client = kind("mongodb://h", connect=False)
    config = {"SESSION_TYPE": "mongodb", "SESSION_MONGODB": client}
    assert "collection flask_session.sessions>" in repr(store_from_config(config))
    config |= {"SESSION_MONGODB_DB": "d", "SESSION_MONGODB_COLLECT": "c"}
    assert "collection d.c>" in repr(store_from_config(config))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "set SESSION_MONGODB to a pymongo.AsyncMongoClient"),
        ({"SESSION_MONGODB": MongoClient(connect=False)}, "AsyncMongoClient"),
        ({"SESSION_MONGODB": AsyncMongoClient()["app"]}, "AsyncMongoClient"),
        ({"SESSION_MONGODB": AsyncMongoClient, "SESSION_MONGODB_DB": "d"}, "not the class"),
        (
            {"SESSION_URI": "mongodb://h/d", "SESSION_MONGODB_DB": "e"},
            "leave out SESSION_MONGODB_DB",
        ),
        ({"SESSION_URI": "mongodb://h/d", "SESSION_MONGODB_COLLECT": "c"}, "MONGODB_COLLECT='c'"),
        (
            {"SESSION_MONGODB": AsyncMongoClient(), "SESSION_MONGODB_DB": "a b"},
            "SESSION_MONGODB_DB",
        ),
    ],
    ids=str,
)
def test_session_type_without_what_it_needs(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        store_from_config({"SESSION_TYPE": "mongodb", **config})


def calls(store: MongoStore) -> Any:
    """Yield one call of each kind, to be awaited one after the other."""
    yield store.open(KEY)
    yield store.save(KEY, NEW, ttl=60)
    yield store.save(KEY, NEW, ttl=60, match=Match.ABSENT)
    yield store.save(KEY, NEW, ttl=60, match=OLD[:16])
    yield store.delete(KEY)


def with_options(url: str, options: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{options}"
