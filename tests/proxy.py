"""Servers for tests that say what they are told to, whatever they are asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def answering(*answers: bytes | None) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve the address of a server that answers each piece it reads with the next of `answers`.

    None closes the connection instead. Yields ``host:port`` and the pieces read so far.
    """
    script = iter(answers)
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2_000_000):
                asked.append(data)
                answer = next(script, None)
                if answer is None:
                    break
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        await asyncio.sleep(0.01)
