"""Serve the gateway in the background of a worker, or in a process of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import structlog

from worker.config import Settings
from worker.gateway.app import Gateway, Observer
from worker.gateway.auth import Keys, read_keys
from worker.gateway.group_commit import GroupCommit
from worker.gateway.reader import DatabaseReader
from worker.http_server import bind_socket, serve_in_background
from worker.store.database import Database

log = structlog.get_logger("evalworker")

SHUTDOWN_SECONDS = 3  # for requests that are still running; each is short

# A thread that returns from the database waits this long for the interpreter while the event loop
# is busy. With Python's default of 5 ms, the median response under load took 1.6 times as long.
SWITCH_SECONDS = 0.0005


@contextlib.contextmanager
def serving_gateway(
    settings: Settings,
    database: Database,
    *,
    on_commit: Callable[[], None] = lambda: None,
    observe: Observer = lambda _route, _status, _seconds: None,
) -> Iterator[str]:
    """Serve on GATEWAY_HOST:GATEWAY_PORT while the block runs, and yield the URL.

    `on_commit` is called after each commit that inserted jobs, `observe` after each response.
    """
    secret = settings.gateway_keys
    keys = Keys(read_keys(secret.get_secret_value() if secret else None))
    host = settings.gateway_host
    with _switch_interval(SWITCH_SECONDS), bind_socket(host, settings.gateway_port) as listener:
        gateway = Gateway(
            DatabaseReader(database),
            GroupCommit(database, on_commit),
            keys,
            max_inputs=settings.gateway_max_inputs,
            max_body_bytes=settings.gateway_max_body_bytes,
            observe=observe,
        )
        url_host = f"[{host}]" if ":" in host else host
        url = f"http://{url_host}:{listener.getsockname()[1]}"
        app = gateway.create_app()
        with serve_in_background(app, listener, name="gateway", shutdown_seconds=SHUTDOWN_SECONDS):
            log.info("gateway.started", url=url)
            yield url
        log.info("gateway.stopped")


@contextlib.contextmanager
def _switch_interval(seconds: float) -> Iterator[None]:
    previous = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(previous)
