"""Give every command its settings, database, common options and output."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import getpass
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, NoReturn, TextIO

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from worker.admin import Admin
from worker.cli.tables import Column, make_table
from worker.config import Settings, load_settings, unknown_variables
from worker.domain.terminal_text import escape_controls
from worker.logs import configure_logging, secrets_of
from worker.store.database import Database, open_database
from worker.store.schema_version import check_schema

MIN_ID_PREFIX = 4  # hexadecimal digits
_ID_PREFIX = re.compile(rf"(?i)(?:[0-9a-f]-?){{{MIN_ID_PREFIX},32}}")


def check_id_prefix(text: str | None) -> str | None:
    """Refuse what cannot be the beginning of an id."""
    if text is not None and not _ID_PREFIX.fullmatch(text):
        raise typer.BadParameter(
            f"{text!r} is neither an id nor the first characters of one, at least {MIN_ID_PREFIX}"
        )
    return text


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobId = Annotated[
    str,
    typer.Argument(
        metavar="JOB", callback=check_id_prefix, help="The job's id, or its first characters."
    ),
]
MigrateFirst = Annotated[
    bool, typer.Option("--migrate", envvar="EVALWORKER_MIGRATE", help="Migrate the database first.")
]
PausedJudge = Annotated[
    str | None, typer.Option("--judge", metavar="ID", help="One judge; by default every judge.")
]

log = structlog.get_logger("evalworker")

WIDE = 10_000  # columns where the output is not a terminal, so that `grep` finds whole lines


class TerminalConsole(Console):
    """A console that shows foreign texts, and never obeys them.

    Tables and lines escape them where they are made, so that no text can add a line. Here, all
    else is escaped.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escape_controls(text, keep="\n\t"), **options)

    def on_broken_pipe(self) -> NoReturn:
        """Leave it to the command line to end quietly, with its own exit status."""
        raise BrokenPipeError


def _console(**options: Any) -> Console:
    console = TerminalConsole(**options)
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


def warn_of_unknown_variables() -> None:
    """Log each variable that looks like a setting and is none: it has no effect."""
    for name, near in unknown_variables().items():
        log.warning("settings.unknown_variable", variable=name, did_you_mean=near)


def open_admin() -> Admin:
    """Open the configured database for an operator's command.

    The history records what such a command does, so only warnings are logged by default.
    """
    settings = load_settings()
    level = settings.log_level if "log_level" in settings.model_fields_set else "WARNING"
    configure_logging(log_format=settings.log_format, level=level, secrets=secrets_of(settings))
    return Admin(settings.database_url, actor=f"cli:{_login_name()}")


def _login_name() -> str:
    """Return who gives the command, as the operating system says: for the history, not for access.

    A container may run under a number without a name.
    """
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return name.encode("utf-8", "replace").decode()


def ready_database(settings: Settings) -> Database:
    """Open the database; it must have this worker's schema."""
    database = open_database(settings)
    check_schema(database)
    return database


def freeze_imports() -> None:
    """Exempt all that was imported from garbage collection: a full one would pause for 90 ms."""
    gc.collect()
    gc.freeze()


def limit_arenas() -> None:
    """Let all threads allocate from two arenas, where the C library is glibc.

    By default each thread has one of its own, and keeps there what a large response once took.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)


_ARENA_MAX = -8  # glibc's M_ARENA_MAX


def progress_bar(*counts: ProgressColumn) -> Progress:
    """Return a progress bar that is cleared at its end, and shown on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), *counts)
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def data_stream() -> TextIO:
    """Return standard output for data: UTF-8 whatever the locale, and line ends as written."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        # Half a surrogate, which UTF-8 cannot have, is written as JSON would escape it.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    return stream


def print_json(value: Any) -> None:
    """Print a JSON document on one line."""
    data_stream().write(f"{json.dumps(value, default=_plain, ensure_ascii=False)}\n")


def print_line(text: str) -> None:
    """Print one line for people, whatever foreign texts are in it."""
    out.print(escape_controls(text), markup=False)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    out.print(make_table(columns, rows, out.width))


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
