"""Show the settings, and test what they point to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import typer

from worker.admin import Admin
from worker.cli.context import AsJson, configure, out, print_json, print_table
from worker.cli.presentation import obstacles
from worker.cli.tables import Column
from worker.config import Settings, sources
from worker.domain.outcomes import Denied, Listed, NotFound, Throttled, Unavailable
from worker.errors import EvalWorkerError
from worker.gateway.auth import read_keys
from worker.pipeline.brokers import prepare_broker
from worker.remote.client import open_judge_api
from worker.store.database import open_database
from worker.store.job_queries import asks_for_notices
from worker.store.schema_version import current_revision
from worker.tracing.exporter import check_export
from worker.webhooks.client import NO_SECRET

COLUMNS = (Column("setting"), Column("value", shrinkable=True), Column("from", shrinkable=True))


def check(as_json: AsJson = False) -> None:
    settings = configure()
    findings = {
        "database": _error_of(_check_database, settings),
        "broker": _error_of(_check_broker, settings),
        "judge API": _error_of(_check_api, settings),
    }
    if settings.gateway_keys is not None:
        findings["gateway's keys"] = _error_of(_check_gateway_keys, settings)
    if findings["database"] is None and (unsigned := _error_of(_check_notices, settings)):
        findings["notices"] = unsigned
    if untraced := _error_of(_check_export, settings):
        findings["tracing"] = untraced
    shown = sources(settings)
    ok = not any(findings.values())
    situation = _situation(settings) if findings["database"] is None else {}
    if as_json:
        print_json(
            {
                "settings": {n: {"value": v, "source": s} for n, (v, s) in shown.items()},
                "checks": {name: finding or "ok" for name, finding in findings.items()},
                "ok": ok,
                **situation,
            }
        )
    else:
        print_table(COLUMNS, [(name, *pair) for name, pair in shown.items()])
        lines = [f"{name}: {finding or 'ok'}" for name, finding in findings.items()]
        if situation:
            lines += [f"schema: {situation['schema']}", *obstacles(situation)]
        for line in lines:
            out.print(line, markup=False)
    if not ok:
        raise typer.Exit(1)


def _situation(settings: Settings) -> dict[str, Any]:
    """Return what is worth knowing beside the checks, and fails none of them."""
    with Admin(settings.database_url) as admin:
        status = admin.status()
        shown = {name: status[name] for name in ("paused", "waiting_for", "held")}
        return {"schema": current_revision(admin.database), **shown}


def _error_of(check_one: Callable[[Settings], None], settings: Settings) -> str | None:
    try:
        check_one(settings)
    except EvalWorkerError as error:
        return str(error)
    return None


def _check_database(settings: Settings) -> None:
    Admin(settings.database_url).close()


def _check_notices(settings: Settings) -> None:
    database = open_database(settings)
    with contextlib.closing(database), database.read() as connection:
        if settings.webhook_secret is None and asks_for_notices(connection):
            raise EvalWorkerError(f"jobs have a callback_url, but {NO_SECRET}")


def _check_broker(settings: Settings) -> None:
    prepare_broker(settings.broker_url)


def _check_export(_: Settings) -> None:
    check_export()


def _check_gateway_keys(settings: Settings) -> None:
    read_keys(settings.gateway_keys.get_secret_value() if settings.gateway_keys else None)


def _check_api(settings: Settings) -> None:
    """Test the key with a request for the list of batches, which costs nothing."""
    with open_judge_api(settings) as api:
        match api.list_executions():
            case Listed():
                return
            case NotFound(reason, is_path_known=False):
                raise EvalWorkerError(
                    f"{settings.api_url} has no list of batches ({reason}): is EVALWORKER_API_URL "
                    "right? It is what comes before /v1/judges/ in the API's documentation"
                )
            case NotFound(reason):
                raise EvalWorkerError(f"answers, but has no list of batches to search: {reason}")
            case Denied(reason) | Throttled(reason) | Unavailable(reason):
                raise EvalWorkerError(f"{settings.api_url}: {reason}")
