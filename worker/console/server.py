"""Serve the console in the background, of a worker or of a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import structlog

from worker.admin import Admin
from worker.config import Settings
from worker.console.access import Access
from worker.console.app import ConsoleApp
from worker.console.renderer import load_templates
from worker.console.request_guard import is_loopback
from worker.errors import ConfigurationError
from worker.http_server import bind_socket, serve_in_background

log = structlog.get_logger("evalworker")

SHUTDOWN_SECONDS = 6  # for requests that still run: a read takes up to five


@contextlib.contextmanager
def serving_console(settings: Settings) -> Iterator[str]:
    """Serve on CONSOLE_HOST:CONSOLE_PORT while the block runs, and yield the URL.

    Raises `ConfigurationError` for an address that others can reach if nothing asks who they are.
    """
    access = Access.from_settings(settings)
    host = settings.console_host
    if access.is_local and not is_loopback(host):
        raise ConfigurationError(
            [
                f"EVALWORKER_CONSOLE_HOST={host}: without keys, the console listens on 127.0.0.1 "
                "only; set EVALWORKER_CONSOLE_KEYS, or EVALWORKER_CONSOLE_PROXY_HEADER and "
                "EVALWORKER_CONSOLE_PROXIES"
            ]
        )
    load_templates()
    with (
        bind_socket(host, settings.console_port) as listener,
        Admin(settings.database_url) as admin,
    ):
        url_host = f"[{host}]" if ":" in host else host
        url = f"http://{url_host}:{listener.getsockname()[1]}{settings.console_prefix}/"
        app = ConsoleApp(admin, settings, access).create()
        with serve_in_background(
            app,
            listener,
            name="console",
            shutdown_seconds=SHUTDOWN_SECONDS,
            trust_forwarded=False,  # `Access` decides by the address that connected
        ):
            log.info("console.started", url=url)
            yield url
        log.info("console.stopped")
