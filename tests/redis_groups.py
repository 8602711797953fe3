"""Several redis-servers that act as one: a cluster, and a primary that Sentinels watch."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import RedisServer, program


def ask(port: int, *words: str) -> str:
    """Send one command, as text, and return the raw answer."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\n")
        return connection.recv(65536).decode()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, no two the same."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def until(true: Callable[[], bool], *, seconds: float = 20) -> None:
    """Wait until something is so, or fail."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            pytest.fail("the servers did not get there in time")
        time.sleep(0.02)


def cut_off(replica: RedisServer, primary: RedisServer) -> None:
    """Let a replica learn nothing more, as a network does that breaks before its primary does."""
    replica.freeze()
    # What is in the replica's socket it would read after its thaw; what is written now is not.
    ask(primary.port, "CLIENT KILL TYPE replica")


class RedisCluster:
    """Six servers: three primaries with a replica each."""

    def __init__(self, directory: Path) -> None:
        self.servers: list[RedisServer] = []
        ports = free_ports(12)
        for number in range(6):
            home = directory / f"node-{number}"
            home.mkdir()
            server = RedisServer(
                home,
                *("--cluster-enabled", "yes", "--cluster-node-timeout", "500"),
                *("--cluster-port", str(ports.pop()), "--repl-diskless-sync-delay", "0"),
            )
            server.port = ports.pop()
            self.servers.append(server)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{s.port}" for s in self.servers[:3])

    @property
    def ports(self) -> list[int]:
        return [server.port for server in self.servers]

    def start(self) -> None:
        for server in self.servers:
            server.start()
        addresses = [f"127.0.0.1:{server.port}" for server in self.servers]
        command = [program("redis-cli"), "--cluster", "create", *addresses]
        made = subprocess.run(
            [*command, "--cluster-replicas", "1", "--cluster-yes"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        self._until_ready()

    def restart(self) -> None:
        """Crash all of them at once; they start empty, and know each other."""
        self.kill()
        for server in self.servers:
            server.start()
        self._until_ready()

    def _until_ready(self) -> None:
        until(lambda: all("cluster_state:ok" in ask(s.port, "CLUSTER INFO") for s in self.servers))
        until(lambda: all("connected" in ask(s.port, "ROLE") for s in self.replicas()))

    def primaries(self) -> list[RedisServer]:
        return [s for s in self._running() if "master" in ask(s.port, "ROLE")[:20]]

    def replicas(self) -> list[RedisServer]:
        return [s for s in self._running() if "slave" in ask(s.port, "ROLE")[:20]]

    def replica_of(self, primary: RedisServer) -> RedisServer:
        (found,) = [s for s in self.replicas() if f"\r\n:{primary.port}\r\n" in ask(s.port, "ROLE")]
        return found

    def _running(self) -> list[RedisServer]:
        return [server for server in self.servers if server._process is not None]

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


class Sentinel(RedisServer):
    """One Sentinel that watches a primary called mymaster."""

    def __init__(self, directory: Path, primary: RedisServer, *, port: int) -> None:
        super().__init__(directory)
        self.port = port
        self._config = directory / "sentinel.conf"
        self._config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor mymaster 127.0.0.1 {primary.port} 2\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 2000\n"
        )

    def _command(self) -> list[str]:
        return [program("redis-server"), str(self._config), "--sentinel"]


class SentinelTrio:
    """A primary with a replica, and three Sentinels."""

    def __init__(self, directory: Path) -> None:
        homes = [directory / name for name in ("primary", "replica", "s0", "s1", "s2")]
        for home in homes:
            home.mkdir()
        ports = free_ports(5)
        self.primary = RedisServer(homes[0], "--repl-diskless-sync-delay", "0")
        self.primary.port = ports.pop()
        self.replica = RedisServer(homes[1], "--replicaof", "127.0.0.1", str(self.primary.port))
        self.replica.port = ports.pop()
        self.sentinels = [Sentinel(home, self.primary, port=ports.pop()) for home in homes[2:]]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/mymaster"

    def start(self) -> None:
        self.primary.start()
        self.replica.start()
        until(lambda: "connected" in ask(self.replica.port, "ROLE"))
        for sentinel in self.sentinels:
            sentinel.start()
        until(lambda: all(map(self._knows_all, self.sentinels)))

    def restart(self) -> None:
        """Crash all of them at once; they start empty, and know each other."""
        self.kill()
        self.start()

    @property
    def ports(self) -> list[int]:
        return [sentinel.port for sentinel in self.sentinels]

    def primaries(self) -> list[RedisServer]:
        return [self.primary]

    def replica_of(self, primary: RedisServer) -> RedisServer:
        return self.replica

    def _knows_all(self, sentinel: Sentinel) -> bool:
        said = ask(sentinel.port, "SENTINEL MASTERS").replace("\r\n", " ")
        return "num-slaves $1 1" in said and "num-other-sentinels $1 2" in said

    def kill(self) -> None:
        for server in (*self.sentinels, self.primary, self.replica):
            server.kill()
