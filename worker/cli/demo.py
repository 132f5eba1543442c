"""Run a whole evaluation on one machine: production code, with the sandbox as the judge."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worker.app import App, ending_on_signals
from worker.cli.context import configure, out, print_table
from worker.cli.input_files.input_file import open_input_file
from worker.cli.presentation import unknown_name
from worker.cli.tables import Column
from worker.console.server import serving_console
from worker.domain.lifecycle import Status
from worker.domain.phrases import one_line, quantity
from worker.outbox import enqueue
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox, sandbox_definitions
from worker.store import job_queries
from worker.store.database import Database, open_database
from worker.store.migrate import upgrade

INPUTS = Path(str(files("worker.cli").joinpath("demo_inputs.jsonl")))
DATABASE = Path("evalworker-demo.db")
JUDGE_STATE = Path("evalworker-demo-judge.db")
LATENCY = (
    1.0,
    3.0,
)  # seconds of a batch: long enough to watch it, and to kill the worker meanwhile
SHOWN_FAILURES = 8
OWN_JUDGE = "answer-quality"

SCORE_COLUMNS = (
    Column("evaluator"),
    Column("mean score", numeric=True),
    Column("scored", numeric=True),
    Column("without score", numeric=True),
)
FAILURE_COLUMNS = (
    Column("input", numeric=True),
    Column("request", shrinkable=True),
    Column("attempts", numeric=True),
    Column("reason", shrinkable=True),
)


def demo(
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="A file of your own inputs, such as JSONL or CSV."
        ),
    ] = None,
    judge: Annotated[
        str, typer.Option(callback=_known_judge, help="Which of the sandbox's judges to use.")
    ] = OWN_JUDGE,
    with_console: Annotated[
        bool, typer.Option("--console", help="Also serve the console, until Ctrl-C.")
    ] = False,
) -> None:
    fails_on_purpose = file is None and judge == OWN_JUDGE  # a few of the demo's own inputs do
    file = file or INPUTS
    with contextlib.ExitStack() as stack:
        input_file = stack.enter_context(open_input_file(file))
        checked = input_file.check()
        sandbox = running_sandbox(SandboxOptions(latency=LATENCY), state=JUDGE_STATE)
        server = stack.enter_context(sandbox)
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
        out.print(f"database  {DATABASE.absolute()}", soft_wrap=True, markup=False)
        out.print(
            f"judge     {judge}, of a sandbox at {server.url} with its state in {JUDGE_STATE}"
        )
        out.print(f"inputs    {checked.inputs} from {file}", soft_wrap=True, markup=False)
        with contextlib.closing(open_database(settings, create=True)) as database:
            upgrade(database)
            unfinished = _unfinished_jobs(database)
            with database.engine.begin() as connection:
                job_id = enqueue(
                    connection,
                    judge_id=judge,
                    inputs=input_file.inputs(),
                    tags=["demo"],
                    metadata={"file": file.name},
                    priority=-1 if unfinished else 0,  # earlier jobs go first
                )
            app = stack.enter_context(App(settings))
            stack.enter_context(ending_on_signals(app.ending))
            jobs = [*unfinished, job_id]
            if with_console:
                url = stack.enter_context(serving_console(settings))
                out.print(f"console   {url}", soft_wrap=True, markup=False)
                link = f"{url}jobs/{job_id}"
                _run_until_interrupted(app, jobs, lambda: _print_end(database, job_id, link))
            else:
                _run_until_finished(app, jobs)
                _print_report(database, job_id)
            with database.read() as connection:
                job = job_queries.progress_of(connection, job_id)
    if job.status == Status.FAILED or (job.failed and not fails_on_purpose):
        raise typer.Exit(1)


def _known_judge(name: str) -> str:
    """Refuse an unknown judge before anything is started or written."""
    names = {judge.name for judge in sandbox_definitions().judges}
    if name not in names:
        raise typer.BadParameter(unknown_name(name, names))
    return name


def _unfinished_jobs(database: Database) -> list[UUID]:
    with database.read() as connection:
        latest = job_queries.recent_progress(connection, 50)
    unfinished = [row.job_id for row in latest if row.finished_at is None]
    if unfinished:
        out.print(f"resuming  {quantity(len(unfinished), 'job')} of an earlier run")
    return unfinished


def _run_until_finished(app: App, job_ids: list[UUID]) -> None:
    with _progress_bars() as bars:
        update = _updates(bars, app.database, job_ids)
        app.run(until=update)
        update()


def _run_until_interrupted(app: App, job_ids: list[UUID], on_finished: Callable[[], None]) -> None:
    """Work on after the jobs have finished, so that what a person retries is evaluated, too."""
    with _progress_bars() as bars:
        update = _updates(bars, app.database, job_ids)
        told = False

        def tell_once() -> bool:
            nonlocal told
            if not told and update():
                told = True
                bars.stop()
                on_finished()
            return False

        app.run(until=tell_once)


def _progress_bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=out)


def _updates(bars: Progress, database: Database, job_ids: list[UUID]) -> Callable[[], bool]:
    """Return a function that moves the bars, and returns whether all jobs have finished."""
    tasks = {job_id: bars.add_task(f"job {job_id}", total=None) for job_id in job_ids}

    def update() -> bool:
        with database.read() as connection:
            rows = [job_queries.progress_of(connection, job_id) for job_id in job_ids]
        for row in rows:
            done = row.completed + row.failed + row.cancelled
            bars.update(tasks[row.job_id], completed=done, total=row.total)
        return all(row.finished_at is not None for row in rows)

    return update


def _print_end(database: Database, job_id: UUID, link: str) -> None:
    _print_report(database, job_id)
    out.print(f"The console shows it at {link}", soft_wrap=True, markup=False)
    out.print("Ctrl-C ends the console, and the worker behind it.")


def _print_report(database: Database, job_id: UUID) -> None:
    with database.read() as connection:
        _print_tables(connection, job_id)


def _print_tables(connection: sa.Connection, job_id: UUID) -> None:
    row = job_queries.progress_of(connection, job_id)
    out.print(f"\njob {job_id} {row.status}: {row.completed} evaluated, {row.failed} failed\n")
    if row.finished_at is None:
        out.print("stopped before the end; run `evalworker demo` again to continue")
        return
    means = job_queries.mean_scores(connection, job_id)
    out.print("Mean scores", style="bold")
    print_table(SCORE_COLUMNS, [_score_row(mean) for mean in means])
    _print_failures(connection, job_id, row.failed)
    out.print(f"\nQuery the results yourself, now or later: sqlite3 {DATABASE}\n")
    for title, query in _queries(job_id):
        _print_query(connection, title, query)


def _score_row(mean: job_queries.MeanScore) -> list[object]:
    shown = "" if mean.mean is None else f"{mean.mean:.3f}"
    return [mean.evaluator_name, shown, mean.scored, mean.unscored]


def _print_failures(connection: sa.Connection, job_id: UUID, total: int) -> None:
    if not total:
        return
    failures = job_queries.failures_of(connection, job_id, SHOWN_FAILURES)
    out.print(f"\nFailed inputs ({total})", style="bold")
    rows = [
        [item.item_index, one_line(item.request, 40), item.attempts, item.error]
        for item in failures
    ]
    print_table(FAILURE_COLUMNS, rows)
    if total > len(rows):
        out.print(f"… and {total - len(rows)} more")


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
    print_table([Column(name, shrinkable=True) for name in tuple(rows.keys())], rows.all())
    out.print()
