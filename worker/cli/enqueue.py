"""Enqueue a file of inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskProgressColumn
from sqlalchemy.exc import ProgrammingError

from worker import outbox
from worker.cli.context import AsJson, configure, err, print_json, progress_bar, ready_database
from worker.cli.input_files import check_file, read_inputs
from worker.domain.phrases import quantity
from worker.errors import InvalidInputs
from worker.store.database import Database
from worker.store.job_queries import progress_of


def enqueue(
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, readable=True, help="A JSONL or CSV file."),
    ],
    judge: Annotated[str, typer.Option(help="The judge's id.")],
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
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
    as_json: AsJson = False,
) -> None:
    database = ready_database(configure())
    size = file.stat().st_size
    with progress_bar(TaskProgressColumn()) as progress:
        checking = progress.add_task("checking", total=size)
        try:
            checked = check_file(file, lambda done: progress.update(checking, completed=done))
        except InvalidInputs as error:
            raise InvalidInputs(
                [f"{file}: {offence}" for offence in error.offences], total=error.total
            ) from None
        writing = progress.add_task("enqueuing", total=size)
        with database.engine.begin() as connection:
            enqueued = outbox.enqueue_once(
                connection,
                judge_id=judge,
                inputs=read_inputs(file, lambda done: progress.update(writing, completed=done)),
                tags=tag or (),
                judge_version_id=judge_version,
                idempotency_key=idempotency_key,
                priority=priority,
                callback_url=callback_url,
            )
    if checked.ignored:
        names = ", ".join(sorted(checked.ignored))
        err.print(f"ignored, as the judge API has no such input fields: {names}", markup=False)
    inputs: int | None = checked.inputs
    if not enqueued.is_new:
        inputs = _say_that_it_was_there(database, enqueued, checked.inputs)
    if as_json:
        found = {"job_id": enqueued.job_id, "inputs": inputs, "existing": not enqueued.is_new}
        print_json(found)
    else:
        print(enqueued.job_id)  # noqa: T201 (for `JOB=$(evalworker enqueue …)`)


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
