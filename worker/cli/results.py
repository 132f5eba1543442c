"""Show or export the results of a job."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.progress import MofNCompleteColumn

from worker.admin import Admin
from worker.cli.context import (
    AsJson,
    JobId,
    data_stream,
    open_admin,
    print_line,
    print_table,
    progress_bar,
)
from worker.cli.tables import Column
from worker.domain.phrases import one_line, quantity
from worker.export import Format, without_formulas, write_text


class OutputFormat(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


def results(
    job: JobId,
    output_format: Annotated[
        OutputFormat | None,
        typer.Option(
            "--format", help="By default a table, or what the extension of --output says."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write to this file, which appears once it is complete."),
    ] = None,
    for_spreadsheets: Annotated[
        bool,
        typer.Option(
            "--for-spreadsheets", help="In CSV, put a ' before texts that would be run as formulas."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    export_format = _export_format(OutputFormat.JSONL if as_json else output_format, output)
    if for_spreadsheets and export_format is not Format.CSV:
        raise typer.BadParameter("--for-spreadsheets is for CSV: --format csv")
    with open_admin() as admin:
        job_id = admin.find_job(job)
        if export_format is None:
            _print_results(admin, job_id)
        elif output is not None:
            _export(admin, job_id, output, export_format, for_spreadsheets=for_spreadsheets)
        else:
            found = admin.results(job_id)
            shown = without_formulas(found) if for_spreadsheets else found
            write_text(shown, data_stream(), export_format)


def _export_format(output_format: OutputFormat | None, output: Path | None) -> Format | None:
    """Return the format to export; None means a table on the terminal."""
    if output is None:
        if output_format is OutputFormat.PARQUET:
            raise typer.BadParameter("Parquet is written to a file: --output FILE")
        return None if output_format in (None, OutputFormat.TABLE) else Format(output_format)
    name = output_format or output.suffix.removeprefix(".").lower()
    if name not in set(Format):
        raise typer.BadParameter(
            f"{output}: name it .jsonl, .csv or .parquet, or choose one with --format"
        )
    return Format(name)


def _export(
    admin: Admin, job_id: UUID, output: Path, export_format: Format, *, for_spreadsheets: bool
) -> None:
    total = admin.job(job_id)["total"]
    with progress_bar(MofNCompleteColumn()) as progress:
        task = progress.add_task("inputs", total=total)
        admin.export(
            job_id,
            output,
            export_format,
            for_spreadsheets=for_spreadsheets,
            on_progress=lambda done: progress.update(task, completed=done),
        )
    print_line(f"{quantity(total, 'input')} in {output}")


def _print_results(admin: Admin, job_id: UUID) -> None:
    evaluators = [row["evaluator_name"] for row in admin.means(job_id)]
    columns = [
        Column("input", numeric=True),
        Column("status"),
        *(Column(name, numeric=True) for name in evaluators),
        Column("request", shrinkable=True),
        Column("error", shrinkable=True),
        Column("metadata", shrinkable=True),
    ]
    rows: list[list[object]] = []
    has_metadata = False
    for result in admin.results(job_id):
        scores = {score.evaluator_name: score.score for score in result.scores}
        ordered = [scores.get(name) for name in evaluators]
        rows.append(
            [
                result.item.item_index,
                result.item.status,
                *("" if score is None else f"{score:.3g}" for score in ordered),
                one_line(result.item.request, 50),
                one_line(result.item.error, 50),
                one_line(_compact(result.item.metadata), 50),
            ]
        )
        has_metadata |= result.item.metadata is not None
    print_table(columns if has_metadata else columns[:-1], rows)


def _compact(metadata: object) -> str | None:
    return None if metadata is None else json.dumps(metadata, ensure_ascii=False)
