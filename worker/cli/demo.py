"""Run a whole evaluation on one machine: production code, with the sandbox as the judge."""

from __future__ import annotations

import contextlib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from worker.app import App, ending_on_signals
from worker.cli.context import configure
from worker.cli.input_files import check_file, read_inputs
from worker.outbox import enqueue
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox
from worker.store import job_queries
from worker.store.database import Database
from worker.store.migrate import upgrade

INPUTS = Path(str(files("worker.cli").joinpath("demo_inputs.jsonl")))
DATABASE = Path("evalworker-demo.db")
JUDGE_STATE = Path("evalworker-demo-judge.db")
LATENCY = (
    1.0,
    3.0,
)  # seconds of a batch: long enough to watch it, and to kill the worker meanwhile
SHOWN_FAILURES = 8

out = Console(highlight=False)


def demo(
    file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A JSONL or CSV file of your own inputs."),
    ] = None,
    judge: Annotated[
        str, typer.Option(help="Which of the sandbox's judges to use.")
    ] = "answer-quality",
) -> None:
    file = file or INPUTS
    checked = check_file(file)
    with running_sandbox(SandboxOptions(latency=LATENCY), ledger_path=JUDGE_STATE) as server:
        settings = configure(
            database_url=f"sqlite:///{DATABASE}",
            broker_url="memory://",
            api_url=server.url,
            api_key=server.api_key,
            poll_min_seconds=0.5,
            batch_size=25,
            max_in_flight=4,
            lease_seconds=5,
            ops_port=None,
            log_format="console",
            log_level="WARNING",
        )
        out.print(f"database  {DATABASE.absolute()}", soft_wrap=True)
        out.print(
            f"judge     {judge}, of a sandbox at {server.url} with its state in {JUDGE_STATE}"
        )
        out.print(f"inputs    {checked.inputs} from {file}", soft_wrap=True)
        with contextlib.closing(Database(settings.sqlalchemy_url)) as database:
            upgrade(database)
            unfinished = _unfinished_jobs(database)
            with database.engine.begin() as connection:
                job_id = enqueue(
                    connection,
                    judge_id=judge,
                    inputs=read_inputs(file),
                    tags=["demo"],
                    metadata={"file": file.name},
                    priority=-1 if unfinished else 0,  # earlier jobs go first
                )
            with App(settings) as app, ending_on_signals(app.ending):
                _run_until_finished(app, [*unfinished, job_id])
            with database.read() as connection:
                _print_report(connection, job_id)


def _unfinished_jobs(database: Database) -> list[UUID]:
    with database.read() as connection:
        latest = job_queries.recent_progress(connection, 50)
    unfinished = [row.job_id for row in latest if row.finished_at is None]
    if unfinished:
        out.print(f"resuming  {len(unfinished)} job(s) of an earlier run")
    return unfinished


def _run_until_finished(app: App, job_ids: list[UUID]) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=out) as bars:
        tasks = {job_id: bars.add_task(f"job {job_id}", total=None) for job_id in job_ids}

        def update() -> bool:
            with app.database.read() as connection:
                rows = [job_queries.progress_of(connection, job_id) for job_id in job_ids]
            for row in rows:
                done = row.completed + row.failed + row.cancelled
                bars.update(tasks[row.job_id], completed=done, total=row.total)
            return all(row.finished_at is not None for row in rows)

        app.run(until=update)
        update()


def _print_report(connection: sa.Connection, job_id: UUID) -> None:
    row = job_queries.progress_of(connection, job_id)
    out.print(f"\njob {job_id} {row.status}: {row.completed} evaluated, {row.failed} failed\n")
    if row.finished_at is None:
        out.print("stopped before the end; run `evalworker demo` again to continue")
        return
    scores = Table("evaluator", "mean score", "scored", "without score", title="Mean scores")
    for mean in job_queries.mean_scores(connection, job_id):
        shown = "" if mean.mean is None else f"{mean.mean:.3f}"
        scores.add_row(mean.evaluator_name, shown, str(mean.scored), str(mean.unscored))
    out.print(scores)
    _print_failures(connection, job_id, row.failed)
    out.print(f"\nQuery the results yourself, now or later: sqlite3 {DATABASE}\n")
    for title, query in _queries(job_id):
        _print_query(connection, title, query)


def _print_failures(connection: sa.Connection, job_id: UUID, total: int) -> None:
    table = Table("input", "request", "attempts", "reason", title=f"Failed inputs ({total})")
    for item in job_queries.failures_of(connection, job_id, SHOWN_FAILURES):
        request = " ".join((item.request or "").split())
        table.add_row(str(item.item_index), request[:40], str(item.attempts), item.error)
    if total > SHOWN_FAILURES:
        table.add_row("…", f"and {total - SHOWN_FAILURES} more", "", "")
    if total:
        out.print(table)


def _queries(job_id: UUID) -> list[tuple[str, str]]:
    return [
        (
            "How far is the job?",
            "SELECT status, total, completed, failed, finished_at\n"
            f"FROM eval_job_progress WHERE job_id = '{job_id}'",
        ),
        (
            "Which answers are the worst, and why?",
            "SELECT item_index, round(avg(score), 2) AS mean, max(justification) AS why\n"
            f"FROM eval_scores WHERE job_id = '{job_id}' AND score IS NOT NULL\n"
            "GROUP BY item_index ORDER BY avg(score), item_index LIMIT 5",
        ),
        (
            "What does each evaluator say, over all runs of this demo?",
            "SELECT evaluator_name, count(*) AS results, round(avg(score), 3) AS mean\n"
            "FROM eval_scores GROUP BY evaluator_name ORDER BY mean DESC",
        ),
    ]


def _print_query(connection: sa.Connection, title: str, query: str) -> None:
    out.print(f"[bold]{title}[/]")
    out.print(query, markup=False, style="cyan", soft_wrap=True)
    rows: Any = connection.exec_driver_sql(query)
    table = Table(*rows.keys())
    for values in rows:
        table.add_row(*("" if value is None else str(value) for value in values))
    out.print(table, "")
