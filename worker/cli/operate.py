"""Commands for whoever runs it: check."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from worker.app import judge_api, open_database
from worker.brokers import prepare_broker
from worker.cli.shell import AsJson, app, out, print_json, settings_and_logs
from worker.config import Settings, sources
from worker.errors import EvalWorkerError
from worker.gateway.keys import read_keys
from worker.lifecycle import Denied, Listed, NotFound, Throttled, Unavailable
from worker.migrating import check_schema
from worker.store.jobs import asks_for_notices
from worker.webhook import NO_SECRET

if TYPE_CHECKING:
    from collections.abc import Callable


@app.command()
def check(as_json: AsJson = False) -> None:
    """Show every setting and where it comes from; try the database, the broker and the API."""
    settings = settings_and_logs()
    findings = {
        "database": _attempt(_check_database, settings),
        "broker": _attempt(lambda given: prepare_broker(given.broker_url), settings),
        "judge API": _attempt(_check_key, settings),
    }
    if settings.gateway_keys is not None:
        findings["gateway's keys"] = _attempt(_check_gateway_keys, settings)
    if findings["database"] is None and (unsigned := _attempt(_check_notices, settings)):
        findings["notices"] = unsigned
    shown = sources(settings)
    failed = any(finding is not None for finding in findings.values())
    if as_json:
        print_json(
            {
                "settings": {n: {"value": v, "source": s} for n, (v, s) in shown.items()},
                "checks": {name: finding or "ok" for name, finding in findings.items()},
                "ok": not failed,
            }
        )
    else:
        table = Table("setting", "value", "from")
        for name, (value, source) in shown.items():
            table.add_row(name, value, source)
        out.print(table)
        for name, finding in findings.items():
            out.print(f"{name}: {finding or 'ok'}", markup=False)
    if failed:
        raise typer.Exit(1)


def _attempt(look: Callable[[Settings], None], settings: Settings) -> str | None:
    """What is wrong; None if nothing is."""
    try:
        look(settings)
    except EvalWorkerError as error:
        return str(error)
    return None


def _check_database(settings: Settings) -> None:
    database = open_database(settings)
    try:
        check_schema(database)
    finally:
        database.close()


def _check_notices(settings: Settings) -> None:
    database = open_database(settings)
    with contextlib.closing(database), database.read() as connection:
        if settings.webhook_secret is None and asks_for_notices(connection):
            raise EvalWorkerError(f"jobs have a callback_url, but {NO_SECRET}")


def _check_gateway_keys(settings: Settings) -> None:
    read_keys(settings.gateway_keys.get_secret_value() if settings.gateway_keys else None)


def _check_key(settings: Settings) -> None:
    """Tries the key where that costs nothing: at the list."""
    with judge_api(settings) as api:
        match api.list_executions():
            case Listed():
                return
            case NotFound(reason):
                raise EvalWorkerError(f"answers, but has no list to search: {reason}")
            case Denied(reason) | Throttled(reason) | Unavailable(reason):
                raise EvalWorkerError(f"{settings.api_url}: {reason}")
