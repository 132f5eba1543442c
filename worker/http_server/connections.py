"""Limit the connections of a server, and the time for which each may keep it waiting.

Nobody needs a key to open a connection. Without limits, connections that send nothing use up the
process's file descriptors, and then neither this port nor the database can be reached.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

log = structlog.get_logger("evalworker")

LOG_SECONDS = 60.0  # between two lines about connections that were closed or refused
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class Phase(StrEnum):
    """What a connection waits for."""

    HEAD = "head"  # for the rest of a request's head: the client's turn
    BODY = "body"  # for the rest of a request's body: the client's turn
    SERVED = "served"  # for the application
    UNREAD = "unread"  # for the client to read what it was sent
    IDLE = "idle"  # for another request, if there is one
    CLOSING = "closing"


SECONDS = {Phase.HEAD: 10.0, Phase.BODY: 60.0, Phase.UNREAD: 60.0, Phase.CLOSING: 10.0}
"""How long a phase may last. The application takes its time, and uvicorn ends idle connections."""


@dataclass(slots=True)
class _Watched:
    """The phase of a connection, and what would show progress within it."""

    phase: Phase
    progress: object
    since: float


class ConnectionLimit:
    """Keep the connections of one server within a number.

    Not thread-safe: use it on the server's event loop. When a connection is too many, the oldest
    one without a request gives way, so that half-open ones cannot keep clients out. If all are
    being served, the new one is refused.
    """

    def __init__(
        self, server: str, maximum: int, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.server = server
        self.maximum = maximum
        self._monotonic = monotonic
        self._watched: dict[H11Protocol, _Watched] = {}  # the oldest first
        self._counts = {"refused": 0, "half_open": 0, "too_slow": 0}
        self._logged_at = float("-inf")

    def protocol_class(self) -> type[asyncio.Protocol]:
        """Return uvicorn's protocol, which reports its connections here."""
        limit = self

        class LimitedProtocol(H11Protocol):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                limit.opened(self)

            def connection_lost(self, exc: Exception | None) -> None:
                limit.closed(self)
                super().connection_lost(exc)

        return LimitedProtocol

    def opened(self, connection: H11Protocol) -> None:
        """Take in a new connection, and close another one or the new one if it is too many."""
        if len(self._watched) >= self.maximum and not self._make_room():
            self._counts["refused"] += 1
            connection.transport.write(REFUSAL)
            connection.transport.close()
        self._watched[connection] = self._watch(connection)

    def closed(self, connection: H11Protocol) -> None:
        self._watched.pop(connection, None)

    def sweep(self) -> None:
        """Close what keeps the server waiting for too long. Call this about once a second."""
        for connection, watched in list(self._watched.items()):
            now = self._watch(connection)
            if (now.phase, now.progress) != (watched.phase, watched.progress):
                self._watched[connection] = now
            elif now.since - watched.since >= SECONDS.get(now.phase, float("inf")):
                self._counts["too_slow"] += now.phase is not Phase.CLOSING
                self._drop(connection)
        self._log()

    def _make_room(self) -> bool:
        for phase in (Phase.HEAD, Phase.BODY, Phase.IDLE, Phase.UNREAD):
            for connection in self._watched:
                if _is_without_request(connection) and _phase(connection) is phase:
                    self._counts["half_open"] += phase is not Phase.IDLE
                    self._drop(connection)
                    return True
        return False

    def _drop(self, connection: H11Protocol) -> None:
        self.closed(connection)
        connection.transport.abort()

    def _watch(self, connection: H11Protocol) -> _Watched:
        phase = _phase(connection)
        unread = connection.transport.get_write_buffer_size() if phase is Phase.UNREAD else 0
        return _Watched(phase, (id(connection.cycle), unread), self._monotonic())

    def _log(self) -> None:
        now = self._monotonic()
        if any(self._counts.values()) and now - self._logged_at >= LOG_SECONDS:
            log.warning(
                "http_server.connections_closed",
                server=self.server,
                maximum=self.maximum,
                **self._counts,
            )
            self._logged_at = now
            self._counts = dict.fromkeys(self._counts, 0)


def _is_without_request(connection: H11Protocol) -> bool:
    return connection.cycle is None or connection.cycle.response_complete


def _phase(connection: H11Protocol) -> Phase:
    if connection.transport.is_closing():
        return Phase.CLOSING
    if connection.transport.get_write_buffer_size():
        return Phase.UNREAD
    http = connection.conn
    if http.their_state is h11.SEND_BODY:
        return Phase.BODY
    if http.their_state is not h11.IDLE:
        return Phase.SERVED
    begun, _ = http.trailing_data
    return Phase.HEAD if begun or connection.cycle is None else Phase.IDLE
