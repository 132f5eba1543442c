"""Commands that look: results, batches, events."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from worker.admin import UNSETTLED
from worker.cli.context import AsJson, JobId, app, console, operator, out, print_json, show_table
from worker.cli.tables import Column, ago, counted, moment, one_line
from worker.domain.lifecycle import BatchState
from worker.export import Format, write_text

if TYPE_CHECKING:
    from worker.admin import Admin


class Shape(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


@app.command()
def results(
    job: JobId,
    shape: Annotated[
        Shape | None,
        typer.Option("--format", help="Default: a table, or what the name of the file says."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="A file; it is there when it is whole.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What came out: every input of a job with its scores, in order."""
    form = _form(Shape.JSONL if as_json else shape, output)
    with operator() as admin:
        if output is not None and form is not None:
            _export(admin, job, output, form)
        elif form is None:
            _show_results(admin, job)
        else:
            write_text(admin.results(job), sys.stdout, form)


def _form(shape: Shape | None, output: Path | None) -> Format | None:
    """What to write; None: a table for people."""
    if output is None:
        if shape is Shape.PARQUET:
            raise typer.BadParameter("Parquet goes into a file: --output FILE")
        return None if shape in (None, Shape.TABLE) else Format(shape)
    word = output.suffix.removeprefix(".").lower() if shape is None else shape
    if word not in set(Format):
        raise typer.BadParameter(
            f"{output}: name it .jsonl, .csv or .parquet, or say which with --format"
        )
    return Format(word)


def _export(admin: Admin, job_id: UUID, output: Path, form: Format) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    total = admin.job(job_id)["total"]
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("inputs", total=total)
        admin.export(
            job_id, output, form, on_progress=lambda done: progress.update(task, completed=done)
        )
    out.print(f"{counted(total, 'input')} in {output}", markup=False)


def _show_results(admin: Admin, job_id: UUID) -> None:
    evaluators = [row["evaluator_name"] for row in admin.means(job_id)]
    columns = [Column("input", number=True), Column("status")]
    columns += [Column(name, number=True) for name in evaluators]
    columns += [Column("request", cut=True), Column("error", cut=True)]
    rows: list[list[object]] = []
    for result in admin.results(job_id):
        scores = {score.evaluator_name: score.score for score in result.scores}
        given = [scores.get(name) for name in evaluators]
        rows.append(
            [
                result.item.item_index,
                result.item.status,
                *("" if score is None else f"{score:.3g}" for score in given),
                one_line(result.item.request, 50),
                one_line(result.item.error, 50),
            ]
        )
    show_table(columns, rows)


BATCH_COLUMNS = (
    Column("batch"),
    Column("judge", cut=True),
    Column("state"),
    Column("inputs", number=True),
    Column("age", number=True),
    Column("error", cut=True),
)


@app.command()
def batches(
    state: Annotated[
        list[BatchState] | None,
        typer.Option(help="May be repeated. Default: all that have not ended."),
    ] = None,
    job: Annotated[
        JobId | None, typer.Option("--job", metavar="JOB", help="Those that its inputs are in.")
    ] = None,
    judge: Annotated[str | None, typer.Option(metavar="ID", help="Those of one judge.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """The batches in a state, newest first: where they are at the judge, and what went wrong."""
    states = set(state or (BatchState if job is not None else UNSETTLED))
    with operator() as admin:
        found = admin.batches(states, judge_id=judge, job_id=job, limit=limit + 1)
    more = len(found) > limit
    if as_json:
        print_json(found[:limit])
        return
    if not found:
        out.print(f"no batch is {' or '.join(sorted(states))}")
        return
    now = datetime.now(UTC)
    show_table(
        BATCH_COLUMNS,
        [
            [
                *(batch[name] for name in ("id", "judge_id", "state", "item_count")),
                ago(batch["created_at"], now),
                batch["error"],
            ]
            for batch in found[:limit]
        ],
    )
    if more:
        out.print(f"… and more: --limit {limit * 10}")
    held = [batch for batch in found[:limit] if batch["state"] == BatchState.HELD]
    if held:
        out.print(f"held ones wait for you: `evalworker resolve {held[0]['id']}`")


@app.command()
def events(job: JobId, as_json: AsJson = False) -> None:
    """What happened to a job, its inputs and its batches, oldest first; with --json a line each."""
    with operator() as admin:
        for event in admin.events(job):
            if as_json:
                print_json(event)
            else:
                out.print(_told(event), markup=False, soft_wrap=True)


def _told(event: dict[str, Any]) -> str:
    words = [moment(event["at"]), f"{event['event']:<18}"]
    if event["item_index"] is not None:
        words.append(f"input {event['item_index']}")
    if event["batch_id"] is not None:
        words.append(f"batch {event['batch_id']}")
    detail = event["detail"] or {}
    words += [f"{name}={one_line(str(value), 200)}" for name, value in detail.items()]
    return "  ".join(words)
