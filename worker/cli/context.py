"""What the commands share: the application, settings, and the two ways of output."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.console import Console

from worker.admin import Admin
from worker.cli.tables import table_of
from worker.config import Settings, load_settings
from worker.logs import configure_logging, secrets_of
from worker.store.database import open_database
from worker.store.schema_version import check_schema

if TYPE_CHECKING:
    from worker.cli.tables import Column
    from worker.store.database import Database

app = typer.Typer(
    name="evalworker",
    help="Durable evaluation over the Judge Batch Execution API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
WIDE = 10_000  # columns of what is not a terminal: `grep` finds whole lines


def _console(**options: Any) -> Console:
    given = Console(highlight=False, **options)
    if not given.is_terminal and "COLUMNS" not in os.environ:
        given.width = WIDE
    return given


console = _console(stderr=True)  # progress, warnings and errors
out = _console()  # what was asked for

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobId = Annotated[UUID, typer.Argument(metavar="JOB", help="The id of a job.")]


def settings_and_logs(**overrides: Any) -> Settings:
    """The settings of this process; from here on no log line shows a secret."""
    settings = load_settings(**overrides)
    configure_logging(
        log_format=settings.log_format, level=settings.log_level, secrets=secrets_of(settings)
    )
    return settings


def operator() -> Admin:
    """The operations, on the database of the settings.

    The history has what they do; log lines would tell it a second time, unless they are asked for.
    """
    settings = load_settings()
    level = settings.log_level if "log_level" in settings.model_fields_set else "WARNING"
    configure_logging(log_format=settings.log_format, level=level, secrets=secrets_of(settings))
    return Admin(settings.database_url)


def ready_database(settings: Settings) -> Database:
    """A database that answers and has this worker's schema."""
    database = open_database(settings)
    check_schema(database)
    return database


def print_json(value: Any) -> None:
    """One JSON document on a line of its own."""
    print(json.dumps(value, default=_plain, ensure_ascii=False))  # noqa: T201 (not for a terminal)


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    out.print(table_of(columns, rows, out.width))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
