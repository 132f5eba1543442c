"""Delete ended jobs."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn, TimeRemainingColumn

from worker.admin import Admin
from worker.cli.context import AsJson, err, open_admin, out, print_json, progress_bar
from worker.domain.phrases import quantity
from worker.store.retention import Pruned

AGE = re.compile(r"(\d{1,5})([smhdw])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _parse_age(text: str) -> timedelta:
    match = AGE.fullmatch(text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not an age such as 90d, 12h, 30m or 2w")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def prune(
    older_than: Annotated[
        timedelta,
        typer.Option(
            parser=_parse_age,
            metavar="AGE",
            help="Delete jobs that ended longer ago than this, such as 90d or 12h.",
        ),
    ],
    texts_only: Annotated[
        bool, typer.Option("--texts-only", help="Delete the texts of the inputs, keep the rest.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be deleted, and delete nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    with open_admin() as admin:
        if dry_run:
            pruned = admin.prune(older_than, texts_only=texts_only, dry_run=True)
        else:
            pruned = _prune(admin, older_than, texts_only=texts_only)
    nouns = {"jobs": "job", "inputs": "input"}
    if not dry_run:
        nouns |= {"batches": "batch", "events": "event"}
    counts = {name: getattr(pruned, name) for name in nouns}
    if as_json:
        print_json({"before": pruned.before, "dry_run": dry_run, **counts})
        return
    what = ", ".join(quantity(counts[name], noun) for name, noun in nouns.items())
    if texts_only:
        what = f"the texts of {quantity(pruned.inputs, 'input')} of {quantity(pruned.jobs, 'job')}"
    out.print(f"{what} {'would be deleted' if dry_run else 'deleted'}")


def _prune(admin: Admin, older_than: timedelta, *, texts_only: bool) -> Pruned:
    if not err.is_terminal:
        return admin.prune(older_than, texts_only=texts_only)
    total = admin.prune(older_than, texts_only=texts_only, dry_run=True).inputs
    with progress_bar(MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("inputs", total=total)
        return admin.prune(
            older_than,
            texts_only=texts_only,
            on_progress=lambda pruned: progress.update(task, completed=pruned.inputs),
        )
