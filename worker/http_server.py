"""Serve an ASGI application on a port, in a background thread or in the foreground."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

from worker.errors import Unreachable

if TYPE_CHECKING:
    from starlette.types import ASGIApp

START_SECONDS = 10.0
BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, so that they close them first


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind before the server starts, so that an ephemeral port is known and reserved.

    Raises `Unreachable` if the address is not available.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Unreachable("address to listen on", f"{host}:{port}", error) from error


def create_server(
    app: ASGIApp, *, shutdown_seconds: int, trust_forwarded: bool = True
) -> uvicorn.Server:
    """Create a server that cancels requests still running so many seconds after its shutdown.

    With `trust_forwarded`, a proxy on this machine says where a request comes from.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="critical",
            log_config=None,  # otherwise uvicorn reconfigures the loggers of its host process
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=shutdown_seconds,
            proxy_headers=trust_forwarded,
        )
    )


@contextlib.contextmanager
def serve_in_background(
    app: ASGIApp,
    listener: socket.socket,
    *,
    name: str,
    shutdown_seconds: int = 2,
    trust_forwarded: bool = True,
) -> Iterator[None]:
    """Serve in a thread while the block runs."""
    server = create_server(app, shutdown_seconds=shutdown_seconds, trust_forwarded=trust_forwarded)
    thread = threading.Thread(target=server.run, args=([listener],), name=name)
    thread.start()
    try:
        give_up_at = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > give_up_at:
                raise RuntimeError(f"the {name} server did not start")
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()
