"""moto's DynamoDB as a program: ``python moto_server.py PORT``.

Two things moto's own program lacks and DynamoDB has: a write is one step with the check of its
condition, and a connection serves more than one request.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterable
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

moto = DomainDispatcherApplication(create_backend_app)
one_at_a_time = threading.Lock()


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    with one_at_a_time:
        return list(moto(environ, start_response))


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    asyncio.run(serve(application, config, mode="wsgi"))
