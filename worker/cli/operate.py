"""Commands for whoever keeps it running: check, prune."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worker.admin import Admin
from worker.cli.context import (
    AsJson,
    app,
    console,
    operator,
    out,
    print_json,
    settings_and_logs,
    show_table,
)
from worker.cli.presentation import obstacles
from worker.cli.tables import Column, counted
from worker.config import Settings, sources
from worker.domain.outcomes import Denied, Listed, NotFound, Throttled, Unavailable
from worker.errors import EvalWorkerError
from worker.store.database import open_database
from worker.store.job_queries import asks_for_notices
from worker.store.schema_version import check_schema, current_revision

if TYPE_CHECKING:
    from worker.retention import Pruned

_AGE = re.compile(r"(\d{1,5})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@app.command()
def check(as_json: AsJson = False) -> None:
    """Show every setting and where it comes from; try the database, the broker and the API."""
    settings = settings_and_logs()
    findings = {
        "database": _attempt(_check_database, settings),
        "broker": _attempt(_check_broker, settings),
        "judge API": _attempt(_check_key, settings),
    }
    if settings.gateway_keys is not None:
        findings["gateway's keys"] = _attempt(_check_gateway_keys, settings)
    if findings["database"] is None and (unsigned := _attempt(_check_notices, settings)):
        findings["notices"] = unsigned
    shown = sources(settings)
    failed = any(finding is not None for finding in findings.values())
    standing = _standing(settings) if findings["database"] is None else {}
    if as_json:
        print_json(
            {
                "settings": {n: {"value": v, "source": s} for n, (v, s) in shown.items()},
                "checks": {name: finding or "ok" for name, finding in findings.items()},
                "ok": not failed,
                **standing,
            }
        )
    else:
        columns = (Column("setting"), Column("value", cut=True), Column("from", cut=True))
        show_table(columns, [(name, *pair) for name, pair in shown.items()])
        for name, finding in findings.items():
            out.print(f"{name}: {finding or 'ok'}", markup=False)
        if standing:
            out.print(f"schema: {standing['schema']}")
            for line in obstacles(standing):
                out.print(line, markup=False)
    if failed:
        raise typer.Exit(1)


def _standing(settings: Settings) -> dict[str, Any]:
    """What the database says beyond that it is there: it is no failure, but worth knowing."""
    with Admin(settings.database_url) as admin:
        status = admin.status()
        shown = {name: status[name] for name in ("paused", "waiting_for", "held")}
        return {"schema": current_revision(admin.database), **shown}


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
    from worker.webhooks.client import NO_SECRET

    database = open_database(settings)
    with contextlib.closing(database), database.read() as connection:
        if settings.webhook_secret is None and asks_for_notices(connection):
            raise EvalWorkerError(f"jobs have a callback_url, but {NO_SECRET}")


def _check_broker(settings: Settings) -> None:
    from worker.pipeline.brokers import prepare_broker  # the drivers of all brokers: here alone

    prepare_broker(settings.broker_url)


def _check_gateway_keys(settings: Settings) -> None:
    from worker.gateway.auth import read_keys

    read_keys(settings.gateway_keys.get_secret_value() if settings.gateway_keys else None)


def _check_key(settings: Settings) -> None:
    """Tries the key where that costs nothing: at the list."""
    from worker.remote.client import open_judge_api

    with open_judge_api(settings) as api:
        match api.list_executions():
            case Listed():
                return
            case NotFound(reason):
                raise EvalWorkerError(f"answers, but has no list to search: {reason}")
            case Denied(reason) | Throttled(reason) | Unavailable(reason):
                raise EvalWorkerError(f"{settings.api_url}: {reason}")


def _age(text: str) -> timedelta:
    found = _AGE.fullmatch(text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no age: 90d, 12h, 30m and 2w are some")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@app.command()
def prune(
    older_than: Annotated[
        timedelta,
        typer.Option(parser=_age, metavar="AGE", help="Jobs that ended so long ago: 90d, 12h."),
    ],
    texts_only: Annotated[
        bool, typer.Option("--texts-only", help="Delete the inputs' texts, keep all else.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete ended jobs with their results and history; open ones are never touched."""
    with operator() as admin:
        if dry_run:
            pruned = admin.prune(older_than, texts_only=texts_only, dry_run=True)
        else:
            pruned = _prune(admin, older_than, texts_only=texts_only)
    words = {"jobs": "job", "inputs": "input"}
    if not dry_run:
        words |= {"batches": "batch", "events": "event"}
    counts = {name: getattr(pruned, name) for name in words}
    if as_json:
        print_json({"before": pruned.before, "dry_run": dry_run, **counts})
        return
    what = ", ".join(counted(counts[name], word) for name, word in words.items())
    if texts_only:
        what = f"the texts of {counted(pruned.inputs, 'input')} of {counted(pruned.jobs, 'job')}"
    out.print(f"{what} {'would be deleted' if dry_run else 'deleted'}")


def _prune(admin: Admin, older_than: timedelta, *, texts_only: bool) -> Pruned:
    """With a bar on a terminal: what there is to do is counted first."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        if console.is_terminal:
            total = admin.prune(older_than, texts_only=texts_only, dry_run=True).inputs
            task = progress.add_task("inputs", total=total)
        return admin.prune(
            older_than,
            texts_only=texts_only,
            on_progress=lambda sofar: (
                progress.update(task, completed=sofar.inputs) if console.is_terminal else None
            ),
        )
