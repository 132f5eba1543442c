"""Serve the sandbox: in a thread for the demo and for tests, or in the foreground."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.http_server import bind_socket, create_server, serve_in_background
from worker.sandbox.app import Sandbox
from worker.sandbox.ledger import Ledger
from worker.sandbox.options import SandboxOptions

SHUTDOWN_SECONDS = 2


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox that serves requests at `url`."""

    url: str
    api_key: str
    ledger: Ledger


@contextlib.contextmanager
def running_sandbox(
    options: SandboxOptions, *, ledger_path: str | Path = ":memory:", port: int = 0
) -> Iterator[RunningSandbox]:
    """Serve a sandbox in the background on a loopback port; 0 means any free one."""
    with (
        bind_socket("127.0.0.1", port) as listener,
        contextlib.closing(Ledger(ledger_path)) as ledger,
    ):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = Sandbox(options, ledger).create_app()
        with serve_in_background(app, listener, name="sandbox", shutdown_seconds=SHUTDOWN_SECONDS):
            yield RunningSandbox(url, options.api_key, ledger)


def serve(
    options: SandboxOptions, *, host: str, port: int, ledger_path: str | Path = ":memory:"
) -> None:
    """Serve a sandbox in the foreground until SIGINT or SIGTERM."""
    with bind_socket(host, port) as listener, contextlib.closing(Ledger(ledger_path)) as ledger:
        shown = f"http://{host}:{listener.getsockname()[1]}"
        print(f"export EVALWORKER_API_URL={shown}", flush=True)  # noqa: T201 (for the user to copy)
        print(f"export EVALWORKER_API_KEY={options.api_key}", flush=True)  # noqa: T201
        app = Sandbox(options, ledger).create_app()
        create_server(app, name="sandbox", shutdown_seconds=SHUTDOWN_SECONDS).run([listener])
