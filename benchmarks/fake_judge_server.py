"""A stand-in for the judge API that costs little: the figures are to be the worker's, not its.

What it answers is in `stand_in`; here it is served, in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.fake_judge import FakeJudge, Observations, Options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

__all__ = ["Observations", "Options", "Remote", "running_fake_judge"]


@dataclass(frozen=True, slots=True)
class Remote:
    """A stand-in at work in a process of its own."""

    url: str
    _connection: Connection

    def observations(self) -> Observations:
        """What it saw so far."""
        observed: Observations = self._ask("observations")
        return observed

    def change(self, **options: Any) -> None:
        self._ask("change", **options)

    def forget(self) -> None:
        """Who was shown which batch so far."""
        self._ask("forget")

    def _ask(self, what: str, **given: Any) -> Any:
        self._connection.send((what, given))
        return self._connection.recv()


@contextlib.contextmanager
def running_fake_judge(options: Options | None = None) -> Iterator[Remote]:
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
    asyncio.run(_serving(FakeJudge(options), connection))


async def _serving(stand_in: FakeJudge, connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Http(stand_in), "127.0.0.1", 0)
    loop.add_reader(connection.fileno(), lambda: _obey(stand_in, connection))
    connection.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _obey(stand_in: FakeJudge, connection: Connection) -> None:
    what, given = connection.recv()
    connection.send(getattr(stand_in, what)(**given))


class _Http(asyncio.Protocol):
    """As much of HTTP/1.1 as httpx speaks: a head, a body of a known length, one after another."""

    def __init__(self, stand_in: FakeJudge) -> None:
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
