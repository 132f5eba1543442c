"""How fast the gateway responds to many clients, compared with a server without a database.

    python -m benchmarks.gateway_load [--clients 500] [--seconds 60] [--pause 1] [--database URL]

Each client keeps one connection, and in a loop submits one input and polls it three times, with a
pause before each request. The baseline is the same server with a constant response instead of a
database: it reads and validates as much. Half of its time is before the gateway's and half after,
because the machine's speed changes. Each server is a process of its own. Without `--database`, the
gateway is measured on a PostgreSQL that syncs to disk, and on SQLite. The exit status is 1 if a
request failed, or if the gateway's median is more than 4 times the baseline's.

Clients, server and PostgreSQL share the machine. If it is busy or has few cores, the times include
waiting for a core; the milliseconds of processor time can be compared even then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from starlette.responses import JSONResponse, Response

from benchmarks.measurement import fresh_databases
from worker.config import load_settings
from worker.gateway.app import Gateway
from worker.gateway.auth import Keys, read_keys
from worker.gateway.group_commit import GroupCommit
from worker.gateway.reader import DatabaseReader
from worker.gateway.server import serving_gateway
from worker.http_server import bind_socket, serve_in_background
from worker.logs import configure_logging
from worker.store.database import Database
from worker.store.migrate import upgrade
from worker.wire.paths import EXECUTE_PATH, STATUS_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from starlette.requests import Request

    from worker.gateway.auth import Key
    from worker.store.job_insert import NewJob

KEY = "a-key-for-the-benchmark"
KEYS = json.dumps({"benchmark": {"key": KEY}})
POLLS = 3
MAX_RATIO = 4  # of the median responses of gateway and baseline
BODY = json.dumps(
    {"inputs": [{"request": "The capital of Peru?" * 10, "response": "Lima." * 20}], "tags": ["t"]}
).encode()


# --- the servers ----------------------------------------------------------------------------------


def serve_gateway(port: Connection, database_url: str) -> None:
    """Send the port of the gateway, then serve until a message comes."""
    configure_logging(log_format="json", level="WARNING", secrets=[])
    settings = load_settings(database_url=database_url, gateway_port=0, gateway_keys=KEYS)
    database = Database(settings.sqlalchemy_url)
    upgrade(database)
    with serving_gateway(settings, database) as url:
        port.send(int(url.rpartition(":")[2]))
        port.recv()
    database.close()


def serve_empty(port: Connection, _: str) -> None:
    """Do the same with the baseline."""
    settings = load_settings(gateway_keys=KEYS)
    database = Database("sqlite:///unused.db")  # never connects
    app = EmptyGateway(
        DatabaseReader(database),
        NoCommit(database, on_commit=lambda: None),
        Keys(read_keys(KEYS)),
        max_inputs=settings.gateway_max_inputs,
        max_body_bytes=settings.gateway_max_body_bytes,
    ).create_app()
    with bind_socket("127.0.0.1", 0) as listener, serve_in_background(app, listener, name="empty"):
        port.send(listener.getsockname()[1])
        port.recv()


class EmptyGateway(Gateway):
    """Responds that every batch execution is pending."""

    async def status(self, request: Request, key: Key) -> Response:  # noqa: ARG002 (checked before)
        job_id = str(UUID(request.path_params["id"]))
        return JSONResponse({"batch_execution_id": job_id, "status": "pending"})


class NoCommit(GroupCommit):
    """Accepts every job as new and stores nothing."""

    async def insert(self, job: NewJob) -> bool:  # noqa: ARG002
        return True


# --- the clients ----------------------------------------------------------------------------------


@dataclass
class Load:
    """The seconds of each response, the errors, and what the server used."""

    seconds: float  # in total
    submits: list[float] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0  # of the server, in total
    clients_cpu_seconds: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(
            self.seconds + other.seconds,
            self.submits + other.submits,
            self.polls + other.polls,
            self.errors + other.errors,
            self.megabytes + other.megabytes,
            self.cpu_seconds + other.cpu_seconds,
            self.clients_cpu_seconds + other.clients_cpu_seconds,
        )


async def drive(port: int, clients: int, seconds: float, pause: float) -> Load:
    found, ends_at = Load(seconds), time.perf_counter() + seconds
    used_before = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_client(port, ends_at, pause, found))
    found.clients_cpu_seconds = time.process_time() - used_before
    return found


async def _client(port: int, ends_at: float, pause: float, found: Load) -> None:
    try:
        await asyncio.sleep(random.uniform(0, pause))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < ends_at:
            head = _head("POST", EXECUTE_PATH.format(judge_id="judge"), len(BODY))
            status, body = await _ask(reader, writer, head + BODY, found.submits)
            if status != 202:
                found.errors.append(f"POST {status}")
                continue
            job_id = json.loads(body)["batch_execution_id"]
            for _ in range(POLLS):
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                head = _head("GET", STATUS_PATH.format(id=job_id), 0)
                status, _body = await _ask(reader, writer, head, found.polls)
                if status != 200:
                    found.errors.append(f"GET {status}")
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        writer.close()
    except (OSError, asyncio.IncompleteReadError) as error:
        found.errors.append(repr(error))


def _head(method: str, path: str, length: int) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Api-Key {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, took: list[float]
) -> tuple[int, bytes]:
    began = time.perf_counter()
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r")[0])
    body = await reader.readexactly(length)
    took.append(time.perf_counter() - began)
    return int(head.split(" ", 2)[1]), body


# --- the comparison -------------------------------------------------------------------------------


def measure(serve: Any, database_url: str, given: argparse.Namespace, *, seconds: float) -> Load:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, database_url))
    server.start()
    theirs.close()  # so that a server that dies ends the wait for its port
    ended = threading.Event()
    megabytes: list[float] = []

    def sample_memory() -> None:
        while not ended.wait(1.0):
            megabytes.append(_megabytes(server.pid or 0))

    try:
        port = ours.recv()
        sampler = threading.Thread(target=sample_memory)
        sampler.start()
        used_before = _cpu_seconds(server.pid or 0)
        found = asyncio.run(drive(port, given.clients, seconds, given.pause))
        found.cpu_seconds = _cpu_seconds(server.pid or 0) - used_before
        ended.set()
        sampler.join()
        found.megabytes = megabytes
    finally:
        ours.send("end")
        server.join(30)
    return found


def _megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def _cpu_seconds(pid: int) -> float:
    """Return processor time, which can be compared even on a busy machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(name: str, found: Load) -> None:
    count = len(found.submits) + len(found.polls)
    memory = found.megabytes
    print(
        f"{name:10} {count / found.seconds:7.0f} requests/s"
        f"   submit {_times(found.submits)}   poll {_times(found.polls)}"
        f"   CPU {found.cpu_seconds / count * 1e3:.2f} ms a request"
        f" (its client {found.clients_cpu_seconds / count * 1e3:.2f})"
        f"   memory {memory[len(memory) // 3]:.0f} -> {memory[-1]:.0f} MB"
        f"   errors {len(found.errors)} {sorted(set(found.errors))[:3]}"
    )


def _times(took: Sequence[float]) -> str:
    ordered = sorted(took)
    return f"p50 {median(took) * 1e3:.1f} p99 {ordered[int(len(ordered) * 0.99)] * 1e3:.0f} ms"


def median(took: Sequence[float]) -> float:
    return statistics.median(took)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds before each request")
    parser.add_argument(
        "--database", help="URL of an empty database; by default a new PostgreSQL, then SQLite"
    )
    given = parser.parse_args()
    if given.database:
        return int(not is_fast_enough(given.database, given))
    with fresh_databases() as urls:
        return int(sum(not is_fast_enough(url, given) for url in urls) > 0)


def is_fast_enough(database_url: str, given: argparse.Namespace) -> bool:
    """Measure and show both servers, and return whether the target is met."""
    before = measure(serve_empty, database_url, given, seconds=given.seconds / 2)
    gateway = measure(serve_gateway, database_url, given, seconds=given.seconds)
    empty = before + measure(serve_empty, database_url, given, seconds=given.seconds / 2)
    name = database_url.partition(":")[0]
    show("baseline", empty)
    show(name, gateway)
    ratio = median(gateway.submits + gateway.polls) / median(empty.submits + empty.polls)
    print(
        f"on {name} the gateway's median response takes {ratio:.2f} times as long as the baseline's"
    )
    return not gateway.errors and not empty.errors and ratio <= MAX_RATIO


if __name__ == "__main__":
    sys.exit(main())
