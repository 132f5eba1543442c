"""The sandbox on a port: in a thread for the demo and tests, or in the foreground."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from worker.sandbox.app import Sandbox
from worker.sandbox.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.sandbox.options import SandboxOptions

START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Running:
    """A sandbox that answers at `url`."""

    url: str
    api_key: str
    ledger: Ledger


@contextlib.contextmanager
def running_sandbox(
    options: SandboxOptions, *, ledger_path: str | Path = ":memory:", port: int = 0
) -> Iterator[Running]:
    """A sandbox in the background, on a free loopback port unless told which."""
    with _listening("127.0.0.1", port) as listener, contextlib.closing(Ledger(ledger_path)) as led:
        server = _server(options, led)
        thread = threading.Thread(target=server.run, args=([listener],), name="sandbox")
        thread.start()
        try:
            give_up_at = time.monotonic() + START_SECONDS
            while not server.started:
                if not thread.is_alive() or time.monotonic() > give_up_at:
                    raise RuntimeError("the sandbox did not start")
                time.sleep(0.01)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield Running(url, options.api_key, led)
        finally:
            server.should_exit = True
            thread.join()


def serve(
    options: SandboxOptions, *, host: str, port: int, ledger_path: str | Path = ":memory:"
) -> None:
    """A sandbox in the foreground, until SIGINT or SIGTERM."""
    with _listening(host, port) as listener, contextlib.closing(Ledger(ledger_path)) as ledger:
        shown = f"http://{host}:{listener.getsockname()[1]}"
        print(f"export EVALWORKER_API_URL={shown}", flush=True)  # noqa: T201 (to be copied)
        print(f"export EVALWORKER_API_KEY={options.api_key}", flush=True)  # noqa: T201
        _server(options, ledger).run([listener])


def _listening(host: str, port: int) -> socket.socket:
    # Taken before the server starts: its number is known, and nobody else can have it.
    return socket.create_server((host, port), backlog=2048)


def _server(options: SandboxOptions, ledger: Ledger) -> uvicorn.Server:
    app = Sandbox(options, ledger).create_app()
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="critical",
            log_config=None,  # else it takes its loggers out of the hands of whoever logs here
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
    )
