"""List batches."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from worker.admin import UNSETTLED
from worker.cli.context import AsJson, check_id_prefix, open_admin, out, print_json, print_table
from worker.cli.tables import Column
from worker.domain.lifecycle import BatchState
from worker.domain.phrases import age

COLUMNS = (
    Column("batch"),
    Column("judge", shrinkable=True),
    Column("state"),
    Column("inputs", numeric=True),
    Column("age", numeric=True),
    Column("error", shrinkable=True),
)


def batches(
    state: Annotated[
        list[BatchState] | None,
        typer.Option(
            metavar=f"[{'|'.join(BatchState)}]",
            help="A state; may be repeated. By default all batches that have not ended.",
        ),
    ] = None,
    job: Annotated[
        str | None,
        typer.Option(metavar="JOB", callback=check_id_prefix, help="Only batches of this job."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="ID", help="Only batches of this judge.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of batches to show.")] = 100,
    as_json: AsJson = False,
) -> None:
    states = set(state or (BatchState if job is not None else UNSETTLED))
    with open_admin() as admin:
        job_id = None if job is None else admin.find_job(job)
        found = admin.batches(states, judge_id=judge, job_id=job_id, limit=limit + 1)
    shown = found[:limit]
    if as_json:
        print_json(shown)
        return
    if not shown:
        default = "no batch is live or on hold" if job is None else "the job is in no batch"
        out.print(f"no batch is {' or '.join(sorted(states))}" if state else default)
        return
    now = datetime.now(UTC)
    rows = [
        [
            *(batch[name] for name in ("id", "judge_id", "state", "item_count")),
            age(batch["created_at"], now),
            batch["error"],
        ]
        for batch in shown
    ]
    print_table(COLUMNS, rows)
    if len(found) > limit:
        out.print(f"… and more: --limit {limit * 10}")
    if on_hold := [batch["id"] for batch in shown if batch["state"] == BatchState.HELD]:
        out.print(f"batches on hold wait for your decision: `evalworker resolve {on_hold[0]}`")
