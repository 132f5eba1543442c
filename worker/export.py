"""Write results to JSONL, CSV and Parquet files of any size, in constant memory.

JSONL has a line for each input, which contains its scores. CSV and Parquet have a row for each
input and evaluator; an input without results has one row without an evaluator. There the metadata
of an input is JSON text, in the last column.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, TypeVar

from worker.errors import EvalWorkerError
from worker.store.job_queries import Item, ItemResult, Score
from worker.store.private_file import private_opener, replacement_of

MAX_ROWS = 10_000  # of a row group of Parquet
MAX_CHARACTERS = 32 * 1024 * 1024  # of the texts of a row group

# A spreadsheet takes a text that begins so for a formula, and runs it when the file is opened
# (OWASP, "CSV Injection"). Some trim spaces first, and some read the full-width forms alike.
FORMULA_BEGINS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")

ITEM_COLUMNS = tuple(name for name in Item._fields if name != "metadata")
SCORE_COLUMNS = ("evaluator_name", "score", "justification", "confidence")
ROW_COLUMNS = (*ITEM_COLUMNS, *SCORE_COLUMNS, "metadata")


Row = TypeVar("Row", Item, Score)


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


def write_file(results: Iterable[ItemResult], path: Path, form: Format) -> None:
    """Write a file that appears when it is complete; until then its name ends in `.part`.

    Only its owner can read a new file. One that is replaced keeps its mode. Raises
    `EvalWorkerError` if it cannot be written.
    """
    with replacement_of(path) as part:
        _write(results, part, form)


def _write(results: Iterable[ItemResult], path: Path, form: Format) -> None:
    if form is Format.PARQUET:
        _import_arrow()  # raises before the file is created
        with open(path, "wb", opener=private_opener) as binary:
            write_parquet(results, binary)
        return
    with open(path, "w", encoding="utf-8", newline="", opener=private_opener) as text:
        write_text(results, text, form)


def write_text(results: Iterable[ItemResult], stream: IO[str], form: Format) -> None:
    """Write JSONL or CSV."""
    stream.writelines(text_pieces(results, form))


def text_pieces(results: Iterable[ItemResult], form: Format) -> Iterator[str]:
    """Yield JSONL or CSV in pieces: a line of JSON for each input, or rows of CSV."""
    if form is Format.JSONL:
        for result in results:
            yield json.dumps(_with_scores(result), default=_json_value, ensure_ascii=False) + "\n"
        return
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(ROW_COLUMNS)
    for row in _score_rows(results):
        writer.writerow(map(_csv_value, row.values()))
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()  # the heading, if there was no row


def without_formulas(results: Iterable[ItemResult]) -> Iterator[ItemResult]:
    """Yield results whose texts no spreadsheet takes for formulas; numbers stay numbers.

    Such a text gets a `'` in front, so this is for people, and not for programs to read back.
    """
    for item, scores in results:
        yield ItemResult(_as_texts(item), [_as_texts(score) for score in scores])


def _as_texts(row: Row) -> Row:
    texts: dict[str, Any] = {
        name: f"'{value}"
        for name, value in row._asdict().items()
        if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA_BEGINS)
    }
    return row._replace(**texts) if texts else row


def write_parquet(results: Iterable[ItemResult], stream: IO[bytes]) -> None:
    """Write Parquet group by group; raises `EvalWorkerError` if pyarrow is not installed."""
    arrow, parquet = _import_arrow()
    schema = arrow.schema(list(_column_types(arrow).items()))
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for group in _row_groups(_score_rows(results)):
            writer.write_table(arrow.Table.from_pylist(group, schema=schema))


def _row_groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append({**row, "job_id": str(row["job_id"]), "batch_id": _text(row["batch_id"])})
        size += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(group) >= MAX_ROWS or size >= MAX_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _score_rows(results: Iterable[ItemResult]) -> Iterator[dict[str, Any]]:
    for result in results:
        item = {name: getattr(result.item, name) for name in ITEM_COLUMNS}
        metadata = {"metadata": _json_text(result.item.metadata)}
        if not result.scores:
            yield item | dict.fromkeys(SCORE_COLUMNS) | metadata
        for score in result.scores:
            yield item | {name: getattr(score, name) for name in SCORE_COLUMNS} | metadata


def _with_scores(result: ItemResult) -> dict[str, Any]:
    given = [{name: getattr(score, name) for name in SCORE_COLUMNS} for score in result.scores]
    return {**result.item._asdict(), "scores": given}


def _column_types(arrow: Any) -> dict[str, Any]:
    types = dict.fromkeys(ROW_COLUMNS, arrow.string())
    types |= dict.fromkeys(("item_index", "attempts"), arrow.int64())
    types |= dict.fromkeys(("score", "confidence"), arrow.float64())
    return types | {"finished_at": arrow.timestamp("us", tz="UTC")}


def _import_arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise EvalWorkerError(
            "Parquet needs the extra `parquet`: pip install 'evalworker[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet


def _json_text(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _csv_value(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _json_value(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
