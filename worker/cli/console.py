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
    warn_of_unknown_variables,
)
from worker.cli.migrate import migrate_database
from worker.console.server import serving_console


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
        stack.enter_context(ending_on_signals(ending))
        url = stack.enter_context(serving_console(settings))
        err.print(f"the console is at {url}", markup=False, soft_wrap=True)
        freeze_imports()
        while not ending.wait(TICK_SECONDS):
            pass  # signals are handled between two waits
