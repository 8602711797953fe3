"""What botocore's exceptions mean to a store."""

from __future__ import annotations

from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)

from ..errors import SessionError, StoreError, StoreUnavailable

__all__ = ["code_of", "is_lost", "is_missing_table", "is_throttled", "translated"]

# Refused before anything was done: the same request may be sent again, whatever it is.
_THROTTLED: Final = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
    }
)
_PASSING: Final = _THROTTLED | {
    "InternalServerError",
    "LimitExceededException",
    "ReplicatedWriteConflictException",
    "ServiceUnavailable",
    "TransactionConflictException",
}
# botocore's, of which the first is no relation of Python's own.
_NETWORK: Final = (ConnectionError, HTTPClientError)


def code_of(exc: BaseException) -> str:
    """Return DynamoDB's name for an error; an empty string if it is not DynamoDB's."""
    if not isinstance(exc, ClientError):
        return ""
    return str(exc.response.get("Error", {}).get("Code", ""))


def is_throttled(exc: BaseException) -> bool:
    """Tell whether DynamoDB did nothing because it was asked too much at once."""
    return code_of(exc) in _THROTTLED


def is_missing_table(exc: BaseException) -> bool:
    """Tell whether the table is not there. An emulator leaves the end of the name out."""
    return code_of(exc).startswith("ResourceNotFound")


def is_lost(exc: BaseException) -> bool:
    """Tell whether nobody knows if the request was carried out."""
    if isinstance(exc, _NETWORK):
        return not _is_misused(exc)
    return _status(exc) >= 500 and not is_throttled(exc)


def translated(exc: Exception, *, table: str, owned: bool) -> SessionError:
    """Return the error to raise for `exc`; `owned` says that the store made the client."""
    if isinstance(exc, SessionError):
        return exc
    if is_missing_table(exc):
        return StoreError(
            f"the DynamoDB table {table!r} is not there: make it (partition key 'id', a string), "
            "or let the store make it with create_table=True"
        )
    code = code_of(exc)
    if code:
        if code in _PASSING or _status(exc) >= 500:
            return StoreUnavailable(f"DynamoDB is not available: {code}")
        return StoreError(f"DynamoDB refused: {exc}")
    if isinstance(exc, NoCredentialsError | PartialCredentialsError):
        return StoreError(
            "no AWS credentials: put them where AWS's own tools look (environment, shared file, "
            "the role of the machine), or access:secret@ into the URL"
        )
    if isinstance(exc, CredentialRetrievalError | MetadataRetrievalError):
        return StoreUnavailable(f"the AWS credentials cannot be had: {type(exc).__name__}")
    if isinstance(exc, _NETWORK) and not _is_misused(exc):
        return StoreUnavailable(f"DynamoDB cannot be reached: {exc}")
    if owned:
        return StoreError(f"the DynamoDB client failed: {exc}")
    return StoreError(
        f"the DynamoDB client failed: {exc}. A client serves the event loop in which it was "
        "entered, and until it is closed: write DynamoDBStore('dynamodb:///...') to have a client "
        "per event loop"
    )


def _is_misused(exc: BotoCoreError) -> bool:
    """Tell whether the client was closed, or used in another event loop; no network fails so."""
    cause = exc.kwargs.get("error") if type(exc) is HTTPClientError else None
    return isinstance(cause, AttributeError | RuntimeError | TypeError)


def _status(exc: BaseException) -> int:
    if not isinstance(exc, ClientError):
        return 0
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
