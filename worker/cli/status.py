"""`status`: how far things are, once, or for as long as somebody watches."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from worker.cli.context import AsJson, JobId, app, operator, out, print_json, show_table
from worker.cli.live_status import watch, watch_job
from worker.cli.presentation import JOB_COLUMNS, job_row, listed, notice_lines, obstacles
from worker.cli.tables import moment, one_line
from worker.domain.lifecycle import Status

if TYPE_CHECKING:
    from worker.admin import Admin

SHOWN_FAILURES = 5


@app.command()
def status(
    job: Annotated[JobId | None, typer.Argument(metavar="[JOB]", help="One job.")] = None,
    watched: Annotated[
        bool, typer.Option("--watch", "-w", help="Keep looking, until Ctrl-C; a JOB: to its end.")
    ] = False,
    until_drained: Annotated[
        bool, typer.Option("--until-drained", help="Watch until nothing is left to do.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """How far things are: one job, or the latest ones, the batches under way, and what waits."""
    with operator() as admin:
        if not watched and not until_drained:
            _show(admin, job, as_json=as_json)
            return
        try:
            if job is None:
                watch(admin, every=every, until_drained=until_drained, as_json=as_json)
            else:
                ended = watch_job(admin, job, every=every, as_json=as_json)
        except KeyboardInterrupt:
            return
        if job is not None:
            if not as_json:
                _show_job(admin, job, as_json=False)
            if ended["status"] == Status.FAILED:
                raise typer.Exit(1)


def _show(admin: Admin, job_id: UUID | None, *, as_json: bool) -> None:
    if job_id is not None:
        _show_job(admin, job_id, as_json=as_json)
    elif as_json:
        print_json(admin.status())
    else:
        _show_overview(admin.status())


def _show_job(admin: Admin, job_id: UUID, *, as_json: bool) -> None:
    row, notices = admin.job(job_id), admin.notices(job_id)
    if as_json:
        print_json({**row, "notices": notices})
        return
    for name, value in row.items():
        if value is not None:
            shown = moment(value) if isinstance(value, datetime) else str(value)
            out.print(f"{name:<17} {one_line(shown, 500)}", markup=False)
    for notice in notices:
        why = f" ({notice['error']})" if notice["error"] else ""
        out.print(f"  notice {notice['state']} after {notice['attempts']} tries{why}", markup=False)
    failures = admin.failures(job_id, SHOWN_FAILURES)
    for item in failures:
        out.print(f"  input {item['item_index']}: {item['error']}", markup=False)
    if row["failed"] > len(failures):
        out.print(f"  … and {row['failed'] - len(failures)} more")


def _show_overview(found: dict[str, Any]) -> None:
    now = datetime.now(UTC)
    show_table(JOB_COLUMNS, [job_row(row, now) for row in found["latest"]])
    out.print(f"jobs: {listed(found['jobs'])}; live batches: {listed(found['batches'])}")
    for line in [*obstacles(found), *notice_lines(found["notices"])]:
        out.print(line, markup=False)
