"""Show what judges did and cost."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.context import AsJson, print_json, print_line, print_table
from worker.cli.tables import Column
from worker.domain.phrases import quantity
from worker.judge.ledger import COUNTED, Ledger

KEYS = ("day", "judge", "model")


def judge_usage(
    state: Annotated[Path, typer.Option(help="SQLite file of `judge serve`.")] = Path("judge.db"),
    days: Annotated[int, typer.Option(min=1, help="Number of days, today included.")] = 7,
    as_json: AsJson = False,
) -> None:
    first = datetime.now(UTC).date() - timedelta(days=days - 1)
    with contextlib.closing(Ledger(state, read_only=True)) as ledger:
        rows = ledger.usage(since=first.isoformat(), by=KEYS)
        waits = ledger.waits()
    if as_json:
        print_json({"usage": rows, "waits": waits})
        return
    columns = [
        *(Column("day"), Column("judge", shrinkable=True), Column("model", shrinkable=True)),
        *(Column(name.replace("_", " "), numeric=True) for name in COUNTED),
    ]
    shown = [
        [*(row[key] for key in KEYS), *(row[name] for name in COUNTED[:-1]), f"{row['cost']:.4f}"]
        for row in rows
    ]
    if shown:
        print_table(columns, shown)
    else:
        print_line(f"no calls of models in {quantity(days, 'day')}")
    for model, reason in waits.items():
        print_line(f"{model} waits: {reason}")
