"""Write a report of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.cli.compare import Cluster, PairBy
from worker.cli.context import JobId, check_id_prefix, open_admin, print_line
from worker.console.report import render_report
from worker.domain.pair_key import Pairing
from worker.store.private_file import replacement_of


def report(
    job: JobId,
    output: Annotated[
        Path,
        typer.Option(
            dir_okay=False, help="Write to this HTML file, which appears once it is complete."
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="JOB", callback=check_id_prefix, help="Compare it with this other job."
        ),
    ] = None,
    by: PairBy = "index",
    cluster: Cluster = None,
) -> None:
    if output.suffix.lower() not in ("", ".html", ".htm"):
        raise typer.BadParameter(f"{output}: a report is HTML: name a file that ends with .html")
    with open_admin() as admin:
        job_id = admin.find_job(job)
        other = None if against is None else admin.find_job(against)
        with admin.database.read() as connection:
            page = render_report(
                connection, job_id, other, pairing=Pairing.parse(by), cluster=cluster
            )
    with replacement_of(output) as part:
        part.write_text(page, "utf-8")
    print_line(f"report of job {job_id} in {output}")
