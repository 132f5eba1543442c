"""Servers that all processes of one test run share.

The process that needs a server first starts it, under a lock. The process that began the run (the
controller of pytest-xdist, or the only process) stops them all at its end.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certifi

from tests.support.command_server import CLIENT
from tests.support.servers import PgBouncer, PostgresServer, ValkeyServer, wait_until
from worker.config import load_settings
from worker.store.database import Database
from worker.store.migrate import grant_roles, upgrade

# Variables of the environment, inherited by each process.
FOLDER = "TEST_SERVERS_FOLDER"
MACHINES_CERTIFICATES = "TEST_MACHINES_SSL_CERT_FILE"  # what SSL_CERT_FILE was before the run
POSTGRES_TEMPLATE = "template_migrated"
SQLITE_TEMPLATE = "template.db"
ROOT = Path(__file__).parents[2]

_kept: list[object] = []  # servers that outlive the process that started them


def begin_run() -> None:
    folder = tempfile.mkdtemp(prefix="evtests")
    Path(folder).chmod(0o711)  # PostgreSQL's user has to reach its own folder in there
    os.environ[FOLDER] = folder
    # A run that is terminated ends as one that is interrupted: it stops its servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Compile each module once, not in each process, also where Python is told to write nothing.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for package in ("worker", "migrations", "scripts", "benchmarks", "tests/support"):
        compileall.compile_dir(ROOT / package, quiet=2)
    _trust_one_authority()


def _trust_one_authority() -> None:
    """Set `SSL_CERT_FILE` to one certificate: to load all of them takes each client 30 ms."""
    first, end, _ = Path(certifi.where()).read_text("utf-8").partition("-----END CERTIFICATE-----")
    file = _folder() / "certificates.pem"
    file.write_text(f"{first}{end}\n", "utf-8")
    os.environ.setdefault(MACHINES_CERTIFICATES, os.environ.get("SSL_CERT_FILE", ""))
    os.environ["SSL_CERT_FILE"] = str(file)


def machine_environment() -> dict[str, str]:
    """Return the environment of a process that has to reach servers of the world."""
    env = os.environ | {"SSL_CERT_FILE": os.environ[MACHINES_CERTIFICATES]}
    return {name: value for name, value in env.items() if value}


def end_run() -> None:
    """Stop what was started, in the process that began the run."""
    folder = _folder()
    for file in folder.glob("*.started"):
        pid = json.loads(file.read_text()).get("pid")
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    if (folder / "postgres").exists():
        PostgresServer(folder / "postgres").close()
    shutil.rmtree(folder, ignore_errors=True)
    del os.environ[FOLDER]


def shared_postgres() -> PostgresServer:
    """A server with a migrated database to copy, and with the roles of least privilege."""
    server = PostgresServer(_folder() / "postgres")

    def start() -> dict[str, Any]:
        server.start()
        server.execute(f"CREATE DATABASE {POSTGRES_TEMPLATE}")
        _migrate(server.url(POSTGRES_TEMPLATE))
        # Roles belong to all databases of a server: tests that run together cannot make them.
        with server.database(POSTGRES_TEMPLATE) as url, _opened(url) as database:
            grant_roles(database)
        return {}

    _start_once("postgres", start)
    return server


def shared_pgbouncer(postgres: PostgresServer, mode: str) -> PgBouncer:
    """A pooler before the server that all share."""
    pooler = PgBouncer(postgres, _folder() / f"pgbouncer-{mode}", pool_mode=mode)

    def start() -> dict[str, Any]:
        pooler.start()
        _kept.append(pooler)
        return {"pid": pooler.pid}

    _start_once(pooler.home.name, start)
    return pooler


def shared_valkey() -> ValkeyServer:
    server = ValkeyServer(_folder() / "valkey")

    def start() -> dict[str, Any]:
        server.home.mkdir()
        server.start()
        _kept.append(server)
        return {"pid": server.pid, "port": server.port}

    server.port = _start_once("valkey", start)["port"]
    return server


def sqlite_template() -> Path:
    """A migrated file, to copy."""
    file = _folder() / SQLITE_TEMPLATE

    def start() -> dict[str, Any]:
        _migrate(f"sqlite:///{file}")
        return {}

    _start_once("sqlite", start)
    return file


def command_address() -> str:
    return str(_folder() / "commands")


def command_client() -> Path:
    """A program that stands for the `evalworker` command; see `command_server`."""
    client, address = _folder() / "evalworker", command_address()

    def start() -> dict[str, Any]:
        module = "tests.support.command_server"
        # The server's own output, if there is any, is that of the test run.
        server = subprocess.Popen([sys.executable, "-m", module, address], cwd=ROOT)
        _kept.append(server)
        wait_until(lambda: Path(address).exists(), seconds=90)
        client.write_text(CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
        return {"pid": server.pid}

    _start_once("commands", start)
    return client


@contextlib.contextmanager
def one_process_at_a_time(name: str) -> Iterator[bool]:
    """Lock out the run's other processes; the value is whether this one is the first of them."""
    with (_folder() / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_first = os.fstat(lock.fileno()).st_size == 0
        lock.write("locked once")
        lock.flush()
        yield is_first


def _start_once(name: str, start: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    started = _folder() / f"{name}.started"
    with one_process_at_a_time(name):
        if not started.exists():
            started.write_text(json.dumps(start()))
        found: dict[str, Any] = json.loads(started.read_text())
    return found


def _folder() -> Path:
    return Path(os.environ[FOLDER])


def _migrate(url: str) -> None:
    with _opened(url) as database:
        upgrade(database)


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Database]:
    with contextlib.closing(Database(load_settings(database_url=url).sqlalchemy_url)) as database:
        yield database
