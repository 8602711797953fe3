"""Every check of this project, on a machine that has nothing but Python 3.

    python3 noxfile.py                  all checks: lint, typing, tests, faults
    python3 noxfile.py -s tests -- -k redis
    python3 noxfile.py -s tests-3.13    the tests on another Python, if there is one
    python3 noxfile.py -s lowest        the tests of stores, on the oldest packages that we allow
    python3 noxfile.py -s demo          the FastAPI demo; "-s demo -- quart" is the Quart one
    python3 noxfile.py -s bench         measures, and writes docs/benchmarks.md; some 20 minutes
    python3 noxfile.py -l               what else there is

Run as a program, this file makes a private environment for nox and hands over to nox there. Run
by a nox of yours (`nox -s tests`) it is an ordinary noxfile.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from itertools import chain
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOX = "nox>=2025.5.1,<2028"

#: Programs the tests start, and the Debian packages that bring them.
DEBIAN_PACKAGES = {
    "chromium": "chromium",
    "memcached": "memcached",
    # Where `postgres` itself is, depends on its version; this one is in PATH.
    "pg_ctlcluster": "postgresql",
    "redis-server": "redis-server",
}
#: The same for the benchmark.
BENCH_PACKAGES = {"memcached": "memcached", "redis-server": "redis-server", "wrk": "wrk"}


class Missing(Exception):
    """Something this machine lacks and we cannot install; the message says what to do."""


def apt_install(packages: list[str]) -> None:
    """Install Debian packages, as root or through sudo; without either raise `Missing`."""
    wanted = " ".join(packages)
    by_hand = f"apt-get update && apt-get install -y --no-install-recommends {wanted}"
    if shutil.which("apt-get") is None:
        raise Missing(f"This machine has no apt-get. Install what Debian calls: {wanted}")
    become: list[str] = []
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise Missing(f"Missing: {wanted}. Neither root nor sudo; as root run:\n  {by_hand}")
        # Without a terminal nobody could answer a question for the password.
        become = ["sudo"] if sys.stdin.isatty() else ["sudo", "--non-interactive"]
    # dpkg refuses to work without sbin in PATH, which users and cron jobs often lack.
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    apt_get = [*become, "env", f"PATH={path}", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    print(f"Installing the Debian packages {wanted}", flush=True)
    # A mirror that fails is no reason to stop: the lists may be good enough. The install decides.
    subprocess.run([*apt_get, "update", "-q"], check=False)
    install = [*apt_get, "install", "-q", "-y", "--no-install-recommends", *packages]
    if subprocess.run(install, check=False).returncode != 0:
        raise Missing(f"Could not install {wanted}. As root run:\n  {by_hand}")


def bring_nox() -> Path:
    """Make an environment with nox in it, unless it is there; return its Python."""
    home = HERE / ".nox" / "bootstrap"
    python = home / "bin" / "python"
    # Written last, so that an environment that was left half made is made again.
    stamp = home / "made-for"
    wanted = f"{NOX} on {sys.version}"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    if importlib.util.find_spec("ensurepip") is None:
        # Debian keeps it in a package of its own.
        apt_install([f"python3.{sys.version_info.minor}-venv"])
    print(f"Making an environment for {NOX}", flush=True)
    # In a new Python, because this one may not see modules that have just been installed.
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", NOX], check=True)
    stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    if sys.version_info < (3, 11):
        sys.exit(f"async_session needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    try:
        nox_python = bring_nox()
    except Missing as missing:
        sys.exit(str(missing))
    except subprocess.CalledProcessError as failed:
        sys.exit(f"Could not prepare {NOX}: {failed}")
    arguments = ["-m", "nox", "--noxfile", str(HERE / "noxfile.py"), *sys.argv[1:]]
    os.execv(nox_python, [str(nox_python), *arguments])


import nox  # from here on nox reads the file, or somebody imports it where nox is installed
from packaging.requirements import Requirement  # which nox needs, too

PROJECT = nox.project.load_toml(HERE / "pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
EXTRAS = ",".join(PROJECT["project"]["optional-dependencies"])
#: Which server runs which demo. Every demo is examples/<name>_demo/app.py with an `app` in it.
DEMOS = {"fastapi": "uvicorn", "quart": "hypercorn"}
#: The tests for the oldest packages: every store, and both adapters on every store. The others are
#: of things that no package changes, or drive the newest test clients and Flask beside ours.
LOWEST = ["extras", "quart_extension", "races", "redis_*", "store_*", "stores_*", "toy_store"]

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["lint", "typing", "tests", "faults"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
# `tests-3.13` on a machine without Python 3.13 is skipped, and says so.
nox.options.error_on_missing_interpreters = False


def groups(*names: str) -> list[str]:
    """Return the requirements of these dependency groups."""
    return list(nox.project.dependency_groups(PROJECT, *names))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*groups("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types, with mypy and with pyright."""
    session.install("-e", f".[{EXTRAS}]", "nox", *groups("tests", "typing"))
    session.run("mypy")
    session.run("pyright")


def install_programs(session: nox.Session, packages: dict[str, str]) -> None:
    """Install the Debian packages of those programs that are missing."""
    missing = [package for program, package in packages.items() if not shutil.which(program)]
    if missing:
        try:
            apt_install(missing)
        except Missing as error:
            session.error(str(error))


def run_tests(session: nox.Session, *selection: str) -> None:
    """Run the tests against the installed package; what follows "--" goes to pytest."""
    install_programs(session, DEBIAN_PACKAGES)
    session.install(f".[{EXTRAS}]", *groups("tests"))
    # Not "python -m pytest": that would test the checkout in place of what a user gets.
    session.run("pytest", *selection, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the Python that runs this file."""
    run_tests(session)


@nox.session
def faults(session: nox.Session) -> None:
    """Run the tests that take minutes, which `tests` leaves out: storms, races, large stores."""
    run_tests(session, "-m", "faults")


for version in PYTHONS:
    nox.session(name=f"tests-{version}", python=version, default=False)(run_tests)


@nox.session(default=False, python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Install each lower bound of pyproject.toml, exactly, and run the tests of the stores."""
    install_programs(session, DEBIAN_PACKAGES)
    session.install("uv")
    session.run_install("uv", "pip", "install", "--resolution=lowest-direct", f".[{EXTRAS}]")
    freeze = str(session.run("uv", "pip", "freeze", "--exclude-editable", silent=True))
    pins = [line for line in freeze.splitlines() if "==" in line]
    found = {pin.name: pin for pin in map(Requirement, pins)}
    extras = PROJECT["project"]["optional-dependencies"].values()
    for bound in map(Requirement, chain(PROJECT["project"]["dependencies"], *extras)):
        (lower,) = bound.specifier
        if not found[bound.name].specifier.contains(lower.version):
            session.error(f"{bound} cannot be installed with the others, {found[bound.name]} can")
    # The tests' own tools may be new, as far as these go with them.
    constraints = Path(session.create_tmp()) / "lowest.txt"
    constraints.write_text("\n".join(pins))
    session.run_install("uv", "pip", "install", "-c", str(constraints), *groups("tests"))
    tests = [str(path) for name in LOWEST for path in sorted(HERE.glob(f"tests/test_{name}.py"))]
    # Old packages warn of what newer Pythons and packages would not bear.
    mild = [f"-Wdefault::{kind}" for kind in ("DeprecationWarning", "PendingDeprecationWarning")]
    session.run("pytest", *mild, *(session.posargs or tests))


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Build the sdist, the wheel from it, and use that without any extra."""
    session.install("build")
    made = Path(session.create_tmp()).resolve()
    shutil.rmtree(made)
    session.run("python", "-m", "build", "--outdir", str(made), ".")
    (package,) = made.glob("*.whl")
    if "async_session/py.typed" not in zipfile.ZipFile(package).namelist():
        session.error("async_session/py.typed is not in the wheel")
    # nox itself brings virtualenv; the session's own environment has `build` and so is not bare.
    session.run(sys.executable, "-m", "virtualenv", "--quiet", str(made / "bare"), external=True)
    python = str(made / "bare" / "bin" / "python")
    session.run(python, "-m", "pip", "install", "--quiet", str(package), external=True)
    with session.chdir(made):  # not beside the checkout, which Python would import
        session.run(
            python, "-c", "import async_session; from async_session import *", external=True
        )


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure what sessions cost, here and elsewhere, and write docs/benchmarks.md."""
    install_programs(session, BENCH_PACKAGES)
    session.install(".[fast,filesystem,memcached,mongo,quart,redis,starlette]", *groups("bench"))
    session.run("python", "tests/benchmarks/run.py", *session.posargs)


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Serve a demo on this machine: "-- [fastapi|quart] [--port N]"; Ctrl-C ends it."""
    parser = argparse.ArgumentParser(prog="python3 noxfile.py -s demo --")
    parser.add_argument("name", nargs="?", default="fastapi", choices=sorted(DEMOS))
    parser.add_argument("--port", type=int, help="default: 8000, or the next that is free")
    options = parser.parse_args(session.posargs)
    session.install(f".[{options.name},filesystem]", *groups("demo"))
    address = f"127.0.0.1:{options.port or free_port(8000)}"
    where = HERE / "examples" / f"{options.name}_demo"
    server = [str(Path(session.bin) / DEMOS[options.name]), "app:app"]
    if DEMOS[options.name] == "uvicorn":
        host, _, port = address.partition(":")
        server += ["--host", host, "--port", port]
    else:
        server += ["--bind", address]
    print(f"\n  The {options.name} demo is at http://{address}/ and Ctrl-C ends it.\n", flush=True)
    serve(session, server, where)


def free_port(first: int) -> int:
    """Return the first port from `first` on that nobody listens on."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port from {first} to {first + 99}")


def serve(session: nox.Session, command: list[str], where: Path) -> None:
    """Run a server until it ends or we are told to end it, which is no failure."""
    # In a process group of its own, so that Ctrl-C reaches it once, through us, and not twice.
    process = subprocess.Popen(command, cwd=where, process_group=0)
    told: list[int] = []

    def pass_on(signum: int, _frame: object) -> None:
        told.append(signum)
        process.send_signal(signum)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, pass_on)
    if process.wait() != 0 and not told:
        session.error(f"the server ended with code {process.returncode}")
