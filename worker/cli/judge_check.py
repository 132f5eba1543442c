"""Run the calibration examples of judges."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.context import AsJson, print_json, print_line, print_table
from worker.cli.judge_init import FILE
from worker.cli.judge_serve import Config, open_definitions
from worker.cli.tables import Column
from worker.domain.phrases import one_line, quantity
from worker.errors import EvalWorkerError
from worker.judge.calibration import Report, calibrate
from worker.judge.engine import Engine
from worker.judge.ledger import IN_MEMORY, Ledger

PATIENCE = 20.0  # seconds of an outage, then all examples have failed


def judge_check(
    config: Config = Path(FILE),
    max_deviation: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Mean deviation above which the check fails.")
    ] = 0.2,
    misses: Annotated[int, typer.Option(min=0, help="Worst examples to show per evaluator.")] = 3,
    state: Annotated[
        str, typer.Option(help="SQLite file that caches scores, so that a repeated check is free.")
    ] = IN_MEMORY,
    as_json: AsJson = False,
) -> None:
    definitions = open_definitions(config)
    with contextlib.closing(Ledger(state)) as ledger:
        reports = asyncio.run(calibrate(Engine(definitions, ledger, patience=PATIENCE)))
    if not any(report.outcomes for report in reports):
        raise EvalWorkerError(
            f"nothing to check: no evaluator of {config} has calibration examples"
        )
    if as_json:
        print_json([_plain(report, max_deviation, misses) for report in reports])
    else:
        _show(reports, max_deviation, misses)
    if not all(report.passes(max_deviation) for report in reports):
        raise typer.Exit(1)


def _show(reports: Sequence[Report], max_deviation: float, misses: int) -> None:
    columns = [
        *(Column("evaluator"), Column("model", shrinkable=True), Column("examples", numeric=True)),
        *(Column("deviation", numeric=True), Column("bias", numeric=True)),
        *(Column("failed", numeric=True), Column("calls", numeric=True, optional=True)),
        *(Column("cost", numeric=True, optional=True), Column("")),
    ]
    print_table(columns, [_row(report, max_deviation) for report in reports])
    miss_lines = (line for report in reports for line in _miss_lines(report, misses))
    for line in (*_failure_lines(reports), *miss_lines):
        print_line(line)
    calls = sum(report.usage.get("calls", 0) for report in reports)
    cost = sum(report.usage.get("cost", 0.0) for report in reports)
    print_line(f"{quantity(calls, 'paid call')}, cost {cost:.4f}")


def _row(report: Report, max_deviation: float) -> list[object]:
    return [
        *(report.evaluator, report.model, len(report.outcomes)),
        *(_number(report.deviation), _number(report.bias, "+"), len(report.failed)),
        *(report.usage.get("calls", 0), f"{report.usage.get('cost', 0.0):.4f}"),
        _verdict(report, max_deviation),
    ]


def _verdict(report: Report, max_deviation: float) -> str:
    if not report.outcomes:
        return "no examples"
    if report.passes(max_deviation):
        return "ok"
    is_off = report.deviation is not None and report.deviation > max_deviation
    return "too far off" if is_off else "failed"


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.3f}"


def _failure_lines(reports: Sequence[Report]) -> Iterator[str]:
    """Return a line for each reason for which examples have no score."""
    places: dict[str, list[str]] = {}
    for report in reports:
        for failure in report.failed:
            place = f"{report.evaluator}, example {failure.number}"
            places.setdefault(one_line(failure.reasons, 300), []).append(place)
    for reason, found in places.items():
        where = found[0] if len(found) == 1 else quantity(len(found), "example")
        yield f"{where}: no score: {reason}"


def _miss_lines(report: Report, limit: int) -> Iterator[str]:
    for miss in report.misses(limit):
        score, wanted = f"{miss.score:.2f}", f"{miss.example.score:g}"
        yield f"{report.evaluator}, example {miss.number}: {score} instead of {wanted}"
        yield f"  response: {one_line(miss.example.response, 120)}"
        yield f"  model: {one_line(miss.reasons, 300)}"


def _plain(report: Report, max_deviation: float, misses: int) -> dict[str, Any]:
    return {
        "evaluator": report.evaluator,
        "model": report.model,
        "examples": len(report.outcomes),
        "failed": len(report.failed),
        "deviation": report.deviation,
        "bias": report.bias,
        "passed": report.passes(max_deviation),
        "usage": report.usage,
        "misses": [
            {
                "example": miss.number,
                "expected": miss.example.score,
                "score": miss.score,
                "reasons": miss.reasons,
            }
            for miss in [*report.failed, *report.misses(misses)][:misses]
        ],
    }
