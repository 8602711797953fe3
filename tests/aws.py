"""AWS for the tests: clients as an app makes them, and a server that answers what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

from aiobotocore.client import AioBaseClient
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from async_session.stores._dynamodb_client import _loader, read_url


@contextlib.asynccontextmanager
async def client_at(url: str, service: str = "dynamodb", **config: Any) -> AsyncIterator[Any]:
    """Enter a client of aiobotocore for what a store's URL names."""
    target = read_url(url)
    session = get_session()
    # Else making it would block the loop, which is what an app does when it starts.
    session.register_component("data_loader", await asyncio.to_thread(_loader))
    await asyncio.to_thread(session.get_scoped_config)
    creator: Any = session.create_client
    async with creator(
        service,
        region_name=target.region,
        endpoint_url=target.endpoint,
        aws_access_key_id=target.access,
        aws_secret_access_key=target.secret,
        config=AioConfig(**config),
    ) as client:
        assert isinstance(client, AioBaseClient)
        yield client


class Refusal:
    """An answer of DynamoDB's that is an error; `late` seconds after the question."""

    def __init__(self, code: str, status: int = 400, *, late: float = 0.0) -> None:
        self.late = late
        self.status = status
        self.body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "as told"}


#: An answer: an error, the body of a success, or None to close the connection without one.
Answer = Refusal | dict[str, Any] | None


@contextlib.asynccontextmanager
async def answering(answers: Iterable[Answer]) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve one answer after the other; yield a store's URL, and the operations asked for."""
    script = iter(answers)
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = {name.lower(): value for name, _, value in (h.partition(": ") for h in head)}
            await reader.readexactly(int(fields["content-length"]))
            asked.append(fields["x-amz-target"].partition(".")[2])
            answer = next(script)
            if isinstance(answer, Refusal):
                await asyncio.sleep(answer.late)
                writer.write(_http(answer.status, answer.body))
            elif answer is not None:
                writer.write(_http(200, answer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"dynamodb://AKIATEST:s3cret@127.0.0.1:{port}/Sessions?region=eu-west-1", asked
    finally:
        server.close()
        await asyncio.sleep(0.01)


def _http(status: int, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} told\r\nContent-Type: application/x-amz-json-1.0\r\n"
    return f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content
