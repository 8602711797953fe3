"""As a program, ``python delayed.py PORT``: a proxy to that port with a trip of 1 ms.

It prints its own port, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys


async def _serve(target: int) -> None:
    from async_session.testing import FaultyProxy

    async with FaultyProxy(target, delay=0.0005) as proxy:
        print(proxy.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
