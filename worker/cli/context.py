"""Give every command its settings, database, common options and output."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

from worker.admin import Admin
from worker.cli.tables import Column, make_table
from worker.config import Settings, load_settings
from worker.logs import configure_logging, secrets_of
from worker.store.database import Database, open_database
from worker.store.schema_version import check_schema

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobId = Annotated[UUID, typer.Argument(metavar="JOB", help="The job's id.")]
MigrateFirst = Annotated[
    bool, typer.Option("--migrate", envvar="EVALWORKER_MIGRATE", help="Migrate the database first.")
]
PausedJudge = Annotated[
    str | None, typer.Option("--judge", metavar="ID", help="One judge; by default every judge.")
]

WIDE = 10_000  # columns where the output is not a terminal, so that `grep` finds whole lines


def _console(**options: Any) -> Console:
    console = Console(highlight=False, **options)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console


err = _console(stderr=True)  # progress, warnings and errors
out = _console()  # what was asked for


def configure(**overrides: Any) -> Settings:
    """Load the settings, and configure logging so that no line shows a secret."""
    settings = load_settings(**overrides)
    configure_logging(
        log_format=settings.log_format, level=settings.log_level, secrets=secrets_of(settings)
    )
    return settings


def open_admin() -> Admin:
    """Open the configured database for an operator's command.

    The history records what such a command does, so only warnings are logged by default.
    """
    settings = load_settings()
    level = settings.log_level if "log_level" in settings.model_fields_set else "WARNING"
    configure_logging(log_format=settings.log_format, level=level, secrets=secrets_of(settings))
    return Admin(settings.database_url)


def ready_database(settings: Settings) -> Database:
    """Open the database; it must have this worker's schema."""
    database = open_database(settings)
    check_schema(database)
    return database


def freeze_imports() -> None:
    """Exempt all that was imported from garbage collection: a full one would pause for 90 ms."""
    gc.collect()
    gc.freeze()


def progress_bar(*counts: ProgressColumn) -> Progress:
    """Return a progress bar that is cleared at its end, and shown on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), *counts)
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def print_json(value: Any) -> None:
    """Print a JSON document on one line."""
    print(json.dumps(value, default=_plain, ensure_ascii=False))  # noqa: T201 (not for a terminal)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    out.print(make_table(columns, rows, out.width))


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
