"""What the commands share: the application, settings, and the two ways of output."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.console import Console

from worker.app import open_database
from worker.config import Settings, load_settings
from worker.logs import configure_logging, secrets_of
from worker.migrating import check_schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.store.database import Database

app = typer.Typer(
    name="evalworker",
    help="Durable evaluation over the Judge Batch Execution API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True, highlight=False)  # progress, warnings and errors
out = Console(highlight=False)  # what was asked for

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobId = Annotated[UUID, typer.Argument(metavar="JOB", help="The id of a job.")]


def settings_and_logs(**overrides: Any) -> Settings:
    """The settings of this process; from here on no log line shows a secret."""
    settings = load_settings(**overrides)
    configure_logging(
        log_format=settings.log_format, level=settings.log_level, secrets=secrets_of(settings)
    )
    return settings


def ready_database(settings: Settings) -> Database:
    """A database that answers and has this worker's schema."""
    database = open_database(settings)
    check_schema(database)
    return database


def print_json(value: Any) -> None:
    """One JSON document on a line of its own."""
    print(json.dumps(value, default=_plain, ensure_ascii=False))  # noqa: T201 (not for a terminal)


def as_dict(row: Any) -> Mapping[str, Any]:
    return dict(row._mapping)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
