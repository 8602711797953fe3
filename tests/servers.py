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
import tempfile
import time
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pytest
from redis.asyncio.connection import AbstractConnection

from async_session.stores._redis_drivers import _no_setinfo

#: What a client of redis-py is made with, or it looks up its own version on the disk, in the event
#: loop, for every connection.
QUIET: dict[str, Any] = {**_no_setinfo(AbstractConnection)}


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

    @property
    def ports(self) -> list[int]:
        return [self.port]

    @property
    def url(self) -> str:
        """Where it is, as a store is told."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = self._run(log)
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
        # Its threads stop one after the other; one that still runs would answer.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _run(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command(), stdout=log, stderr=log)

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
            answer = s.recv(16)
            # -NOAUTH is an answer as well; -LOADING says to ask later.
            return answer[:1] in {b"+", b"-"} and not answer.startswith(b"-LOADING")
        return False


class MemcachedServer(Server):
    """One memcached; with `unix`, on a socket in its directory and on no port."""

    def __init__(self, directory: Path, *options: str, unix: bool = False) -> None:
        super().__init__(directory, *options)
        self._unix = unix

    @property
    def address(self) -> str:
        return str(self.directory / "mc.sock") if self._unix else f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"memcached://{self.address}"

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


class PostgreSQLServer(Server):
    """One PostgreSQL with user ``app``; it keeps its data until `remove`.

    It refuses to run as root, so root starts it as Debian's user ``postgres``, in a directory that
    this user can reach.
    """

    PASSWORD = "s3cret:/@"

    def __init__(self, *options: str) -> None:
        directory = Path(tempfile.mkdtemp(prefix="async-session-postgresql-"))
        super().__init__(directory, *options)
        self._data = directory / "data"
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(directory, self._user, self._user)

    @property
    def url(self) -> str:
        return self.url_of("app", self.PASSWORD)

    def url_of(self, user: str, password: str, database: str = "postgres") -> str:
        password = quote(password, safe="")
        # Without TLS: asyncpg would look for certificates in the home directory.
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def start(self) -> None:
        if not self._data.exists():
            self._initdb()
        super().start()

    def kill(self) -> None:
        """Crash all of its processes; what it kept stays. Its next start recovers it."""
        self.freeze()  # so that none starts another meanwhile
        self._signal(signal.SIGKILL, self._children())
        super().kill()

    def freeze(self) -> None:
        # One that died as it started is a matter of its log.
        if self._process is not None and self._process.poll() is None:
            super().freeze()
            self._signal(signal.SIGSTOP, self._children())

    def thaw(self) -> None:
        self._signal(signal.SIGCONT, self._children())
        super().thaw()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    def _initdb(self) -> None:
        secret = self.directory / "password"
        secret.write_text(self.PASSWORD)
        if self._user:
            shutil.chown(secret, self._user)
        command = [_postgresql_program("initdb"), "-D", str(self._data), "-U", "app", "--no-sync"]
        command += ["-E", "UTF8", "--locale=C.UTF-8", "--auth-local=trust"]
        command += ["--auth-host=scram-sha-256", f"--pwfile={secret}"]
        run = subprocess.run(
            command, cwd=self.directory, user=self._user, capture_output=True, text=True
        )
        if run.returncode:
            pytest.fail(run.stdout + run.stderr)

    def _run(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [_postgresql_program("postgres"), "-D", str(self._data), "-p", str(self.port)]
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            # Neither power failures nor long lives are tested here.
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return subprocess.Popen(
            [*command, *self._options],
            cwd=self.directory,
            user=self._user,
            extra_groups=[] if self._user else None,
            group=self._user,
            stdout=log,
            stderr=log,
        )

    def _answers(self) -> bool:
        probe = [_postgresql_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(probe, check=False).returncode == 0

    def _children(self) -> list[int]:
        # Each is the leader of a process group of its own.
        if self._process is None:
            return []
        pid = self._process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    @staticmethod
    def _signal(signum: int, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)


def _postgresql_program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs, which Debian keeps out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else program(name)


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


class SecantusServer(Server):
    """SecantusDB, which speaks MongoDB's protocol. A restart keeps what it stored."""

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/app"

    @property
    def direct_url(self) -> str:
        # Else a client asks the server for its address, and leaves a proxy out.
        return f"{self.url}?directConnection=true"

    def _command(self) -> list[str]:
        if importlib.util.find_spec("secantus") is None:
            if os.environ.get("CI"):
                pytest.fail("secantusdb is not installed")
            pytest.skip("secantusdb is not installed")
        script = Path(__file__).with_name("secantus_server.py")
        where = [str(self.port), str(self.directory / "secantus")]
        return [sys.executable, str(script), *where, *self._options]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False
