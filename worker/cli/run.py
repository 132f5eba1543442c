"""Run a worker."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from worker.app import App, ending_on_signals
from worker.cli.context import (
    MigrateFirst,
    configure,
    err,
    freeze_imports,
    limit_arenas,
    warn_of_unknown_variables,
)
from worker.cli.migrate import migrate_database
from worker.console.server import serving_console
from worker.domain.lifecycle import Status
from worker.domain.phrases import quantity
from worker.gateway.server import serving_gateway
from worker.health import operations_server, worker_operations
from worker.remote.client import require_reachable_api
from worker.store import job_queries
from worker.tracing.exporter import start_export


def run(
    until_drained: Annotated[
        bool, typer.Option("--until-drained", help="Exit when no work is left.")
    ] = False,
    migrate_first: MigrateFirst = False,
    with_gateway: Annotated[
        bool, typer.Option("--gateway", help="Also serve the judge API in front of the outbox.")
    ] = False,
    with_console: Annotated[
        bool, typer.Option("--console", help="Also serve the console.")
    ] = False,
) -> None:
    limit_arenas()
    settings = configure()
    warn_of_unknown_variables()
    if migrate_first:
        migrate_database(settings)
    start_export()
    with App(settings) as worker:
        if not with_gateway:  # a gateway accepts work also while the API is away
            require_reachable_api(settings)
        failed_before = _failed_jobs(worker)
        with contextlib.ExitStack() as stack:
            stack.enter_context(ending_on_signals(worker.ending))
            stack.enter_context(operations_server(settings, worker_operations(worker)))
            if with_gateway:
                stack.enter_context(
                    serving_gateway(
                        settings,
                        worker.database,
                        on_commit=worker.dispatcher.wake,
                        observe=worker.metrics.on_gateway_request,
                    )
                )
            if with_console:
                stack.enter_context(serving_console(settings))
            freeze_imports()
            worker.run(until=worker.is_drained if until_drained else None)
        if until_drained and (warnings := _warnings(worker, failed_before)):
            for warning in warnings:
                err.print(f"evalworker: {warning}")
            raise typer.Exit(1)


def _warnings(worker: App, failed_before: int) -> list[str]:
    """Name what keeps a drained run from having succeeded."""
    warnings = []
    if failed := max(0, _failed_jobs(worker) - failed_before):
        warnings.append(f"{quantity(failed, 'job')} failed: see `evalworker status`")
    with worker.database.read() as connection:
        if job_queries.held_batches(connection):
            warnings.append("batches are on hold until you decide: `evalworker status`")
        if job_queries.is_drained(connection) and not job_queries.is_drained(
            connection, include_paused=True
        ):
            warnings.append("the work that is left is paused: `evalworker status`")
    return warnings


def _failed_jobs(worker: App) -> int:
    with worker.database.read() as connection:
        return job_queries.job_counts(connection).get(Status.FAILED, 0)
