"""Sessions in DynamoDB, by way of aiobotocore."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable
from typing import Any, Final, cast

from .._aio import deadline, run_to_completion
from ..errors import ConfigurationError, SessionError, StoreError, StoreUnavailable
from .base import VERSION_SIZE, Match

try:
    from aiobotocore.client import AioBaseClient

    from . import _dynamodb_errors as errors
    from ._dynamodb_client import Target, check_client, check_table, client_of, read_url
    from ._dynamodb_lane import Lane
    from ._dynamodb_table import EXPIRES, ensure_table
except ImportError as exc:
    raise ConfigurationError(
        "DynamoDBStore needs aiobotocore: pip install 'async_session[dynamodb]'"
    ) from exc

__all__ = ["DynamoDBStore"]

# DynamoDB takes items of 400 KiB, the names of the attributes counted. The rest of ours needs
# 121 bytes at most.
_LARGEST: Final = 400 * 1024 - 128
# AWS answers requests of a machine whose clock is some minutes wrong. What a clock that is slow
# says must not let a session go early.
_CLOCKS_DIFFER: Final = 300
# How long to wait before a throttled request is sent again. A longer throttling is an outage.
_PAUSES: Final = (0.05, 0.1, 0.2)


class DynamoDBStore:
    """Keep sessions in a DynamoDB table, one item a session. Runs on asyncio.

    Args:
        client: an open DynamoDB client of aiobotocore, which is used and never closed; or a URL,
            ``dynamodb:///table?region=eu-west-1`` with credentials from the usual AWS places, or
            ``dynamodb://access:secret@host:port/table?region=eu-west-1``. A host is spoken to by
            https, a loopback address by http, unless ``tls=`` says otherwise. From a URL the store
            makes a client of its own for every event loop it is used on, when it is first used
            there.
        table: the table's name, if the URL does not say it. Default: ``Sessions``.
        create_table: make the table on first use if it is missing (paid by request), and switch
            its collection of expired items on. False asks for no permission but those to read,
            write and delete items. ``create_table=`` in a URL goes before it.
        timeout: seconds. Every call ends by then, with `StoreUnavailable` if DynamoDB has not
            answered. Also readable as `deadline`.
        clock: the time in seconds since the epoch.

    Raises:
        ConfigurationError: `client` is neither, the URL cannot be read, or no region is named.

    A request goes out once, and is sent again only where that changes nothing: reads and deletes
    whose answer was lost, and requests that were throttled. A client of yours has retries of its
    own; make it with ``AioConfig(retries={"total_max_attempts": 1})``.
    """

    def __init__(
        self,
        client: AioBaseClient | str,
        *,
        table: str | None = None,
        create_table: bool = True,
        timeout: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if timeout <= 0:
            raise ConfigurationError(f"timeout must be more than 0 seconds, not {timeout}")
        #: Every call ends within this many seconds.
        self.deadline = float(timeout)
        self._target: Target | None = None
        self._client: AioBaseClient | None = None
        if isinstance(client, str):
            self._target = target = read_url(client)
            if table is not None and target.table not in {None, table}:
                raise ConfigurationError("table= and the URL name two different tables")
            table = target.table or table
            create_table = create_table if target.create_table is None else target.create_table
        else:
            check_client(client)
            self._client = client
        self._table = "Sessions" if table is None else table
        check_table(self._table)
        self._creates = create_table
        self._is_seen = False
        self._clock = clock
        self._lanes: dict[asyncio.AbstractEventLoop, Lane] = {}

    def __repr__(self) -> str:
        shown = "<aiobotocore client>" if self._target is None else repr(self._target.shown)
        return f"DynamoDBStore({shown}, table={self._table!r})"

    async def open(self, key: str, /) -> bytes | None:
        """Return the value under `key`, or None if there is none."""
        key_of_item = {"id": {"S": key}}
        answer = await self._call("get_item", again=True, Key=key_of_item, ConsistentRead=True)
        item = answer.get("Item")
        if item is None:
            return None
        try:
            return bytes(item["data"]["B"])
        except (KeyError, TypeError) as exc:
            raise StoreError(
                f"the DynamoDB table {self._table!r} holds an item that is no session"
            ) from exc

    async def save(
        self, key: str, data: bytes, /, *, ttl: int, match: Match | bytes = Match.ANY
    ) -> bool:
        """Store `data` under `key` for `ttl` seconds if `match` holds; return whether it did.

        Cancelled, it ends only when DynamoDB has answered, or at the deadline.
        """
        if isinstance(match, bytes) and len(match) != VERSION_SIZE:
            raise ValueError(f"a version is {VERSION_SIZE} bytes, not {len(match)}")
        if len(data) > _LARGEST:
            raise StoreError(
                f"DynamoDB takes no more than {_LARGEST} bytes, and this session has {len(data)}: "
                "keep less in it, or choose another store"
            )
        expires = math.ceil(self._clock()) + ttl + _CLOCKS_DIFFER
        item = {
            "id": {"S": key},
            "version": {"B": data[:VERSION_SIZE]},
            "data": {"B": data},
            EXPIRES: {"N": str(expires)},
        }
        saving = self._call("put_item", Item=item, **_condition(match))
        return await run_to_completion(saving) is not None

    async def delete(self, key: str, /) -> None:
        """Remove `key`; a key that is not there is no error.

        Cancelled, it ends only when DynamoDB has answered, or at the deadline.
        """
        await run_to_completion(self._call("delete_item", again=True, Key={"id": {"S": key}}))

    async def aclose(self) -> None:
        """Close the client that the store made on this event loop; never one it was given.

        Those of other loops are closed when their loop ends. The store may be used again.
        """
        lane = self._lanes.pop(asyncio.get_running_loop(), None)
        if lane is not None:
            await lane.close()

    async def _call(self, operation: str, *, again: bool = False, **parameters: Any) -> Any:
        """Make one request within the deadline; translate what fails.

        Returns:
            DynamoDB's answer; None if the request's condition did not hold.
        """
        parameters["TableName"] = self._table
        lane: Lane | None = None
        try:
            async with deadline(self.deadline):
                lane = self._lane()
                ready = lane.ready()
                client = await lane.client(ready)
                try:
                    return await _send(client, operation, parameters, again=again)
                except Exception as exc:
                    if not (self._creates and errors.is_missing_table(exc)):
                        raise
                # Somebody removed the table, so nothing was done. Make it, and go on.
                self._is_seen = False
                client = await lane.client(lane.ready(instead_of=ready))
                return await _send(client, operation, parameters, again=again)
        except TimeoutError as exc:
            if lane is None or lane.is_ready:
                late = "DynamoDB did not answer"
            else:
                late = "DynamoDB was not ready (client, credentials, table)"
            raise StoreUnavailable(f"{late} within {self.deadline:g} s") from exc
        except SessionError:
            raise
        except Exception as exc:
            owned = self._target is not None
            raise errors.translated(exc, table=self._table, owned=owned) from exc

    def _lane(self) -> Lane:
        """Return what belongs to the running event loop; forget the loops that were closed."""
        running = asyncio.get_running_loop()
        lane = self._lanes.get(running)
        if lane is not None:
            return lane
        if self._client is not None and self._lanes:
            raise StoreError(
                "this DynamoDB client was used in another event loop, and serves one only: write "
                "DynamoDBStore('dynamodb:///...') to have a client per event loop"
            )
        for loop in [loop for loop in self._lanes if loop.is_closed()]:
            self._lanes.pop(loop).abandon()
        if self._target is None:
            lane = Lane(cast("AioBaseClient", self._client), self._see_table)
        else:
            lane = Lane(functools.partial(client_of, self._target), self._see_table)
        self._lanes[running] = lane
        return lane

    async def _see_table(self, client: AioBaseClient) -> None:
        if self._creates and not self._is_seen:
            await ensure_table(client, self._table)
            self._is_seen = True


async def _send(client: Any, operation: str, parameters: dict[str, Any], *, again: bool) -> Any:
    """Send a request once, and again where that changes nothing.

    `again` says that it may be carried out twice.
    """
    request = getattr(client, operation)
    pauses = iter(_PAUSES)
    while True:
        try:
            return await request(**parameters)
        except Exception as exc:
            if errors.code_of(exc) == "ConditionalCheckFailedException":
                return None
            if errors.is_throttled(exc) and (pause := next(pauses, None)) is not None:
                await asyncio.sleep(pause)
            elif again and errors.is_lost(exc):
                again = False
            else:
                raise


def _condition(match: Match | bytes) -> dict[str, Any]:
    if match is Match.ANY:
        return {}
    if match is Match.ABSENT:
        return {"ConditionExpression": "attribute_not_exists(id)"}
    return {
        "ConditionExpression": "version = :v",
        "ExpressionAttributeValues": {":v": {"B": match}},
    }
