"""SecantusDB as a program: ``python secantus_server.py PORT DIRECTORY [auth]``.

It speaks MongoDB's protocol as a replica set of one, and keeps what it stored. Its own program
removes expired documents once a minute only, whatever it is told.
"""

from __future__ import annotations

import sys
import threading

from secantus import SecantusDBServer, commands  # type: ignore[import-untyped]

# To MongoDB a write with a number it has seen is a retry, whatever time it is given this time.
commands._RETRY_IDENTITY_IGNORED |= {"maxTimeMS"}

if __name__ == "__main__":
    server = SecantusDBServer(
        port=int(sys.argv[1]),
        storage_path=sys.argv[2],
        require_auth="auth" in sys.argv[3:],
        ttl_sweep_seconds=0.5,
    )
    server.start()
    threading.Event().wait()
