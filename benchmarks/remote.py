"""A stand-in for the judge API that costs little: the figures are to be the worker's, not its.

It reads of a submission only how many inputs it has, and answers with texts made beforehand. It
does not look at judge or key, keep the inputs, or evaluate anything. `Options` say how long a batch
takes, how many may run at once, and whether there is a list.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import random
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

EXECUTIONS = "/v1/judges/batch-executions/"
PAGE = 100  # batches


@dataclass(frozen=True, slots=True)
class Options:
    """Of the stand-in; seconds."""

    latency: tuple[float, float] = (0.0, 0.0)
    most_running: int | None = None  # batches; one more is answered 429
    has_list: bool = True
    evaluators: int = 2


@dataclass(slots=True)
class Batch:
    id: str
    size: int
    created_at: float
    ends_at: float

    def status(self) -> str:
        return "completed" if time.time() >= self.ends_at else "processing"


@dataclass
class Account:
    """What the stand-in saw. `samples`: (seconds, running batches) at each submission and end."""

    requests: dict[str, int] = field(default_factory=dict)
    throttled: int = 0
    batches: int = 0
    inputs: int = 0
    sizes: list[int] = field(default_factory=list)
    events: list[tuple[float, float]] = field(default_factory=list)  # (taken at, ends at)

    def count(self, kind: str) -> None:
        self.requests[kind] = self.requests.get(kind, 0) + 1


class StandIn:
    """The batches and the account; one answer per request."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.batches: dict[str, Batch] = {}
        self.running: list[Batch] = []
        self.account = Account()
        self.rng = random.Random(1)

    def answer(self, method: bytes, target: str, body: bytes) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        if method == b"POST":
            return self._take(body)
        if path == EXECUTIONS:
            self.account.count("list")
            return self._list(query)
        self.account.count("status")
        batch = self.batches.get(path.split("/")[-2])
        if batch is None:
            return 404, b'{"code":"not_found","detail":"Not found."}'
        return 200, self._head(batch) + _items(
            batch.size if batch.status() == "completed" else 0, self.options.evaluators
        )

    def _take(self, body: bytes) -> tuple[int, bytes]:
        now = time.time()
        self.account.count("submit")
        most = self.options.most_running
        if most is not None:
            self.running = [batch for batch in self.running if batch.ends_at > now]
            if len(self.running) >= most:
                self.account.throttled += 1
                return 429, b'{"code":"throttled","detail":"Request was throttled."}'
        batch = Batch(
            str(uuid4()),
            body.count(b'"request":'),
            now,
            now + self.rng.uniform(*self.options.latency),
        )
        self.batches[batch.id] = batch
        if most is not None:
            self.running.append(batch)
        self.account.batches += 1
        self.account.inputs += batch.size
        self.account.sizes.append(batch.size)
        self.account.events.append((batch.created_at, batch.ends_at))
        made = f'{{"batch_execution_id":"{batch.id}","status_url":"{EXECUTIONS}{batch.id}/"}}'
        return 202, made.encode()

    def _list(self, query: str) -> tuple[int, bytes]:
        if not self.options.has_list:
            return 404, b'{"code":"not_found","detail":"Not found."}'
        asked = parse_qs(query)
        start = int(asked.get("cursor", ["0"])[0])
        size = min(int(asked.get("page_size", [str(PAGE)])[0]), PAGE)
        newest = list(reversed(self.batches.values()))
        rows = [self._head(batch).decode() + "}" for batch in newest[start : start + size]]
        more = len(newest) > start + size
        following = f'"http://any{EXECUTIONS}?cursor={start + size}"' if more else "null"
        results = ",".join(rows)
        return 200, f'{{"next":{following},"previous":null,"results":[{results}]}}'.encode()

    def _head(self, batch: Batch) -> bytes:
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(batch.created_at))
        return (
            f'{{"batch_execution_id":"{batch.id}","status":"{batch.status()}",'
            f'"total_count":{batch.size},"created_at":"{created}"'
        ).encode()


@lru_cache
def _items(size: int, evaluators: int) -> bytes:
    items = [
        {
            "index": place,
            "status": "completed",
            "evaluator_results": [
                {
                    "evaluator_name": f"evaluator {number}",
                    "score": round(place / 100, 2),
                    "justification": f"The response was weighed against point {place}.{number}.",
                }
                for number in range(evaluators)
            ],
            "error_message": "",
            "execution_log_id": None,
        }
        for place in range(size)
    ]
    return f',"items":{json.dumps(items)}}}'.encode()


class _Http(asyncio.Protocol):
    """As much of HTTP/1.1 as httpx speaks: a head, a body of a known length, one after another."""

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in
        self.buffer = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end])
            length = _length(head)
            if len(self.buffer) < end + 4 + length:
                return
            body = bytes(self.buffer[end + 4 : end + 4 + length])
            del self.buffer[: end + 4 + length]
            method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
            status, answer = self.stand_in.answer(method, target.decode(), body)
            self.transport.write(
                b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (status, len(answer), answer)
            )


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


@dataclass(frozen=True, slots=True)
class Remote:
    """A stand-in at work in a process of its own."""

    url: str
    _connection: Connection

    def account(self) -> Account:
        self._connection.send("account")
        account: Account = self._connection.recv()
        return account


@contextlib.contextmanager
def standing_in(options: Options | None = None) -> Iterator[Remote]:
    """Serves on a loopback port while the block runs."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(options or Options(), theirs), daemon=True)
    process.start()
    try:
        yield Remote(f"http://127.0.0.1:{ours.recv()}", ours)
    finally:
        process.kill()
        process.join()


def _serve(options: Options, connection: Connection) -> None:
    asyncio.run(_serving(StandIn(options), connection))


async def _serving(stand_in: StandIn, connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Http(stand_in), "127.0.0.1", 0)
    loop.add_reader(connection.fileno(), lambda: _tell(stand_in, connection))
    connection.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _tell(stand_in: StandIn, connection: Connection) -> None:
    connection.recv()
    connection.send(stand_in.account)
