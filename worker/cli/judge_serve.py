"""Serve a judge of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.cli.context import err
from worker.cli.judge_init import FILE
from worker.domain.terminal_text import escape_controls
from worker.judge.judges_file import Definitions, load_definitions
from worker.judge.server import KEY_OF_ANYBODY, check_host, judge_app, serve
from worker.logs import configure_logging

Config = Annotated[Path, typer.Option(help="File of judges and models.")]


def judge_serve(
    config: Config = Path(FILE),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = 8321,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    state: Annotated[Path, typer.Option(help="SQLite file that keeps batches and costs.")] = Path(
        "judge.db"
    ),
) -> None:
    definitions = open_definitions(config)
    check_host(host, definitions)
    key = None if definitions.server_key else KEY_OF_ANYBODY  # a real one is not shown
    serve(judge_app(definitions), host=host, port=port, state=state, key=key)


def open_definitions(config: Path) -> Definitions:
    """Read the files, say what is remarkable about them, and keep their keys out of the log."""
    definitions = load_definitions(config)
    for note in definitions.notes:
        err.print(escape_controls(f"note: {note}"), markup=False)
    keys = [model.key() for model in definitions.models.values()] + [definitions.server_key]
    configure_logging(log_format="auto", level="INFO", secrets=[key for key in keys if key])
    return definitions
