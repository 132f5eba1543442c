"""A view that keeps up with the work: redrawn on a terminal, a line each time in a pipe."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from worker.cli.context import out, print_json
from worker.cli.presentation import JOB_COLUMNS, job_row, listed, obstacles
from worker.cli.tables import Column, counted, span, table_of

if TYPE_CHECKING:
    from worker.admin import Admin

JUDGE_COLUMNS = (
    Column("judge", cut=True),
    Column("waiting", number=True),
    Column("in flight", number=True),
    Column("batches", cut=True),
    Column("a minute", number=True),
    Column("left", number=True),
    Column("", optional=True),
)
LINES = 12  # of a view without its tables' rows


def watch(admin: Admin, *, every: float, until_drained: bool, as_json: bool) -> None:
    """Until Ctrl-C, or until nothing is left to do."""
    redrawn = out.is_terminal and not as_json
    with Live(console=out, auto_refresh=False) if redrawn else _Lines(as_json) as view:
        while True:
            now = datetime.now(UTC)
            try:
                drained = admin.is_drained()  # first: what is then shown is the end of it
                found = admin.status() | {"judges": admin.judges()}
            except SQLAlchemyError as error:  # restarted, maybe: it comes back
                reason = str(getattr(error, "orig", error)).partition("\n")[0]
                found, drained = {"error": f"the database does not answer: {reason}"}, False
            if isinstance(view, Live):
                view.update(_drawn(found, now), refresh=True)
            else:
                view.show(found, now)
            if drained and until_drained:
                return
            time.sleep(every)


class _Lines:
    """Where nobody redraws: a line of text, or of JSON, each time."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, found: dict[str, Any], now: datetime) -> None:
        if self.as_json:
            print_json({"at": now, **found})
        else:
            out.print(f"{now:%H:%M:%S}  {summary(found, now)}", markup=False)
        out.file.flush()


def summary(found: dict[str, Any], now: datetime) -> str:
    """All in one line: what is open, what is left, how fast it goes, when it will be done."""
    if "error" in found:
        return str(found["error"])
    judges = found["judges"]
    still = [row for row in judges if not row["paused"]]
    left = sum(row["waiting"] + row["in_flight"] for row in still)
    rate = sum(row["per_minute"] for row in still)
    asleep = sum(row["waiting"] + row["in_flight"] for row in judges) - left
    parts = [f"jobs: {listed(found['jobs'])}", f"live batches: {listed(found['batches'])}"]
    parts.append(f"{counted(left, 'input')} left")
    if asleep:
        parts.append(f"{counted(asleep, 'input')} paused")
    if rate:
        parts.append(f"{rate:,.0f} a minute")
    if rate and left:
        seconds = left / rate * 60
        parts.append(f"about {span(seconds)} to go, until {now + timedelta(seconds=seconds):%H:%M}")
    return "; ".join(parts)


def _drawn(found: dict[str, Any], now: datetime) -> RenderableType:
    if "error" in found:
        return Text(f"{found['error']}; trying again", style="red")
    judges = [_judge_row(row) for row in found["judges"]]
    room = max(3, out.height - LINES - len(judges) - len(obstacles(found)))
    latest = [job_row(row, now) for row in found["latest"][:room]]
    parts: list[RenderableType] = [Text(f"{now:%Y-%m-%d %H:%M:%S} UTC, Ctrl-C ends", style="dim")]
    if judges:
        parts += ["", table_of(JUDGE_COLUMNS, judges, out.width)]
    parts += ["", table_of(JOB_COLUMNS, latest, out.width), "", Text(summary(found, now))]
    return Group(*parts, *(Text(line, style="yellow") for line in obstacles(found)))


def _judge_row(row: dict[str, Any]) -> list[object]:
    left = row["waiting"] + row["in_flight"]
    to_go = span(left / row["per_minute"] * 60) if left and row["per_minute"] else ""
    return [
        row["judge_id"],
        f"{row['waiting']:,}",
        f"{row['in_flight']:,}",
        listed(row["batches"]),
        f"{row['per_minute']:,.0f}",
        "" if row["paused"] else to_go,
        "paused" if row["paused"] else "",
    ]


def watch_job(admin: Admin, job_id: UUID, *, every: float, as_json: bool) -> dict[str, Any]:
    """Until Ctrl-C, or until the job has ended; returns how it was last seen."""
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
            row = admin.job(job_id)
            done = row["completed"] + row["failed"] + row["cancelled"]
            said = f"{row['status']}, {row['failed']} failed, {row['in_flight']} in flight"
            progress.update(task, total=row["total"], completed=done, description=said)
            if as_json:
                print_json(row)
            elif not redrawn:
                now = datetime.now(UTC)
                out.print(f"{now:%H:%M:%S}  {said}, {done}/{row['total']} done", markup=False)
            out.file.flush()
            if row["finished_at"] is not None:
                return row
            time.sleep(every)
