"""Keeps an exchange within bounds: seconds in all, and bytes, however they were packed.

httpx bounds each single read and write. A peer that sends or takes a byte now and then would
hold a request for hours, and its caller's lease ends long before: somebody else would take up the
batch while the first request still runs. So each read and write is given what is left of the
whole request's time.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpx

LEAST_SECONDS = 0.001  # zero would mean "do not block" to a socket
WRITTEN_AT_ONCE = 16 * 1024  # bytes between two looks at the clock
UNPACKED_AT_ONCE = 64 * 1024  # bytes: what a compressed answer can take before it is counted


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Seconds that pass while the machine sleeps, too: those of `time.monotonic` may not."""
    return time.clock_gettime(_CLOCK)


class Unusable(Exception):
    """The answer is too long, in bytes or in seconds, or broken in its packing."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a request must be over, by `clock`; and whether its caller still has a right to it."""

    seconds: float
    at: float
    may_send: Callable[[], bool] | None = None

    def check(self) -> None:
        if clock() >= self.at:
            raise Unusable(f"no whole answer within {self.seconds:g} s")

    def check_sending(self) -> None:
        """Before every byte that leaves: a process may have been asleep until just now."""
        self.check()
        if self.may_send is not None and not self.may_send():
            raise Unusable("it was too late to send it")

    def at_most(self, timeout: float | None) -> float:
        left = max(self.at - clock(), LEAST_SECONDS)
        return left if timeout is None else min(timeout, left)


# A request runs in one thread from beginning to end; a connection serves many.
_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def within(seconds: float, may_send: Callable[[], bool] | None = None) -> Iterator[Deadline]:
    """Every read and write of this thread shares these seconds; none is sent unless it may be."""
    deadline = Deadline(seconds, clock() + seconds, may_send)
    token = _current.set(deadline)
    try:
        yield deadline
    finally:
        _current.reset(token)


def keep_deadlines(client: httpx.Client) -> None:
    """Makes the client's connections, those through a proxy too, obey `within`.

    httpx has no public place for this. Should these names move, the test with a server that drips
    its headers fails; a transport without a pool is a fake one and has no sockets.
    """
    for transport in (client._transport, *client._mounts.values()):
        pool = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = Bounded(pool._network_backend)


class Bounded:
    """A network backend of httpcore, with streams that obey `within`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **rest: Any) -> Any:
        return _Stream(self._inner.connect_tcp(host, port, timeout=_at_most(timeout), **rest))

    def connect_unix_socket(self, path: str, timeout: float | None = None, **rest: Any) -> Any:
        return _Stream(self._inner.connect_unix_socket(path, timeout=_at_most(timeout), **rest))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream:
    """httpcore's network stream: no read or write outlasts the request that it serves."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        _check()
        data: bytes = self._inner.read(max_bytes, timeout=_at_most(timeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        for start in range(0, len(view), WRITTEN_AT_ONCE):
            part = bytes(view[start : start + WRITTEN_AT_ONCE])
            _check_sending()
            self._inner.write(part, timeout=_at_most(timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        # No check: a handshake that comes too late must still read as "not sent".
        inner = self._inner.start_tls(ssl_context, server_hostname, timeout=_at_most(timeout))
        return _Stream(inner)

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _check() -> None:
    deadline = _current.get()
    if deadline is not None:
        deadline.check()


def _check_sending() -> None:
    deadline = _current.get()
    if deadline is not None:
        deadline.check_sending()


def _at_most(timeout: float | None) -> float | None:
    deadline = _current.get()
    return timeout if deadline is None else deadline.at_most(timeout)


def read_body(response: httpx.Response, deadline: Deadline, most: int) -> bytes:
    """The whole body, unpacked; raises `Unusable` at the first byte or second too many."""
    pieces, size = [], 0
    try:
        for piece in _unpacked(response):
            deadline.check()
            size += len(piece)
            if size > most:
                raise Unusable(f"the answer is longer than {most:,} bytes")
            pieces.append(piece)
    except zlib.error as error:
        raise Unusable(f"the answer cannot be unpacked: {error}") from None
    return b"".join(pieces)


def _unpacked(response: httpx.Response) -> Iterator[bytes]:
    # Not `iter_bytes`: it unpacks each chunk whole before anybody can count, a bomb included,
    # and shows nothing of a drip until a chunk is full.
    if not isinstance(response.stream, httpx.SyncByteStream):
        raise Unusable("the answer cannot be read")
    packing = response.headers.get("content-encoding", "").strip().lower()
    if packing in ("", "identity"):
        yield from response.stream
    elif packing == "gzip":
        yield from _gunzipped(response.stream)
    else:
        raise Unusable("the answer is packed in a way that was not asked for")


def _gunzipped(chunks: httpx.SyncByteStream) -> Iterator[bytes]:
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    begun = False
    for chunk in chunks:
        rest, piece = chunk, b""
        begun = begun or bool(chunk)
        while (rest or len(piece) == UNPACKED_AT_ONCE) and not inflater.eof:
            piece = inflater.decompress(rest, UNPACKED_AT_ONCE)
            rest = inflater.unconsumed_tail
            yield piece
        yield b""  # a chunk that unpacks to nothing is still a moment to look at the clock
    if begun and not inflater.eof:
        raise Unusable("the answer breaks off")
