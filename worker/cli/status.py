"""Show how far the work is, once or live."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from worker.admin import Admin
from worker.cli.context import (
    AsJson,
    check_id_prefix,
    open_admin,
    out,
    print_json,
    print_line,
    print_table,
)
from worker.cli.live_status import follow, follow_job
from worker.cli.presentation import JOB_COLUMNS, job_row, join_counts, notice_lines, obstacles
from worker.domain.lifecycle import Status
from worker.domain.phrases import one_line, quantity, timestamp, value_text

SHOWN_FAILURES = 5


def status(
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB",
            callback=check_id_prefix,
            help="Show this job instead of the overview; its first characters will do.",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Refresh until Ctrl-C, or until the JOB has ended."),
    ] = False,
    until_drained: Annotated[
        bool, typer.Option("--until-drained", help="Refresh until no work is left.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two refreshes.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    with open_admin() as admin:
        job_id = None if job is None else admin.find_job(job)
        if not (watch or until_drained):
            if job_id is None:
                _print_overview(admin, as_json=as_json)
            else:
                _print_job(admin, job_id, as_json=as_json)
            return
        try:
            if job_id is None:
                follow(admin, every=every, until_drained=until_drained, as_json=as_json)
                return
            ended = follow_job(admin, job_id, every=every, as_json=as_json)
        except KeyboardInterrupt:
            return
        if not as_json:
            _print_job(admin, job_id, as_json=False)
        if ended["status"] == Status.FAILED:
            raise typer.Exit(1)


def _print_overview(admin: Admin, *, as_json: bool) -> None:
    found = admin.status()
    if as_json:
        print_json(found)
        return
    now = datetime.now(UTC)
    print_table(JOB_COLUMNS, [job_row(job, now) for job in found["latest"]])
    out.print(f"jobs: {join_counts(found['jobs'])}; live batches: {join_counts(found['batches'])}")
    for line in [*obstacles(found), *notice_lines(found["notices"])]:
        print_line(line)


def _print_job(admin: Admin, job_id: UUID, *, as_json: bool) -> None:
    job, notices = admin.job(job_id), admin.notices(job_id)
    if as_json:
        print_json({**job, "notices": notices})
        return
    lines = []
    for name, value in job.items():
        if value is not None:
            text = timestamp(value) if isinstance(value, datetime) else value_text(value)
            lines.append(f"{name:<17} {one_line(text, 500)}")
    for notice in notices:
        reason = f" ({notice['error']})" if notice["error"] else ""
        after = quantity(notice["attempts"], "attempt")
        lines.append(f"  notice {notice['state']} after {after}{reason}")
    failures = admin.failures(job_id, SHOWN_FAILURES)
    lines += [f"  input {item['item_index']}: {item['error']}" for item in failures]
    if job["failed"] > len(failures):
        lines.append(f"  … and {job['failed'] - len(failures)} more")
    for line in lines:
        print_line(line)
