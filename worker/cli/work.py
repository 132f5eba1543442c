"""Commands about jobs: enqueue, status, results, retry, cancel."""

from __future__ import annotations

import csv
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from worker.cli.shell import (
    AsJson,
    JobId,
    app,
    as_dict,
    console,
    out,
    print_json,
    ready_database,
    settings_and_logs,
)
from worker.errors import EvalWorkerError, InvalidInputs
from worker.intake import read_inputs, survey
from worker.lifecycle import Status
from worker.outbox import enqueue as enqueue_inputs
from worker.store import changing, claims, jobs

if TYPE_CHECKING:
    from collections.abc import Iterable

    import sqlalchemy as sa

SHOWN_JOBS = 20
SHOWN_FAILURES = 5


class Format(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


@app.command()
def enqueue(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="JSONL or CSV.")
    ],
    judge: Annotated[str, typer.Option(help="The judge's id.")],
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
    judge_version: Annotated[str | None, typer.Option(help="Default: the latest.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key again enqueues nothing.")
    ] = None,
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
    callback_url: Annotated[
        str | None, typer.Option(help="Is sent a signed notice when the job has ended.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Enqueue every line of FILE as one job; prints the job's id."""
    database = ready_database(settings_and_logs())
    size = file.stat().st_size
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        checking = progress.add_task("checking", total=size)
        try:
            found = survey(file, lambda done: progress.update(checking, completed=done))
        except InvalidInputs as error:
            raise InvalidInputs(
                [f"{file}: {offence}" for offence in error.offences], total=error.total
            ) from None
        writing = progress.add_task("enqueuing", total=size)
        with database.engine.begin() as connection:
            job_id = enqueue_inputs(
                connection,
                judge_id=judge,
                inputs=read_inputs(file, lambda done: progress.update(writing, completed=done)),
                tags=tag or (),
                judge_version_id=judge_version,
                idempotency_key=idempotency_key,
                priority=priority,
                callback_url=callback_url,
            )
    if found.ignored:
        names = ", ".join(sorted(found.ignored))
        console.print(f"not sent, as the judge API has no such input fields: {names}")
    if as_json:
        print_json({"job_id": job_id, "inputs": found.inputs})
    else:
        print(job_id)  # noqa: T201 (for `JOB=$(evalworker enqueue …)`)


@app.command()
def status(
    job: Annotated[JobId | None, typer.Argument(metavar="[JOB]", help="One job.")] = None,
    as_json: AsJson = False,
) -> None:
    """How far things are: one job, or the latest ones, the batches under way, and what waits."""
    database = ready_database(settings_and_logs())
    with database.read() as connection:
        if job is not None:
            _show_job(connection, job, as_json=as_json)
        else:
            _show_overview(connection, as_json=as_json)


def _show_job(connection: sa.Connection, job_id: UUID, *, as_json: bool) -> None:
    row = as_dict(jobs.progress_of(connection, job_id))
    notices = jobs.notices_of(connection, job_id)
    if as_json:
        print_json({**row, "notices": [as_dict(notice) for notice in notices]})
        return
    table = Table(show_header=False, box=None)
    for name, value in row.items():
        if value is not None:
            table.add_row(name, str(value))
    out.print(table)
    for notice in notices:
        why = f" ({notice.error})" if notice.error else ""
        out.print(f"  notice {notice.state} after {notice.attempts} tries{why}", markup=False)
    failures = jobs.failures_of(connection, job_id, SHOWN_FAILURES)
    for item in failures:
        out.print(f"  input {item.item_index}: {item.error}", markup=False)
    if row["failed"] > len(failures):
        out.print(f"  … and {row['failed'] - len(failures)} more")


def _show_overview(connection: sa.Connection, *, as_json: bool) -> None:
    counts = jobs.job_counts(connection)
    flying = jobs.batch_counts(connection)
    gates = jobs.closed_gates(connection)
    held = jobs.held_batches(connection)
    notices = jobs.notice_counts(connection)
    untold = jobs.failed_notices(connection, SHOWN_FAILURES)
    latest = jobs.recent_progress(connection, SHOWN_JOBS)
    if as_json:
        print_json(
            {
                "jobs": counts,
                "batches": flying,
                "waiting_for": [as_dict(gate) for gate in gates],
                "held": [as_dict(batch) for batch in held],
                "notices": {**notices, "latest_failed": [as_dict(notice) for notice in untold]},
                "latest": [as_dict(row) for row in latest],
            }
        )
        return
    table = Table("job", "judge", "status", "done", "failed", "waiting", "in flight", "created")
    for row in latest:
        table.add_row(
            str(row.job_id),
            row.judge_id,
            row.status,
            f"{row.completed}/{row.total}",
            str(row.failed),
            str(row.waiting),
            str(row.in_flight),
            row.created_at.strftime("%Y-%m-%d %H:%M:%S"),
        )
    out.print(table)
    out.print(f"jobs: {_counted(counts)}; live batches: {_counted(flying)}")
    for gate in gates:
        out.print(
            f"waiting for {gate.scope} since {gate.closed_at:%H:%M:%S}: {gate.reason} "
            f"(next try {gate.opens_at:%H:%M:%S})",
            markup=False,
        )
    for batch in held:
        out.print(
            f"held: batch {batch.id}, {batch.item_count} inputs for {batch.judge_id}: "
            f"{batch.error}; go on with `evalworker resolve {batch.id}`",
            markup=False,
        )

    if notices:
        out.print(f"notices: {_counted(notices)}")
    for notice in untold:
        out.print(
            f"not told: job {notice.job_id}, after {notice.attempts} tries: {notice.error}",
            markup=False,
        )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


@app.command()
def results(
    job: JobId,
    format: Annotated[Format, typer.Option(help="For people, or for programs.")] = Format.TABLE,  # noqa: A002 (the option's name)
    as_json: AsJson = False,
) -> None:
    """What came out: every input of a job with its scores, in order."""
    database = ready_database(settings_and_logs())
    with database.read() as connection:
        jobs.progress_of(connection, job)
        found = jobs.results_of(connection, job)
        if as_json or format is Format.JSONL:
            for result in found:
                print_json(_result(result))
        elif format is Format.CSV:
            _write_csv(found)
        else:
            _show_results(connection, job, found)


def _result(result: jobs.ItemResult) -> dict[str, Any]:
    shown = ("evaluator_name", "score", "justification", "confidence")
    given = [{name: getattr(score, name) for name in shown} for score in result.scores]
    return {**as_dict(result.item), "scores": given}


def _write_csv(found: Iterable[jobs.ItemResult]) -> None:
    """One line per input and evaluator; one without evaluator where there is no result."""
    writer = csv.writer(sys.stdout)
    item_names = [column.name for column in jobs.item_results.columns]
    score_names = ["evaluator_name", "score", "justification", "confidence"]
    writer.writerow([*item_names, *score_names])
    for result in found:
        item = [getattr(result.item, name) for name in item_names]
        if not result.scores:
            writer.writerow([*item, *("" for _ in score_names)])
        for score in result.scores:
            writer.writerow([*item, *(getattr(score, name) for name in score_names)])


def _show_results(
    connection: sa.Connection, job_id: UUID, found: Iterable[jobs.ItemResult]
) -> None:
    evaluators = [row.evaluator_name for row in jobs.mean_scores(connection, job_id)]
    table = Table("input", "status", *evaluators, "request", "error")
    for result in found:
        scores = {score.evaluator_name: score.score for score in result.scores}
        given = [scores.get(name) for name in evaluators]
        table.add_row(
            str(result.item.item_index),
            result.item.status,
            *("" if score is None else f"{score:.3g}" for score in given),
            _short(result.item.request),
            _short(result.item.error),
        )
    out.print(table)


def _short(text: str | None) -> str:
    line = " ".join((text or "").split()).replace("[", r"\[")
    return line if len(line) <= 50 else f"{line[:49]}…"


@app.command()
def retry(job: JobId, as_json: AsJson = False) -> None:
    """Send the failed inputs of a job again, with all of their attempts."""
    database = ready_database(settings_and_logs())
    _tell(database.run(lambda tx: changing.retry(tx, job)), "to be evaluated again", as_json)


@app.command()
def cancel(job: JobId, as_json: AsJson = False) -> None:
    """End a job: what was not sent is never sent, what comes back from the judge is dropped."""
    database = ready_database(settings_and_logs())
    _tell(database.run(lambda tx: changing.cancel(tx, job)), Status.CANCELLED, as_json)


@app.command()
def resolve(
    batch: Annotated[UUID, typer.Argument(metavar="BATCH", help="The id of a held batch.")],
    resubmit: Annotated[
        bool, typer.Option("--resubmit", help="Send it again; it may be billed twice.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let a held batch go on: look for it at the judge, or send it again."""
    database = ready_database(settings_and_logs())
    state = database.run(lambda tx: claims.resolve(tx, batch, resubmit=resubmit))
    if state is None:
        raise EvalWorkerError(f"there is no held batch {batch}")
    if as_json:
        print_json({"state": state})
    else:
        out.print(f"batch {batch} is {state} again")


def _tell(count: int, what: str, as_json: bool) -> None:
    if as_json:
        print_json({"inputs": count})
    else:
        out.print(f"{count} input{'s' * (count != 1)} {what}")
