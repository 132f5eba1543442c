"""Commands that run something: migrate, run, gateway, sandbox, demo.

What a command runs is imported when it runs: dispatcher, actors, brokers and servers take longer
to load than all the other commands together.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import sqlalchemy as sa
import typer

from worker.cli.context import (
    AsJson,
    app,
    console,
    out,
    print_json,
    ready_database,
    settings_and_logs,
)
from worker.domain.lifecycle import Status
from worker.store.database import open_database
from worker.store.job_queries import any_work, held_batches
from worker.store.migrate import grant_roles, upgrade
from worker.store.tables import jobs
from worker.tracing.exporter import send_traces

if TYPE_CHECKING:
    from worker.app import App
    from worker.config import Settings

Migrate = Annotated[
    bool, typer.Option("--migrate", envvar="EVALWORKER_MIGRATE", help="Migrate before starting.")
]


@app.command()
def migrate(
    roles: Annotated[
        bool, typer.Option("--roles", help="PostgreSQL: also make the roles of least privilege.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the database to this worker's schema. Other tables are not touched."""
    settings = settings_and_logs()
    revision = _migrate(settings)
    if roles:
        _grant_roles(settings)
    if as_json:
        print_json({"revision": revision, "roles": roles})
    else:
        granted = ", and its roles are up to date" if roles else ""
        out.print(f"the database has the schema {revision}{granted}")


@app.command()
def run(
    until_drained: Annotated[
        bool, typer.Option("--until-drained", help="End when no job has anything left to do.")
    ] = False,
    migrate_first: Migrate = False,
    with_gateway: Annotated[
        bool, typer.Option("--gateway", help="Serve the judge API in front of the outbox, too.")
    ] = False,
) -> None:
    """Work: plan, submit, poll and record, until told to stop (SIGTERM, Ctrl-C)."""
    from worker.app import App, ending_on_signals
    from worker.gateway.server import serving_gateway
    from worker.health import operations, serving_operations
    from worker.remote.client import require_reachable_api

    settings = settings_and_logs()
    if migrate_first:
        _migrate(settings)
    send_traces()
    with App(settings) as worker:
        if not with_gateway:  # which takes work also while the API is away
            require_reachable_api(settings)
        failed_before = _failed_jobs(worker)
        with contextlib.ExitStack() as around:
            around.enter_context(ending_on_signals(worker.ending))
            around.enter_context(serving_operations(settings, operations(worker)))
            if with_gateway:
                around.enter_context(
                    serving_gateway(
                        settings,
                        worker.database,
                        on_commit=worker.dispatcher.wake,
                        observe=worker.metrics.on_gateway_request,
                    )
                )
            _stop_collecting_what_stays()
            worker.run(until=worker.is_drained if until_drained else None)
        failed = _failed_jobs(worker) - failed_before
        with worker.database.read() as connection:
            held = len(held_batches(connection))
            paused = not any_work(connection) and any_work(connection, also_paused=True)
    if until_drained and failed > 0:
        console.print(f"evalworker: {failed} job{'s' * (failed != 1)} failed")
    if until_drained and held:
        console.print("evalworker: batches are held for you to decide: `evalworker status`")
    if until_drained and paused:
        console.print("evalworker: what is left is paused: `evalworker status`")
    if until_drained and (failed > 0 or held or paused):
        raise typer.Exit(1)


@app.command()
def gateway(migrate_first: Migrate = False) -> None:
    """Serve the judge API in front of the outbox; workers elsewhere do the work."""
    from worker.app import TICK_SECONDS, ending_on_signals
    from worker.gateway.server import serving_gateway
    from worker.health import gateway_operations, serving_operations
    from worker.metrics import Metrics

    settings = settings_and_logs()
    if migrate_first:
        _migrate(settings)
    ending = threading.Event()
    with contextlib.ExitStack() as around:
        database = around.enter_context(contextlib.closing(ready_database(settings)))
        metrics = Metrics()
        metrics.register_database(database, max_in_flight=settings.max_in_flight)
        around.enter_context(ending_on_signals(ending))
        around.enter_context(serving_operations(settings, gateway_operations(database, metrics)))
        around.enter_context(
            serving_gateway(settings, database, observe=metrics.on_gateway_request)
        )
        _stop_collecting_what_stays()
        while not ending.wait(TICK_SECONDS):
            pass  # signals are handled between two waits


def _stop_collecting_what_stays() -> None:
    """A full collection over all that was imported takes 90 ms, in which nothing else runs."""
    gc.collect()
    gc.freeze()


def _migrate(settings: Settings) -> str:
    with contextlib.closing(open_database(settings)) as database:
        return upgrade(database)


def _grant_roles(settings: Settings) -> None:
    from worker.pipeline.brokers import grant_queue

    with contextlib.closing(open_database(settings)) as database:
        grant_roles(database)
    grant_queue(settings.broker_url)


def _failed_jobs(worker: App) -> int:
    with worker.database.read() as connection:
        count = connection.scalar(
            sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status == Status.FAILED)
        )
    return int(count or 0)


@app.command()
def sandbox(
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = 8321,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    state: Annotated[str, typer.Option(help="File that keeps its batches.")] = ":memory:",
    latency: Annotated[
        tuple[float, float], typer.Option(help="Seconds that a batch takes: from, to.")
    ] = (0.5, 1.5),
    max_running: Annotated[
        int | None, typer.Option(help="Batches at once; more are throttled.")
    ] = None,
    requests_per_second: Annotated[
        float | None, typer.Option(help="More than these are throttled.")
    ] = None,
    fail_items: Annotated[float, typer.Option(help="Share of inputs that fail.")] = 0.0,
    lose_answers: Annotated[float, typer.Option(help="Share of answers that are lost.")] = 0.0,
    server_errors: Annotated[float, typer.Option(help="Share of requests answered 503.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed misbehaves in the same way.")] = 0,
) -> None:
    """Serve the judge API in a box, for a machine without a key."""
    from worker.sandbox.options import SandboxOptions
    from worker.sandbox.server import serve

    options = SandboxOptions(
        latency=latency,
        max_running=max_running,
        requests_per_second=requests_per_second,
        fail_items=fail_items,
        lose_answers=lose_answers,
        server_errors=server_errors,
        seed=seed,
    )
    serve(options, host=host, port=port, ledger_path=state)


@app.command()
def demo(
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Your own JSONL or CSV file.")
    ] = None,
    judge: Annotated[str, typer.Option(help="A judge of the sandbox.")] = "answer-quality",
) -> None:
    """Do the main job for real, here and now: a SQLite file, a sandbox judge, 200 inputs."""
    from worker.cli import demo as demonstration

    demonstration.run(file or demonstration.INPUTS, judge)
