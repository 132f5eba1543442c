"""The main job, for real, on a machine with nothing: what `evalworker demo` does.

The code at work is that of production; only the judge is the sandbox, on a loopback port.
"""

from __future__ import annotations

import contextlib
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from worker.app import App, ending_on_signals
from worker.cli.input_files import read_inputs, survey
from worker.config import load_settings
from worker.logs import configure_logging, secrets_of
from worker.outbox import enqueue
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox
from worker.store import job_queries
from worker.store.database import Database
from worker.store.migrate import upgrade

INPUTS = Path(str(files("worker.cli").joinpath("demo_inputs.jsonl")))
DATABASE = Path("evalworker-demo.db")
JUDGE_STATE = Path("evalworker-demo-judge.db")
LATENCY = (1.0, 3.0)  # seconds of a batch: enough to see it wait, and to kill it meanwhile
SHOWN_FAILURES = 8

out = Console(highlight=False)


def run(file: Path, judge_id: str) -> None:
    """Enqueues the file as a new job, finishes what an earlier run left, and shows the results."""
    found = survey(file)
    with running_sandbox(SandboxOptions(latency=LATENCY), ledger_path=JUDGE_STATE) as judge:
        settings = load_settings(
            database_url=f"sqlite:///{DATABASE}",
            broker_url="memory://",
            api_url=judge.url,
            api_key=judge.api_key,
            poll_min_seconds=0.5,
            batch_size=25,
            max_in_flight=4,
            lease_seconds=5,
            ops_port=None,
            log_level="WARNING",
        )
        configure_logging(
            log_format="console", level=settings.log_level, secrets=secrets_of(settings)
        )
        out.print(f"database  {DATABASE.absolute()}", soft_wrap=True)
        out.print(f"judge     {judge_id}, a sandbox at {judge.url} that keeps {JUDGE_STATE}")
        out.print(f"inputs    {found.inputs} from {file}", soft_wrap=True)
        with contextlib.closing(Database(settings.sqlalchemy_url)) as database:
            upgrade(database)
            left_over = _open_jobs(database)
            with database.engine.begin() as connection:
                job_id = enqueue(
                    connection,
                    judge_id=judge_id,
                    inputs=read_inputs(file),
                    tags=["demo"],
                    metadata={"file": file.name},
                    # What an earlier run left goes first.
                    priority=-1 if left_over else 0,
                )
            with App(settings) as app, ending_on_signals(app.ending):
                _work(app, [*left_over, job_id])
            with database.read() as connection:
                _report(connection, job_id)


def _open_jobs(database: Database) -> list[UUID]:
    with database.read() as connection:
        latest = job_queries.recent_progress(connection, 50)
    left_over = [row.job_id for row in latest if row.finished_at is None]
    if left_over:
        out.print(f"resuming  {len(left_over)} job(s) that an earlier run had begun")
    return left_over


def _work(app: App, job_ids: list[UUID]) -> None:
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


def _report(connection: sa.Connection, job_id: UUID) -> None:
    row = job_queries.progress_of(connection, job_id)
    out.print(f"\njob {job_id} {row.status}: {row.completed} evaluated, {row.failed} failed\n")
    if row.finished_at is None:
        out.print("stopped before the end; run `evalworker demo` again to go on")
        return
    scores = Table("evaluator", "mean score", "scored", "without score", title="Mean scores")
    for mean in job_queries.mean_scores(connection, job_id):
        shown = "" if mean.mean is None else f"{mean.mean:.3f}"
        scores.add_row(mean.evaluator_name, shown, str(mean.scored), str(mean.unscored))
    out.print(scores)
    _show_failures(connection, job_id, row.failed)
    out.print(f"\nThe results are yours to query, now and later: sqlite3 {DATABASE}\n")
    for title, query in _queries(job_id):
        _show_query(connection, title, query)


def _show_failures(connection: sa.Connection, job_id: UUID, total: int) -> None:
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


def _show_query(connection: sa.Connection, title: str, query: str) -> None:
    out.print(f"[bold]{title}[/]")
    out.print(query, markup=False, style="cyan", soft_wrap=True)
    found: Any = connection.exec_driver_sql(query)
    table = Table(*found.keys())
    for values in found:
        table.add_row(*("" if value is None else str(value) for value in values))
    out.print(table, "")
