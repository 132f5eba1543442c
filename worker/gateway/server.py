"""The gateway on its port, in the background of a worker or of a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import structlog

from worker.config import Settings
from worker.gateway.app import Gateway, Observer
from worker.gateway.auth import Keys, read_keys
from worker.gateway.group_commit import Writing
from worker.gateway.reader import Reading
from worker.http_server import in_background, listening
from worker.store.database import Database

log = structlog.get_logger("evalworker")

END_SECONDS = 3  # for requests that still run; each is short


@contextlib.contextmanager
def serving_gateway(
    settings: Settings,
    database: Database,
    *,
    on_taken: Callable[[], None] = lambda: None,
    observe: Observer = lambda _endpoint, _status, _seconds: None,
) -> Iterator[str]:
    """Answers on GATEWAY_HOST:GATEWAY_PORT while the block runs; gives the URL.

    `on_taken` is called after each commit that took something, `observe` after each answer.
    """
    given = settings.gateway_keys
    keys = Keys(read_keys(given.get_secret_value() if given else None))
    host = settings.gateway_host
    with listening(host, settings.gateway_port) as listener:
        gateway = Gateway(
            Reading(database),
            Writing(database, on_taken),
            keys,
            max_inputs=settings.gateway_max_inputs,
            max_body_bytes=settings.gateway_max_body_bytes,
            observe=observe,
        )
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        app = gateway.create_app()
        with in_background(app, listener, name="gateway", end_seconds=END_SECONDS):
            log.info("gateway.started", url=url)
            yield url
        log.info("gateway.stopped")
