"""Show the settings, and test what they point to."""

from __future__ import annotations

from typing import Any

import typer

from worker.admin import Admin
from worker.checks import find_problems
from worker.cli.context import AsJson, configure, print_json, print_line, print_table
from worker.cli.presentation import obstacles, pooler_lines
from worker.cli.tables import Column
from worker.config import Settings, sources, unknown_variables
from worker.store.schema_version import current_revision

COLUMNS = (Column("setting"), Column("value", shrinkable=True), Column("from", shrinkable=True))


def check(as_json: AsJson = False) -> None:
    settings = configure()
    findings = find_problems(settings)
    shown = sources(settings)
    unknown = unknown_variables()
    ok = not any(findings.values())
    situation = _situation(settings) if findings["database"] is None else {}
    if as_json:
        print_json(
            {
                "settings": {n: {"value": v, "source": s} for n, (v, s) in shown.items()},
                "checks": {name: finding or "ok" for name, finding in findings.items()},
                "unknown_variables": unknown,
                "ok": ok,
                **situation,
            }
        )
    else:
        print_table(COLUMNS, [(name, *pair) for name, pair in shown.items()])
        lines = [f"{name}: {finding or 'ok'}" for name, finding in findings.items()]
        if situation:
            lines += [f"schema: {situation['schema']}", *pooler_lines(situation)]
            lines += obstacles(situation)
        lines += [_unknown_line(name, near) for name, near in unknown.items()]
        for line in lines:
            print_line(line)
    if not ok:
        raise typer.Exit(1)


def _unknown_line(name: str, near: str | None) -> str:
    hint = f"; did you mean {near}?" if near else ""
    return f"{name} is no setting, and has no effect{hint}"


def _situation(settings: Settings) -> dict[str, Any]:
    """Return what is worth knowing beside the checks, and fails none of them."""
    with Admin(settings.database_url) as admin:
        status = admin.status()
        names = ("paused", "waiting_for", "replicas", "in_doubt", "held")
        shown = {name: status[name] for name in names}
        pooler = admin.database.pool_mode
        return {"schema": current_revision(admin.database), "pooler": pooler, **shown}
