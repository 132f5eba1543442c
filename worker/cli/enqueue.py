"""Enqueue a file of inputs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskProgressColumn
from sqlalchemy.exc import ProgrammingError

from worker import outbox
from worker.cli.context import (
    AsJson,
    configure,
    err,
    print_json,
    print_line,
    progress_bar,
    ready_database,
)
from worker.cli.input_files.charset import is_text_encoding
from worker.cli.input_files.check import CheckedFile
from worker.cli.input_files.columns import listed
from worker.cli.input_files.fields import near_name
from worker.cli.input_files.input_file import InputFile, open_input_file
from worker.cli.input_files.preview import Preview
from worker.cli.input_files.selection import (
    Selection,
    WrongOption,
    parse_delimiter,
    parse_selection,
)
from worker.cli.input_files.source import STANDARD_INPUT
from worker.domain.phrases import quantity
from worker.store.database import Database
from worker.store.job_queries import progress_of

Several = list[str] | None
_URL = re.compile(r"https?:/")


def _existing(file: Path) -> Path:
    """Return a path that can be opened; for another one, name what was probably meant."""
    if file == STANDARD_INPUT:
        return file
    if file.is_dir():
        found = sorted(path.name for path in file.iterdir() if path.is_file())[:3]
        files = f": {', '.join(found)}, …" if found else ""
        raise typer.BadParameter(f"{file} is a folder; name one file{files}")
    if not file.exists():
        if _URL.match(str(file)):
            raise typer.BadParameter("for a URL: curl -L URL | evalworker enqueue - …")
        folder = file.parent
        near = near_name(file.name, map(_name, folder.iterdir()) if folder.is_dir() else ())
        hint = f"; did you mean {shlex.quote(str(folder / near))}?" if near else ""
        raise typer.BadParameter(f"there is no file {file}{hint}")
    return file


def _name(path: Path) -> str:
    return path.name


def _known_encoding(name: str | None) -> str | None:
    if name is not None and not is_text_encoding(name):
        raise typer.BadParameter(
            f"{name!r} is not an encoding; known are utf-16, cp1252, latin-1, mac_roman, and so on"
        )
    return name


def _one_character(given: str | None) -> str | None:
    try:
        return None if given is None else parse_delimiter(given)
    except WrongOption as error:
        raise typer.BadParameter(str(error)) from None


def enqueue(
    file: Annotated[
        Path,
        typer.Argument(
            callback=_existing,
            help="JSONL, JSON, CSV or Parquet, also compressed; `-` is standard input.",
        ),
    ],
    judge: Annotated[str, typer.Option(help="The judge's id.")],
    tag: Annotated[Several, typer.Option(help="A tag; may be repeated.")] = None,
    judge_version: Annotated[
        str | None, typer.Option(help="The judge version's id; by default the latest version.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="With a key that was used before, nothing is enqueued.")
    ] = None,
    priority: Annotated[int, typer.Option(help="Jobs with a higher priority are sent first.")] = 0,
    callback_url: Annotated[
        str | None, typer.Option(help="URL that receives a signed notice when the job has ended.")
    ] = None,
    maps: Annotated[
        Several,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="Fill an input field from a column, as in request=question; may be repeated.",
        ),
    ] = None,
    sets: Annotated[
        Several,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Fill an input field of all inputs with one value; may be repeated.",
        ),
    ] = None,
    split: Annotated[
        Several,
        typer.Option(
            metavar="FIELD=SEPARATOR",
            help="Split a text into a list, as in contexts='|'; may be repeated.",
        ),
    ] = None,
    metadata: Annotated[
        Several,
        typer.Option(
            metavar="COLUMN",
            help="Keep a column with its input, to join results by; may be repeated.",
        ),
    ] = None,
    ignore: Annotated[
        Several, typer.Option(metavar="COLUMN", help="Leave a column out; may be repeated.")
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            callback=_one_character, help="What separates the cells of CSV, such as ';' or tab."
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(callback=_known_encoding, help="The encoding of the text, such as cp1252."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be enqueued; needs no database.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    selection = _selection(maps, sets, split, ignore, metadata)
    settings = configure()
    database = None if dry_run else ready_database(settings)
    opened = open_input_file(file, selection, encoding=encoding, delimiter=delimiter)
    with progress_bar(TaskProgressColumn()) as progress, opened as input_file:
        checking = progress.add_task("checking", total=input_file.size)
        checked = input_file.check(lambda done: progress.update(checking, completed=done))
        if database is None:
            progress.stop()
            _print_preview(Preview(input_file, checked, selection, settings.batch_size), as_json)
            return
        _print_left_out(input_file, checked)
        writing = progress.add_task("enqueuing", total=input_file.size)
        with database.engine.begin() as connection:
            enqueued = outbox.enqueue_once(
                connection,
                judge_id=judge,
                inputs=input_file.inputs(lambda done: progress.update(writing, completed=done)),
                tags=tag or (),
                judge_version_id=judge_version,
                idempotency_key=idempotency_key,
                priority=priority,
                callback_url=callback_url,
            )
    inputs: int | None = checked.inputs
    if not enqueued.is_new:
        inputs = _say_that_it_was_there(database, enqueued, checked.inputs)
    if as_json:
        found = {"job_id": enqueued.job_id, "inputs": inputs, "existing": not enqueued.is_new}
        print_json(found)
    else:
        print(enqueued.job_id)  # noqa: T201 (for `JOB=$(evalworker enqueue …)`)


def _selection(
    maps: Several, sets: Several, splits: Several, ignored: Several, kept: Several
) -> Selection:
    try:
        return parse_selection(
            maps=maps or (),
            sets=sets or (),
            splits=splits or (),
            ignored=ignored or (),
            kept=kept or (),
        )
    except WrongOption as error:
        raise typer.BadParameter(str(error)) from None


def _print_left_out(input_file: InputFile, checked: CheckedFile) -> None:
    """Say what is not taken, before anything is written."""
    for note in checked.notes:
        err.print(f"{input_file.name}: {note}", markup=False)
    if checked.left_out:
        err.print(
            f"left out, as the judge API has no such input fields: {listed(checked.left_out)}"
            " (--metadata COLUMN keeps one with its inputs)",
            markup=False,
        )


def _print_preview(preview: Preview, as_json: bool) -> None:
    if as_json:
        print_json(preview.document())
        return
    for line in preview.lines():
        print_line(line)


def _say_that_it_was_there(
    database: Database, enqueued: outbox.Enqueued, in_file: int
) -> int | None:
    """Say what is stored under the key; return the number of its inputs, None if not known."""
    head = f"nothing was enqueued: job {enqueued.job_id} has this idempotency key already"
    if enqueued.is_compared:
        err.print(f"{head}, and the same {quantity(in_file, 'input')}", markup=False)
        return in_file
    try:
        with database.read() as connection:
            stored = progress_of(connection, enqueued.job_id).total
    except ProgrammingError:  # a producer's role may not read jobs
        err.print(f"{head}; whether its inputs are the same is not known", markup=False)
        return None
    has = quantity(stored, "input")
    err.print(f"{head}; it has {has}; whether they are the same is not known", markup=False)
    return stored
