"""What the DynamoDB store promises beyond the contract: requests, outages, event loops."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import botocore.exceptions
import pytest
from aiobotocore.session import get_session
from aws import Answer, Refusal, answering, client_at
from blockbuster import BlockBuster
from servers import MotoServer, free_port

from async_session._flask_session import store_from_config
from async_session.errors import ConfigurationError, StoreError, StoreUnavailable
from async_session.stores import dynamodb
from async_session.stores._dynamodb_client import read_url
from async_session.stores._dynamodb_errors import translated
from async_session.stores.base import Match
from async_session.stores.dynamodb import DynamoDBStore
from async_session.stores.urls import as_store
from async_session.testing import FaultyProxy

KEY = "ab" + "0" * 62
OLD, NEW = b"old-version-0001" + b"o" * 500, b"new-version-0002" + b"n" * 500
NOWHERE = "dynamodb://AKIATEST:s3cret@127.0.0.1:1/Sessions?region=eu-west-1"
NO_TABLE = "&create_table=false"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(own_moto_server: MotoServer) -> AsyncIterator[DynamoDBStore]:
    store = DynamoDBStore(own_moto_server.url, timeout=5)
    yield store
    await store.aclose()


@pytest.fixture
def without_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let AWS's own places say nothing."""
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def run_server(call: Any) -> None:
    """Stop and start a server from a thread, as somebody else would."""
    await asyncio.to_thread(call)


def calls(store: DynamoDBStore) -> Any:
    """Yield one call of each kind, to be awaited one after the other."""
    yield store.open(KEY)
    yield store.save(KEY, NEW, ttl=60)
    yield store.save(KEY, NEW, ttl=60, match=Match.ABSENT)
    yield store.save(KEY, NEW, ttl=60, match=OLD[:16])
    yield store.delete(KEY)


# What is sent.


@pytest.mark.anyio
async def test_what_is_sent(dynamodb_url: str) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        sent.append((model.name, params))

    async with client_at(dynamodb_url) as client:
        store = DynamoDBStore(client, table="What.is-sent", clock=lambda: 1000.5, timeout=5)
        await store.open(KEY)
        client.meta.events.register("provide-client-params.dynamodb", note)
        for call in calls(store):
            await call
    item = {
        "id": {"S": KEY},
        "version": {"B": NEW[:16]},
        "data": {"B": NEW},
        # Rounded up, and five minutes for clocks that differ.
        "expires": {"N": str(1001 + 60 + 300)},
    }
    table, key = {"TableName": "What.is-sent"}, {"Key": {"id": {"S": KEY}}}
    version = {
        "ConditionExpression": "version = :v",
        "ExpressionAttributeValues": {":v": {"B": OLD[:16]}},
    }
    absent = {"ConditionExpression": "attribute_not_exists(id)"}
    assert sent == [
        ("GetItem", {**table, **key, "ConsistentRead": True}),
        ("PutItem", {**table, "Item": item}),
        ("PutItem", {**table, "Item": item, **absent}),
        ("PutItem", {**table, "Item": item, **version}),
        ("DeleteItem", {**table, **key}),
    ]


@pytest.mark.anyio
async def test_what_is_too_large_is_not_sent(dynamodb_url: str) -> None:
    sent: list[dict[str, Any]] = []

    def note(params: dict[str, Any], **_: Any) -> None:
        sent.append(params["Item"])
        raise ConnectionError("far enough")

    async with client_at(dynamodb_url) as client:
        client.meta.events.register("provide-client-params.dynamodb.PutItem", note)
        store = DynamoDBStore(client, create_table=False, clock=lambda: 10**12)
        with pytest.raises(StoreError, match=r"409472 bytes, and this session has 409473"):
            await store.save(KEY, bytes(409_473), ttl=60)
        assert sent == []
        with pytest.raises(StoreError, match="far enough"):
            await store.save(KEY, bytes(409_472), ttl=60)
    (item,) = sent
    size = sum(len(name) + len(*value.values()) for name, value in item.items())
    assert size <= 400 * 1024


@pytest.mark.anyio
async def test_a_version_has_16_bytes() -> None:
    store = DynamoDBStore(NOWHERE)
    for version in (b"", b"short", bytes(17)):
        with pytest.raises(ValueError, match="16 bytes"):
            await store.save(KEY, NEW, ttl=60, match=version)


@pytest.mark.anyio
async def test_an_item_of_somebody_else_is_an_error(dynamodb_url: str) -> None:
    async with client_at(dynamodb_url) as client:
        store = DynamoDBStore(client, timeout=5)
        for n, item in enumerate([{}, {"data": {"S": "text"}}]):
            key = f"{n}" * 64
            await store.delete(key)
            await client.put_item(TableName="Sessions", Item={"id": {"S": key}, **item})
            with pytest.raises(StoreError, match="no session"):
                await store.open(key)


# The table.


@pytest.mark.anyio
async def test_the_table_is_made_once(own_moto_server: MotoServer) -> None:
    stores = [DynamoDBStore(own_moto_server.url, timeout=10) for _ in range(5)]
    assert await asyncio.gather(*(store.open(KEY) for store in stores)) == [None] * 5
    for store in stores:
        await store.aclose()
    async with client_at(own_moto_server.url) as client:
        table = (await client.describe_table(TableName="Sessions"))["Table"]
        assert table["KeySchema"] == [{"AttributeName": "id", "KeyType": "HASH"}]
        assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        ttl = (await client.describe_time_to_live(TableName="Sessions"))["TimeToLiveDescription"]
        assert ttl == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires"}


@pytest.mark.anyio
async def test_a_table_without_collection_gets_it(own_moto_server: MotoServer) -> None:
    # Somebody made it by hand, or the process that made it died before the second step.
    async with client_at(own_moto_server.url) as client:
        await client.create_table(
            TableName="Sessions",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        store = DynamoDBStore(client, timeout=5)
        assert await store.save(KEY, OLD, ttl=60) is True
        ttl = await client.describe_time_to_live(TableName="Sessions")
        assert ttl["TimeToLiveDescription"]["TimeToLiveStatus"] == "ENABLED"


@pytest.mark.anyio
async def test_a_table_that_collects_by_another_attribute(caplog: pytest.LogCaptureFixture) -> None:
    # Flask-Session's table does. The warning comes once, so the table's name is this test's.
    other = {"TimeToLiveStatus": "ENABLED", "AttributeName": "expiration"}
    async with answering([{"TimeToLiveDescription": other}, {}]) as (url, _):
        store = DynamoDBStore(url.replace("/Sessions", "/Theirs"))
        assert await store.open(KEY) is None
        await store.aclose()
    assert "'Theirs' collects items by their attribute 'expiration'" in caplog.text


@pytest.mark.anyio
async def test_a_table_that_is_being_made_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("async_session.stores._dynamodb_table._BETWEEN_POLLS", 0.001)
    creating, active = ({"Table": {"TableStatus": s}} for s in ("CREATING", "ACTIVE"))
    missing, race = Refusal("ResourceNotFoundException"), Refusal("ValidationException")
    enabling = {"TimeToLiveDescription": {"TimeToLiveStatus": "ENABLING"}}
    in_use = Refusal("ResourceInUseException")
    # Another process is always a step ahead.
    script: list[Answer] = [missing, in_use, missing, creating, active, race, enabling, {}]
    async with answering(script) as (url, asked):
        store = DynamoDBStore(url, timeout=5)
        assert await store.open(KEY) is None
        await store.aclose()
    assert asked == [
        "DescribeTimeToLive",
        "CreateTable",
        *["DescribeTable"] * 3,
        "UpdateTimeToLive",
        "DescribeTimeToLive",
        "GetItem",
    ]


@pytest.mark.anyio
async def test_a_missing_table_that_may_not_be_made(own_moto_server: MotoServer) -> None:
    store = DynamoDBStore(own_moto_server.url + NO_TABLE, timeout=5)
    for call in calls(store):
        with pytest.raises(StoreError, match=r"'Sessions' is not there.*create_table=True") as e:
            await call
        assert type(e.value) is StoreError
    await store.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("steps", range(4))
async def test_a_missing_permission_names_the_setting(steps: int) -> None:
    before: list[Any] = [Refusal("ResourceNotFoundException"), {}]
    before.append({"Table": {"TableStatus": "ACTIVE"}})
    operation = ["DescribeTimeToLive", "CreateTable", "DescribeTable", "UpdateTimeToLive"][steps]
    async with answering([*before[:steps], Refusal("AccessDeniedException")]) as (url, _):
        store = DynamoDBStore(url)
        with pytest.raises(StoreError, match=f"dynamodb:{operation}.*create_table=False") as e:
            await store.open(KEY)
        assert type(e.value) is StoreError
        assert isinstance(e.value.__cause__, botocore.exceptions.ClientError)
        await store.aclose()


@pytest.mark.anyio
async def test_without_create_table_only_items_are_asked_for() -> None:
    async with answering([{}] * 5) as (url, asked):
        store = DynamoDBStore(url + NO_TABLE)
        for call in calls(store):
            await call
        await store.aclose()
    assert asked == ["GetItem", "PutItem", "PutItem", "PutItem", "DeleteItem"]


# What goes wrong.


@pytest.mark.anyio
@pytest.mark.parametrize("first", range(5), ids=["open", "save", "absent", "version", "delete"])
async def test_a_table_that_was_lost_is_made_again_by_any_call(
    store: DynamoDBStore, own_moto_server: MotoServer, first: int
) -> None:
    await asyncio.gather(*(store.save(KEY, OLD, ttl=60) for _ in range(5)))
    await run_server(own_moto_server.restart)
    found = [await call if n == first else call.close() for n, call in enumerate(calls(store))]
    assert found[first] == [None, True, True, False, None][first]
    assert await store.save(KEY, OLD, ttl=60) is True
    assert await store.save(KEY, NEW, ttl=60, match=OLD[:16]) is True
    assert await store.open(KEY) == NEW


@pytest.mark.anyio
async def test_a_dead_server_is_unavailable_at_once(
    store: DynamoDBStore, own_moto_server: MotoServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    await run_server(own_moto_server.kill)
    began = time.monotonic()
    for call in calls(store):
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert isinstance(caught.value.__cause__, botocore.exceptions.BotoCoreError)
    assert time.monotonic() - began < 0.5


@pytest.mark.anyio
async def test_a_frozen_server_costs_no_more_than_the_deadline(
    store: DynamoDBStore, own_moto_server: MotoServer
) -> None:
    await store.save(KEY, OLD, ttl=60)
    quick = DynamoDBStore(own_moto_server.url, timeout=0.5)
    while True:  # making the first client may take longer
        try:
            await quick.open(KEY)
            break
        except StoreUnavailable:
            continue
    own_moto_server.freeze()
    try:
        for call in calls(quick):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await call
            assert 0.45 < time.monotonic() - began < 0.8
    finally:
        own_moto_server.thaw()
    # What was sent to it may still arrive; answers to the calls given up do not.
    await asyncio.sleep(0.3)
    assert await store.save(KEY, NEW, ttl=60) is True
    assert await quick.open(KEY) == NEW
    await quick.aclose()


@pytest.mark.anyio
async def test_what_takes_longer_than_a_call_is_done_for_the_next(
    own_moto_server: MotoServer,
) -> None:
    store = DynamoDBStore(own_moto_server.url, timeout=0.3)
    own_moto_server.freeze()
    try:
        waiting = (store.save(KEY, OLD, ttl=60) for _ in range(3))
        for found in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(found, StoreUnavailable)
            assert "was not ready" in str(found)
    finally:
        own_moto_server.thaw()
    for _ in range(50):
        try:
            assert await store.open(KEY) is None
            break
        except StoreUnavailable:
            continue
    else:
        pytest.fail("it was never ready")
    await store.aclose()


@pytest.mark.anyio
async def test_a_failure_that_nobody_waited_for_is_told_to_the_next() -> None:
    denied = Refusal("AccessDeniedException", late=0.3)
    async with answering([denied, Refusal("AccessDeniedException")]) as (url, asked):
        store = DynamoDBStore(url, timeout=0.25)
        with pytest.raises(StoreUnavailable, match="not ready"):
            await store.open(KEY)
        await asyncio.sleep(0.4)
        for times in (1, 2):  # told once, then tried again
            with pytest.raises(StoreError, match="create_table=False"):
                await store.open(KEY)
            assert len(asked) == times
        await store.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", range(5), ids=["open", "any", "absent", "version", "delete"])
async def test_only_reads_and_deletes_are_sent_again(kind: int) -> None:
    # The connection breaks after the request was read: was it carried out?
    async with answering([None, {}]) as (url, asked):
        store = DynamoDBStore(url + NO_TABLE)
        call = [c if n == kind else c.close() for n, c in enumerate(calls(store))][kind]
        if kind in {0, 4}:
            assert await call is None
        else:
            with pytest.raises(StoreUnavailable):
                await call
        await store.aclose()
    assert len(asked) == (2 if kind in {0, 4} else 1)


@pytest.mark.anyio
@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "ThrottlingException"])
async def test_what_was_throttled_is_sent_again(code: str) -> None:
    throttled, refused = Refusal(code), Refusal("ConditionalCheckFailedException")
    script: list[Answer] = [throttled, throttled, {}, *[throttled] * 4, *[throttled] * 3, refused]
    async with answering(script) as (url, asked):
        store = DynamoDBStore(url + NO_TABLE, timeout=5)
        assert await store.save(KEY, NEW, ttl=60, match=Match.ABSENT) is True
        assert len(asked) == 3
        with pytest.raises(StoreUnavailable, match=code):
            await store.save(KEY, NEW, ttl=60)
        assert len(asked) == 7
        # An answer to the last try is an answer.
        assert await store.save(KEY, NEW, ttl=60, match=Match.ABSENT) is False
        await store.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("InternalServerError", 500, StoreUnavailable),
        ("SomethingNobodyKnows", 502, StoreUnavailable),
        ("ServiceUnavailable", 503, StoreUnavailable),
        ("RequestLimitExceeded", 400, StoreUnavailable),
        ("ReplicatedWriteConflictException", 400, StoreUnavailable),
        ("AccessDeniedException", 400, StoreError),
        ("UnrecognizedClientException", 400, StoreError),
        ("InvalidSignatureException", 400, StoreError),
        ("ExpiredTokenException", 400, StoreError),
        ("ValidationException", 400, StoreError),
    ],
)
async def test_no_exception_of_the_driver_comes_through(
    code: str, status: int, kind: type[StoreError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamodb, "_PAUSES", (0.0,))
    async with answering(itertools.repeat(Refusal(code, status))) as (url, _):
        store = DynamoDBStore(url + NO_TABLE, timeout=5)
        for call in calls(store):
            with pytest.raises(StoreError, match=code) as caught:
                await call
            assert type(caught.value) is kind
            assert isinstance(caught.value.__cause__, botocore.exceptions.ClientError)
            assert "s3cret" not in str(caught.value)
        await store.aclose()


@pytest.mark.anyio
async def test_no_credentials(without_aws: None, blockbuster: BlockBuster) -> None:
    blockbuster.deactivate()  # aiobotocore looks for its small files in the event loop
    store = DynamoDBStore("dynamodb:///Sessions?region=eu-west-1&create_table=false", timeout=5)
    with pytest.raises(StoreError, match="no AWS credentials") as caught:
        await store.open(KEY)
    assert type(caught.value) is StoreError
    await store.aclose()


@pytest.mark.anyio
async def test_a_port_where_nobody_listens() -> None:
    url = f"dynamodb://a:b@127.0.0.1:{free_port()}/Sessions?region=eu-west-1"
    store = DynamoDBStore(url, timeout=1)
    for call in calls(store):
        with pytest.raises(StoreUnavailable):
            await call
    await store.aclose()


@pytest.mark.anyio
async def test_a_connection_that_breaks_at_any_byte(dynamodb_url: str) -> None:
    port = int(str(read_url(dynamodb_url).endpoint).rpartition(":")[2])
    direct = DynamoDBStore(dynamodb_url, timeout=5)
    async with FaultyProxy(port) as proxy:
        through = DynamoDBStore(dynamodb_url.replace(f":{port}/", f":{proxy.port}/"))
        through.deadline = 5
        assert await through.save(KEY, OLD, ttl=60) is True
        version, outcomes = OLD, set[tuple[bool, bool]]()
        for side, at in itertools.product(("cut_requests", "cut_replies"), range(1, 1700, 37)):
            proxy.reset()
            await asyncio.sleep(0.005)
            setattr(proxy, side, at)
            new = b"%016d" % at + random.Random(at).randbytes(300)
            try:
                acknowledged = await through.save(KEY, new, ttl=60, match=version[:16])
                assert acknowledged is True
            except StoreUnavailable:
                acknowledged = False
            setattr(proxy, side, None)
            found = await direct.open(KEY)
            assert found in {new, version}
            outcomes.add((acknowledged, found == new))
            proxy.reset()
            await asyncio.sleep(0.005)
            assert await through.open(KEY) == found
            version = found
        await through.aclose()
    # Never acknowledged and not stored; all else happens.
    assert outcomes == {(True, True), (False, True), (False, False)}
    await direct.aclose()


# Clients and URLs.


@pytest.mark.parametrize(
    ("client", "what"),
    [
        (None, "NoneType"),
        (object(), "object"),
        (DynamoDBStore, "the class DynamoDBStore"),
        ({"region": "eu-west-1"}, "dict"),
        (b"dynamodb:///Sessions", "bytes"),
    ],
)
def test_what_is_no_client_is_refused(client: Any, what: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{what}: write DynamoDBStore"):
        DynamoDBStore(client)


def test_clients_of_other_packages_are_refused() -> None:
    options: dict[str, Any] = {
        "region_name": "eu-west-1",
        "aws_access_key_id": "a",
        "aws_secret_access_key": "b",
    }
    wrong: list[Any] = [
        boto3.client("dynamodb", **options),
        boto3.resource("dynamodb", **options),
        # Without `async with` it is no client yet.
        get_session().create_client("dynamodb", **options),
    ]
    for client in wrong:
        with pytest.raises(ConfigurationError, match=r"async with get_session\(\)"):
            DynamoDBStore(client)
        with pytest.raises(ConfigurationError):
            as_store(client)
    gc.collect()


@pytest.mark.anyio
async def test_a_client_for_another_service_is_refused(blockbuster: BlockBuster) -> None:
    blockbuster.deactivate()  # its description is not read beforehand
    async with client_at(NOWHERE, "sts") as client:
        with pytest.raises(ConfigurationError, match="a client for sts"):
            DynamoDBStore(client)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "Sessions",
        "dynamodb:Sessions",
        "redis://localhost",
        "dynamodb://:8000/Sessions?region=eu-west-1",
        "dynamodb://access@host/Sessions?region=eu-west-1",
        "dynamodb://a:s3/cret@host/Sessions?region=eu-west-1",
        "dynamodb://a:8/s3cret@host/Sessions?region=eu-west-1",
        "dynamodb://a:s3cret@/Sessions?region=eu-west-1",
        "dynamodb://host/s3cret/Sessions?region=eu-west-1",
        "dynamodb://host/ab?region=eu-west-1",
        "dynamodb://host/Sessions?region=eu-west-1#s3cret",
        "dynamodb://host/Sessions?region=eu-west-1&s3cret=1",
        "dynamodb://host/Sessions?region=eu-west-1&region=eu-west-2",
        "dynamodb://host/Sessions?region=eu-west-1&tls=s3cret",
        "dynamodb:///Sessions?region=eu-west-1&tls=false",
    ],
)
def test_urls_that_cannot_be_read(url: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"write|option|percent|credentials|tls="
    ) as caught:
        DynamoDBStore(url)
    assert "s3" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "shown", "endpoint", "table"),
    [
        ("///A.b-c_1?", "///", None, "A.b-c_1"),
        ("///?", "///", None, "Sessions"),
        ("//?", "///", None, "Sessions"),
        ("//a:s3%2F%2B%23@db.example/Tab?", "//db.example/", "https://db.example", "Tab"),
        ("//localhost:8000/Tab?", "//localhost:8000/", "http://localhost:8000", "Tab"),
        ("//[::1]:8000/Tab?", "//[::1]:8000/", "http://[::1]:8000", "Tab"),
        ("//h:1/Tab?tls=false&", "//h:1/", "http://h:1", "Tab"),
        ("//127.0.0.1:1/Tab?tls=true&", "//127.0.0.1:1/", "https://127.0.0.1:1", "Tab"),
    ],
)
def test_what_a_url_says(url: str, shown: str, endpoint: str | None, table: str) -> None:
    url = f"dynamodb:{url}region=eu-west-1"
    target = read_url(url)
    assert target.endpoint == endpoint
    assert target.secret == ("s3/+#" if "s3" in url else None)
    store, owned = as_store(url)
    assert repr(store) == f"DynamoDBStore('dynamodb:{shown}?region=eu-west-1', table={table!r})"
    assert owned is True


def test_tables_and_options() -> None:
    assert "'Mine'" in repr(DynamoDBStore("dynamodb:///?region=r", table="Mine"))
    assert "'Mine'" in repr(DynamoDBStore("dynamodb:///Mine?region=r", table="Mine"))
    with pytest.raises(ConfigurationError, match="two different tables"):
        DynamoDBStore("dynamodb:///Mine?region=r", table="Other")
    for table in ("ab", "a b c", "x" * 256, "", 7):
        with pytest.raises(ConfigurationError, match="3 to 255"):
            DynamoDBStore(NOWHERE.replace("/Sessions", ""), table=table)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="timeout"):
        DynamoDBStore(NOWHERE, timeout=0)
    assert DynamoDBStore(NOWHERE, timeout=2).deadline == 2.0


def test_the_region_may_come_from_the_environment(
    without_aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match=r"\?region=eu-west-1"):
        DynamoDBStore("dynamodb:///Sessions")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    assert "region=eu-north-1" in repr(DynamoDBStore("dynamodb:///Sessions"))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigurationError, match="nobody"):
        DynamoDBStore("dynamodb:///Sessions")


@pytest.mark.anyio
async def test_flask_sessions_keys(dynamodb_url: str) -> None:
    config: dict[str, Any] = {"SESSION_TYPE": "dynamodb"}
    with pytest.raises(ConfigurationError, match="SESSION_DYNAMODB"):
        store_from_config(config)
    config["SESSION_URI"] = "dynamodb://h/FromURI?region=r"
    assert "'FromURI'" in repr(store_from_config(config))
    config["SESSION_DYNAMODB"] = "dynamodb://h?region=r"
    assert "'Sessions'" in repr(store_from_config(config))
    config["SESSION_DYNAMODB_TABLE"] = "Named"
    assert "'Named'" in repr(store_from_config(config))
    async with client_at(dynamodb_url) as client:
        store = store_from_config({**config, "SESSION_DYNAMODB": client})
        assert repr(store) == "DynamoDBStore(<aiobotocore client>, table='Named')"


@pytest.mark.anyio
async def test_a_client_stays_open(dynamodb_url: str) -> None:
    async with client_at(dynamodb_url) as client:
        store = DynamoDBStore(client, timeout=5)
        await store.open(KEY)
        await store.aclose()
        await client.describe_table(TableName="Sessions")
        assert await store.open("c" * 64) is None


def test_a_client_that_was_closed_is_explained() -> None:
    # Newer aiobotocore answers so; older opens a closed client again.
    closed = botocore.exceptions.HTTPClientError(error=RuntimeError("Session is closed"))
    error = translated(closed, table="Sessions", owned=False)
    assert type(error) is StoreError
    assert "until it is closed" in str(error)


# Event loops. Warnings are errors in this suite, also those of the garbage collector.


def connections(port: int) -> int:
    """Return how many connections of this machine to `port` are open."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    open_, to = "01", f":{port:04X}"
    return sum(line.split()[2].endswith(to) and line.split()[3] == open_ for line in table)


@pytest.mark.anyio
async def test_connections_of_its_own_are_closed(own_moto_server: MotoServer) -> None:
    port = own_moto_server.port
    store = DynamoDBStore(own_moto_server.url, timeout=5)
    await asyncio.gather(*(store.open(KEY) for _ in range(5)))
    assert await asyncio.to_thread(connections, port) >= 1
    lanes = list(store._lanes.values())  # held, or the garbage collector would close them
    await store.aclose()
    await store.aclose()
    await asyncio.sleep(0.05)
    assert await asyncio.to_thread(connections, port) == 0
    assert len(lanes) == 1
    assert await store.open(KEY) is None, "it may be used again"
    await store.aclose()


@pytest.mark.anyio
async def test_closing_while_it_is_made_ready(own_moto_server: MotoServer) -> None:
    for pause in (0.0, 0.01, 0.05, 0.1):
        store = DynamoDBStore(own_moto_server.url, timeout=5)
        task = asyncio.ensure_future(store.open(KEY))
        await asyncio.sleep(pause)
        await store.aclose()
        (found,) = await asyncio.gather(task, return_exceptions=True)
        assert found is None or isinstance(found, StoreError)
        assert await store.open(KEY) is None
        await store.aclose()


def test_a_loop_per_call(own_moto_server: MotoServer) -> None:
    # As Starlette's TestClient does it when it is not used in a `with`.
    store = DynamoDBStore(own_moto_server.url, timeout=5)
    for number in range(5):
        value = OLD + b"%d" % number
        assert asyncio.run(store.save(KEY, value, ttl=60)) is True
        assert asyncio.run(store.open(KEY)) == value
        gc.collect()
    time.sleep(0.05)
    assert connections(own_moto_server.port) == 0


def test_loops_that_are_closed_without_a_word(own_moto_server: MotoServer) -> None:
    store = DynamoDBStore(own_moto_server.url, timeout=5)
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.save(KEY, OLD, ttl=60))
        loop.close()
    assert asyncio.run(store.open(KEY)) == OLD
    gc.collect()
    time.sleep(0.05)
    assert connections(own_moto_server.port) == 0


def test_two_loops_at_once(own_moto_server: MotoServer) -> None:
    store = DynamoDBStore(own_moto_server.url, timeout=10)

    async def other_loop() -> list[bytes | None]:
        return list(await asyncio.gather(*(store.open(KEY) for _ in range(20))))

    async def main() -> None:
        await store.save(KEY, OLD, ttl=60)
        elsewhere = [asyncio.to_thread(asyncio.run, other_loop()) for _ in range(3)]
        for found in await asyncio.gather(*elsewhere, other_loop()):
            assert found == [OLD] * 20

    asyncio.run(main())
    gc.collect()


def test_a_client_on_a_second_loop_is_explained(own_moto_server: MotoServer) -> None:
    async def second(store: DynamoDBStore) -> None:
        with pytest.raises(StoreError, match="another event loop"):
            await store.open(KEY)

    async def main() -> None:
        async with client_at(own_moto_server.url) as client:
            store = DynamoDBStore(client, timeout=5)
            await store.open(KEY)
            await asyncio.to_thread(asyncio.run, second(store))

    asyncio.run(main())
