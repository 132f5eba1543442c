"""Serve the console alone."""

from __future__ import annotations

import contextlib
import threading
from typing import Annotated, Any

import typer

from worker.app import TICK_SECONDS, ending_on_signals
from worker.cli.context import (
    MigrateFirst,
    configure,
    err,
    freeze_imports,
    ready_database,
    warn_of_unknown_variables,
)
from worker.cli.migrate import migrate_database
from worker.console.server import serving_console
from worker.health import gateway_operations, operations_server
from worker.metrics import Metrics


def console(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; EVALWORKER_CONSOLE_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen on; EVALWORKER_CONSOLE_PORT, or 8323."),
    ] = None,
    migrate_first: MigrateFirst = False,
) -> None:
    given: dict[str, Any] = {"console_host": host, "console_port": port}
    settings = configure(**{name: value for name, value in given.items() if value is not None})
    warn_of_unknown_variables()
    if migrate_first:
        migrate_database(settings)
    ending = threading.Event()
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(contextlib.closing(ready_database(settings)))
        stack.enter_context(ending_on_signals(ending))
        operations = gateway_operations(database, Metrics())
        stack.enter_context(operations_server(settings, operations))
        url = stack.enter_context(serving_console(settings))
        err.print(f"the console is at {url}", markup=False, soft_wrap=True)
        freeze_imports()
        while not ending.wait(TICK_SECONDS):
            pass  # signals are handled between two waits
