"""Serve an ASGI application with uvicorn."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

from worker.errors import NotPossible
from worker.http_server.connections import ConnectionLimit

try:
    import resource
except ModuleNotFoundError:  # on Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from starlette.types import ASGIApp

START_SECONDS = 10.0
BACKLOG = 2048
MAX_CONNECTIONS = 512
USUAL_DESCRIPTORS = 1024  # of a process; where there are fewer, fewer connections are taken
TICKS_PER_SWEEP = 10  # uvicorn ticks ten times a second
KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, so that they close them first


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind before the server starts, so that an ephemeral port is known and reserved.

    Raises `NotPossible` if the address is not available.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while ")[0]  # names the address again
        raise NotPossible(
            f"cannot listen on {host}:{port}: {reason}; name another address or port"
        ) from error


class BoundedServer(uvicorn.Server):
    """A server whose connections are limited in number and in time."""

    def __init__(self, config: uvicorn.Config, limit: ConnectionLimit) -> None:
        super().__init__(config)
        self.limit = limit

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_SWEEP == 0:
            self.limit.sweep()
        return await super().on_tick(counter)


def create_server(
    app: ASGIApp,
    *,
    name: str,
    shutdown_seconds: int,
    max_connections: int = MAX_CONNECTIONS,
    trust_forwarded: bool = True,
) -> uvicorn.Server:
    """Create a server that cancels requests still running so many seconds after its shutdown.

    With `trust_forwarded`, a proxy on this machine says where a request comes from.
    """
    limit = ConnectionLimit(name, _affordable(max_connections))
    config = uvicorn.Config(
        app,
        http=limit.protocol_class(),
        ws="none",  # a connection that changes its protocol would leave the limit
        backlog=max(
            1, limit.maximum // 8
        ),  # so many are accepted at a time, before the limit sees any
        log_level="critical",
        log_config=None,  # otherwise uvicorn reconfigures the loggers of its host process
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=shutdown_seconds,
        proxy_headers=trust_forwarded,
    )
    return BoundedServer(config, limit)


def _affordable(wanted: int) -> int:
    """Return how many connections leave enough file descriptors for all else."""
    if resource is None:
        return wanted
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, wanted * descriptors // USUAL_DESCRIPTORS))


@contextlib.contextmanager
def serve_in_background(
    app: ASGIApp,
    listener: socket.socket,
    *,
    name: str,
    shutdown_seconds: int = 2,
    max_connections: int = MAX_CONNECTIONS,
    trust_forwarded: bool = True,
) -> Iterator[None]:
    """Serve in a thread while the block runs."""
    server = create_server(
        app,
        name=name,
        shutdown_seconds=shutdown_seconds,
        max_connections=max_connections,
        trust_forwarded=trust_forwarded,
    )
    thread = threading.Thread(target=server.run, args=([listener],), name=name)
    thread.start()
    try:
        give_up_at = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > give_up_at:
                raise RuntimeError(f"the {name} server did not start")
            time.sleep(0.01)
        # The kernel queues as many as before; `backlog` above is how many are accepted at a time.
        listener.listen(BACKLOG)
        yield
    finally:
        server.should_exit = True
        thread.join()
