"""Show a live status: redrawn on a terminal, one line per refresh in a pipe."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from worker.admin import Admin
from worker.cli.context import out, print_json, print_line
from worker.cli.presentation import JOB_COLUMNS, job_row, join_counts, obstacles
from worker.cli.tables import Column, make_table
from worker.domain.phrases import duration, quantity
from worker.domain.terminal_text import escape_controls
from worker.store.outage import lacks_rights

JUDGE_COLUMNS = (
    Column("judge", shrinkable=True),
    Column("waiting", numeric=True),
    Column("in flight", numeric=True),
    Column("batches", shrinkable=True),
    Column("per minute", numeric=True),
    Column("time left", numeric=True),
    Column("", optional=True),
)
OTHER_LINES = 12  # of a screen, beside the rows of its tables


def follow(admin: Admin, *, every: float, until_drained: bool, as_json: bool) -> None:
    """Show the overview until Ctrl-C, or until no work is left."""
    live = Live(console=out, auto_refresh=False) if out.is_terminal and not as_json else None
    with live or contextlib.nullcontext():
        while True:
            now = datetime.now(UTC)
            try:
                drained = admin.is_drained()  # read first, so that the last status is complete
                status = admin.status() | {"judges": admin.judges()}
            except SQLAlchemyError as error:  # the database may be restarting
                if lacks_rights(error):
                    raise
                reason = str(getattr(error, "orig", error)).partition("\n")[0]
                status, drained = (
                    {"error": f"the database does not answer: {escape_controls(reason)}"},
                    False,
                )
            if live is not None:
                live.update(_screen(status, now), refresh=True)
            else:
                _print_line(status, now, as_json=as_json)
            if drained and until_drained:
                return
            time.sleep(every)


def follow_job(admin: Admin, job_id: UUID, *, every: float, as_json: bool) -> dict[str, Any]:
    """Show a job until it has ended, and return its last state."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    redrawn = out.is_terminal and not as_json
    with Progress(*columns, console=out, disable=not redrawn, transient=True) as progress:
        task = progress.add_task(str(job_id))
        while True:
            job = admin.job(job_id)
            done = job["completed"] + job["failed"] + job["cancelled"]
            text = f"{job['status']}, {job['failed']} failed, {job['in_flight']} in flight"
            progress.update(task, total=job["total"], completed=done, description=text)
            if as_json:
                print_json(job)
            elif not redrawn:
                now = datetime.now(UTC)
                print_line(f"{now:%H:%M:%S}  {text}, {done}/{job['total']} done")
            out.file.flush()
            if job["finished_at"] is not None:
                return job
            time.sleep(every)


def _print_line(status: dict[str, Any], now: datetime, *, as_json: bool) -> None:
    if as_json:
        print_json({"at": now, **status})
    else:
        print_line(f"{now:%H:%M:%S}  {_summary(status, now)}")
    out.file.flush()


def _summary(status: dict[str, Any], now: datetime) -> str:
    """Return one line: open jobs, live batches, inputs left, their rate and expected end."""
    if "error" in status:
        return str(status["error"])
    judges = status["judges"]
    active = [judge for judge in judges if not judge["paused"]]
    left = sum(map(_inputs_left, active))
    paused = sum(map(_inputs_left, judges)) - left
    rate = sum(judge["per_minute"] for judge in active)
    parts = [
        f"jobs: {join_counts(status['jobs'])}",
        f"live batches: {join_counts(status['batches'])}",
        f"{quantity(left, 'input')} left",
    ]
    if paused:
        parts.append(f"{quantity(paused, 'input')} paused")
    if rate:
        parts.append(f"{rate:,.0f} per minute")
    if rate and left:
        seconds = left / rate * 60
        end = now + timedelta(seconds=seconds)
        parts.append(f"about {duration(seconds)} to go, until {end:%H:%M}")
    return "; ".join(parts)


def _screen(status: dict[str, Any], now: datetime) -> RenderableType:
    if "error" in status:
        return Text(f"{status['error']}; trying again", style="red")
    judges = [_judge_row(judge) for judge in status["judges"]]
    hindrances = obstacles(status)
    job_count = max(3, out.height - OTHER_LINES - len(judges) - len(hindrances))
    jobs = [job_row(job, now) for job in status["latest"][:job_count]]
    parts: list[RenderableType] = [Text(f"{now:%Y-%m-%d %H:%M:%S} UTC, Ctrl-C ends", style="dim")]
    if judges:
        parts += ["", make_table(JUDGE_COLUMNS, judges, out.width)]
    parts += ["", make_table(JOB_COLUMNS, jobs, out.width), "", Text(_summary(status, now))]
    return Group(*parts, *(Text(line, style="yellow") for line in hindrances))


def _judge_row(judge: dict[str, Any]) -> list[object]:
    left, rate = _inputs_left(judge), judge["per_minute"]
    time_left = duration(left / rate * 60) if left and rate else ""
    return [
        judge["judge_id"],
        f"{judge['waiting']:,}",
        f"{judge['in_flight']:,}",
        join_counts(judge["batches"]),
        f"{rate:,.0f}",
        "" if judge["paused"] else time_left,
        "paused" if judge["paused"] else "",
    ]


def _inputs_left(judge: dict[str, Any]) -> int:
    return int(judge["waiting"] + judge["in_flight"])
