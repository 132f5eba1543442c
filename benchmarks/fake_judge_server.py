"""Serve the fake judge API in a process of its own, so that its cost is not the worker's.

`fake_judge` has the batches and the responses.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.fake_judge import FakeJudge, Observations, Options

__all__ = ["Observations", "Options", "Remote", "running_fake_judge"]


@dataclass(frozen=True, slots=True)
class Remote:
    """The fake judge API that runs in another process."""

    url: str
    _connection: Connection

    def observations(self) -> Observations:
        """Return what it has observed so far."""
        observed: Observations = self._ask("observations")
        return observed

    def change(self, **options: Any) -> None:
        self._ask("change", **options)

    def forget(self) -> None:
        """Forget which batches were shown."""
        self._ask("forget")

    def _ask(self, what: str, **given: Any) -> Any:
        self._connection.send((what, given))
        return self._connection.recv()


@contextlib.contextmanager
def running_fake_judge(options: Options | None = None) -> Iterator[Remote]:
    """Serve on a loopback port while the block runs."""
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
    asyncio.run(_serving(FakeJudge(options), connection))


async def _serving(judge: FakeJudge, connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Http(judge), "127.0.0.1", 0)
    loop.add_reader(connection.fileno(), lambda: _obey(judge, connection))
    connection.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _obey(judge: FakeJudge, connection: Connection) -> None:
    what, given = connection.recv()
    connection.send(getattr(judge, what)(**given))


class _Http(asyncio.Protocol):
    """The part of HTTP/1.1 that httpx uses: requests with a known length, one after another."""

    def __init__(self, judge: FakeJudge) -> None:
        self.judge = judge
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
            status, response = self.judge.respond(method, target.decode(), body)
            self._send(
                self.judge.options.submit_seconds if method == b"POST" else 0.0,
                b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (status, len(response), response),
            )

    def _send(self, wait: float, response: bytes) -> None:
        if wait:
            asyncio.get_running_loop().call_later(wait, self.transport.write, response)
        else:
            self.transport.write(response)


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
