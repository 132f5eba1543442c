"""Commands that change what is to be done: enqueue, retry, cancel, pause, resume, resolve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from worker.admin import NO_REASON
from worker.cli.context import (
    AsJson,
    JobId,
    app,
    console,
    operator,
    out,
    print_json,
    ready_database,
    settings_and_logs,
)
from worker.cli.input_files import read_inputs, survey
from worker.cli.tables import counted
from worker.errors import InvalidInputs
from worker.outbox import enqueue as enqueue_inputs

Judge = Annotated[
    str | None, typer.Option("--judge", metavar="ID", help="One judge; default: everything.")
]


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
def retry(
    job: JobId,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Every input that has ended; evaluated and billed again."),
    ] = False,
    item: Annotated[
        int | None, typer.Option(metavar="INDEX", min=0, help="That input, whatever came of it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send the failed inputs of a job again, with all of their attempts."""
    if everything and item is not None:
        raise typer.BadParameter("--all and --item exclude one another")
    with operator() as admin:
        count = admin.retry(job, everything=everything, item_index=item)
    if as_json:
        print_json({"inputs": count})
    elif count:
        out.print(f"{counted(count, 'input')} to be evaluated again")
    else:
        out.print(f"no input of job {job} has {'ended' if everything else 'failed'}")


@app.command()
def cancel(job: JobId, as_json: AsJson = False) -> None:
    """End a job: what was not sent is never sent, what comes back from the judge is dropped."""
    with operator() as admin:
        came_to = admin.cancel(job)
        status = admin.job(job)["status"]
    if as_json:
        print_json(came_to)
        return
    if not came_to["inputs"]:
        out.print(f"nothing is left to cancel: the job is {status}")
        return
    out.print(f"{counted(came_to['inputs'], 'input')} cancelled")
    if came_to["at_judge"]:
        out.print(
            f"{counted(came_to['at_judge'], 'input')} of them had been sent: the judge goes on, "
            "and what it answers is dropped"
        )


@app.command()
def pause(
    judge: Judge = None,
    reason: Annotated[str, typer.Option(help="Shown to everybody who looks.")] = NO_REASON,
    as_json: AsJson = False,
) -> None:
    """Submit nothing new, until `resume`; what is at the judge goes on, and is recorded."""
    with operator() as admin:
        newly = admin.pause(judge, reason=reason)
        waiting = sum(row["waiting"] for row in admin.judges() if judge in (None, row["judge_id"]))
    if as_json:
        print_json({"paused": judge, "newly": newly, "waiting": waiting})
        return
    what = "everything" if judge is None else f"judge {judge}"
    again = "is paused" if newly else "was paused already; it now says why"
    out.print(f"{what} {again}: {reason}; {counted(waiting, 'input')} waiting", markup=False)


@app.command()
def resume(judge: Judge = None, as_json: AsJson = False) -> None:
    """End a pause; the pauses of other judges stay."""
    with operator() as admin:
        admin.resume(judge)
        left = admin.status()["paused"]
    if as_json:
        print_json({"resumed": judge, "paused": left})
        return
    out.print("resumed" if judge is None else f"judge {judge} is resumed", markup=False)
    for row in left:
        what = "everything" if row["judge_id"] is None else f"judge {row['judge_id']}"
        out.print(f"still paused: {what}: {row['reason']}", markup=False)


@app.command()
def resolve(
    batch: Annotated[UUID, typer.Argument(metavar="BATCH", help="The id of a held batch.")],
    resubmit: Annotated[
        bool, typer.Option("--resubmit", help="Send it again; it may be billed twice.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let a held batch go on: look for it at the judge, or send it again."""
    with operator() as admin:
        state = admin.resolve(batch, resubmit=resubmit)
    if as_json:
        print_json({"state": state})
    else:
        out.print(f"batch {batch} is {state} again")
