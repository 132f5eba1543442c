"""An HTTP application on a port, in a thread of its own or in the foreground."""

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
    from starlette.applications import Starlette

START_SECONDS = 10.0
BACKLOG = 2048
IDLE_SECONDS = 75.0  # longer than clients keep a connection that nobody uses: they close it first


def bind_socket(host: str, port: int) -> socket.socket:
    """Taken before the server starts: its number is known, and nobody else can have it.

    Raises `Unreachable` where the address is not to be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Unreachable("address to listen on", f"{host}:{port}", error) from error


def create_server(app: Starlette, *, shutdown_seconds: int) -> uvicorn.Server:
    """What still runs after so many seconds of ending is broken off."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="critical",
            log_config=None,  # else it takes its loggers out of the hands of whoever logs here
            timeout_keep_alive=int(IDLE_SECONDS),
            timeout_graceful_shutdown=shutdown_seconds,
        )
    )


@contextlib.contextmanager
def serve_in_background(
    app: Starlette, listener: socket.socket, *, name: str, shutdown_seconds: int = 2
) -> Iterator[None]:
    """Answers while the block runs."""
    running = create_server(app, shutdown_seconds=shutdown_seconds)
    thread = threading.Thread(target=running.run, args=([listener],), name=name)
    thread.start()
    try:
        give_up_at = time.monotonic() + START_SECONDS
        while not running.started:
            if not thread.is_alive() or time.monotonic() > give_up_at:
                raise RuntimeError(f"the {name} did not start")
            time.sleep(0.01)
        yield
    finally:
        running.should_exit = True
        thread.join()
