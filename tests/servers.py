"""Real servers for the tests: private directories, free ports, stopped by their process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Return the path of a server's program. Without it: skip here, fail where CI is set."""
    path = shutil.which(name) or shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin")
    if path is None:
        message = f"{name} is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server that keeps nothing on disk, on the same port every time. `start` it first."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.port = free_port()
        self._options = options
        self._log = directory / f"{type(self).__name__}-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.kill()
                pytest.fail(self._log.read_text())
            time.sleep(0.005)

    def kill(self) -> None:
        """End the server at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Crash the server and start an empty one in its place."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Let the server live and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


class RedisServer(Server):
    """One redis-server."""

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__(directory, *options)
        self.socket = directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        command = [program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--unixsocket", str(self.socket), "--dir", str(self.directory)]
        return [*command, "--save", "", "--appendonly", "no", "--daemonize", "no", *self._options]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as s:
            s.sendall(b"PING\r\n")
            # -NOAUTH is an answer as well.
            return s.recv(16)[:1] in {b"+", b"-"}
        return False


class MemcachedServer(Server):
    """One memcached; with `unix`, on a socket in its directory and on no port."""

    def __init__(self, directory: Path, *options: str, unix: bool = False) -> None:
        super().__init__(directory, *options)
        self._unix = unix

    @property
    def address(self) -> str:
        return str(self.directory / "mc.sock") if self._unix else f"127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        where = ["-s", self.address]
        if not self._unix:
            where = ["-l", "127.0.0.1", "-p", str(self.port), "-U", "0"]
        who = ["-u", "root"] if os.geteuid() == 0 else []
        return [program("memcached"), "-t", "2", *where, *who, *self._options]

    def _answers(self) -> bool:
        family = socket.AF_UNIX if self._unix else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family) as s:
            s.connect(self.address if self._unix else ("127.0.0.1", self.port))
            s.sendall(b"version\r\n")
            return s.recv(16)[:7] == b"VERSION"
        return False


class MotoServer(Server):
    """An emulator of DynamoDB, in memory. It knows no permissions and collects nothing."""

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        return f"dynamodb://testing:s3cret@127.0.0.1:{port}/Sessions?region=eu-west-1"

    def _command(self) -> list[str]:
        if importlib.util.find_spec("moto") is None:
            if os.environ.get("CI"):
                pytest.fail("moto is not installed")
            pytest.skip("moto is not installed")
        program = Path(__file__).with_name("moto_server.py")
        return [sys.executable, str(program), str(self.port), *self._options]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False
