"""Retry the inputs of a job."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.context import AsJson, JobId, open_admin, out, print_json
from worker.domain.phrases import quantity


def retry(
    job: JobId,
    everything: Annotated[
        bool, typer.Option("--all", help="Every input that has ended; all are billed again.")
    ] = False,
    item: Annotated[
        int | None,
        typer.Option(metavar="INDEX", min=0, help="Only this input, whatever its result."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    if everything and item is not None:
        raise typer.BadParameter("--all and --item exclude one another")
    with open_admin() as admin:
        job_id = admin.find_job(job)
        count = admin.retry(job_id, everything=everything, item_index=item)
    if as_json:
        print_json({"inputs": count})
    elif count:
        out.print(f"{quantity(count, 'input')} to be evaluated again")
    else:
        out.print(f"no input of job {job_id} has {'ended' if everything else 'failed'}")
