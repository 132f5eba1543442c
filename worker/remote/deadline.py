"""Limit the time of a whole HTTP exchange, and the size of the body that is read.

httpcore applies its timeouts to each read and write. A peer that sends or accepts a byte now and
then would keep an exchange going for hours, long after its caller's lease has expired and another
process has claimed the batch. So each read and write is given what is left of the exchange's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import httpcore
import httpx

MIN_TIMEOUT = 0.001  # seconds; a socket takes zero for "do not block"
WRITE_CHUNK = 16 * 1024  # bytes written before the deadline is checked again

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Return seconds that go on while the machine sleeps, which `time.monotonic` may not count."""
    return time.clock_gettime(_CLOCK)


class ExchangeAborted(Exception):
    """We ended the exchange: it took too long, or its response is too large or encoded."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When an exchange must be over, by `clock`, and whether its caller may still send."""

    seconds: float
    at: float
    may_send: Callable[[], bool] | None = None

    def check(self) -> None:
        if clock() >= self.at:
            raise ExchangeAborted(f"no complete response within {self.seconds:g} s")

    def check_sending(self) -> None:
        """Check before each write, because the process may have been suspended until now."""
        self.check()
        if self.may_send is not None and not self.may_send():
            raise ExchangeAborted("it was too late to send the request")

    def limit(self, timeout: float | None) -> float:
        left = max(self.at - clock(), MIN_TIMEOUT)
        return left if timeout is None else min(timeout, left)


# An exchange runs in one thread from beginning to end, while its connection serves many exchanges.
_current: ContextVar[Deadline] = ContextVar("deadline")


@contextmanager
def exchange_deadline(
    seconds: float, may_send: Callable[[], bool] | None = None
) -> Iterator[Deadline]:
    """Apply one deadline to all reads and writes that this thread does in the block.

    A block within another one has no more time than that. `may_send` is called before each write.
    Once it returns False, nothing more is sent.
    """
    outer = _current.get(None)
    end = clock() + seconds
    deadline = Deadline(seconds, min(end, outer.at) if outer else end, may_send)
    token = _current.set(deadline)
    try:
        yield deadline
    finally:
        _current.reset(token)


class DeadlineBackend(httpcore.NetworkBackend):
    """A network backend for httpcore whose streams obey `exchange_deadline`.

    Its connections can be used in such a block only.
    """

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **kwargs: Any
    ) -> httpcore.NetworkStream:
        limited = _current.get().limit(timeout)
        return DeadlineStream(self._backend.connect_tcp(host, port, limited, *args, **kwargs))


class DeadlineStream(httpcore.NetworkStream):
    """A network stream whose reads and writes obey `exchange_deadline`."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        deadline = _current.get()
        deadline.check()
        return self._stream.read(max_bytes, deadline.limit(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        deadline = _current.get()
        view = memoryview(buffer)
        for start in range(0, len(view), WRITE_CHUNK):
            deadline.check_sending()
            chunk = bytes(view[start : start + WRITE_CHUNK])
            self._stream.write(chunk, deadline.limit(timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        # No check here: a handshake that times out must still be reported as "not sent".
        limited = _current.get().limit(timeout)
        return DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, limited))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def read_body(response: httpx.Response, deadline: Deadline, max_bytes: int) -> bytearray:
    """Read the whole body. Raise `ExchangeAborted` where it is too long, too slow or encoded.

    Nothing is decompressed, so that a few bytes cannot grow into more than `max_bytes`. The encoded
    body of an error is left out: its status says what matters.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        if response.is_error:
            return bytearray()
        raise ExchangeAborted(f"the response is encoded as {encoding!r}, although we refuse that")
    body = bytearray()  # one copy: a list of chunks would be a second one when it is joined
    # Not `iter_raw`, which refuses a response that was created with its content.
    for chunk in cast("httpx.SyncByteStream", response.stream):
        deadline.check()
        if len(body) + len(chunk) > max_bytes:
            raise ExchangeAborted(f"the response is longer than {max_bytes:,} bytes")
        body += chunk
    return body
