"""The table: made if it is missing, and told which attribute says when an item may go."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from botocore.exceptions import ClientError

from .._log import warn_once
from ..errors import StoreError
from ._dynamodb_errors import code_of, is_missing_table

__all__ = ["EXPIRES", "ensure_table"]

#: The attribute that DynamoDB's collector reads: epoch seconds.
EXPIRES: Final = "expires"

# AWS needs some seconds to make a table.
_POLLS: Final = 120
_BETWEEN_POLLS: Final = 0.5


async def ensure_table(client: Any, table: str) -> None:
    """Make `table` unless it is there, and switch its collection of expired items on.

    Raises:
        StoreError: the credentials do not allow one of the steps; the message names the setting.
    """
    try:
        if not await _collects(client, table):
            await _collect(client, table)
    except ClientError as exc:
        if code_of(exc) not in {"AccessDeniedException", "UnrecognizedClientException"}:
            raise
        operation = str(getattr(exc, "operation_name", "DescribeTimeToLive"))
        raise StoreError(
            f"these AWS credentials may not {operation} on the table {table!r}: allow "
            f"dynamodb:{operation}, or make the table yourself and set create_table=False "
            "(create_table=false in a URL)"
        ) from exc


async def _collects(client: Any, table: str) -> bool:
    """Tell whether expired items are collected; make the table if it is missing."""
    try:
        answer = await client.describe_time_to_live(TableName=table)
    except ClientError as exc:
        if not is_missing_table(exc):
            raise
        await _create(client, table)
        return False
    found = answer.get("TimeToLiveDescription", {})
    if found.get("TimeToLiveStatus") not in {"ENABLED", "ENABLING"}:
        return False
    if found.get("AttributeName", EXPIRES) != EXPIRES:
        # A table has one such attribute. It is not ours to take it away from somebody.
        warn_once(
            f"the DynamoDB table {table!r} collects items by their attribute "
            f"{found.get('AttributeName')!r}: sessions, which say it in {EXPIRES!r}, will stay in "
            "it for ever. Give them a table of their own"
        )
    return True


async def _create(client: Any, table: str) -> None:
    try:
        await client.create_table(
            TableName=table,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
    except ClientError as exc:
        if code_of(exc) != "ResourceInUseException":  # another process was faster
            raise
    for _ in range(_POLLS):
        try:
            answer = await client.describe_table(TableName=table)
        except ClientError as exc:
            if not is_missing_table(exc):  # a table that is being made is not seen at once
                raise
        else:
            if answer["Table"]["TableStatus"] == "ACTIVE":
                return
        await asyncio.sleep(_BETWEEN_POLLS)
    raise StoreError(f"the DynamoDB table {table!r} did not become active")


async def _collect(client: Any, table: str) -> None:
    try:
        await client.update_time_to_live(
            TableName=table,
            TimeToLiveSpecification={"Enabled": True, "AttributeName": EXPIRES},
        )
    except ClientError as exc:
        # Another process did it between our question and our request.
        if code_of(exc) != "ValidationException" or not await _collects(client, table):
            raise
