"""Results as files for programs: JSONL, CSV and Parquet, of any size, in constant memory.

JSONL has a line for each input, with its scores inside; CSV and Parquet have a row for each input
and evaluator, and one without an evaluator where there is no result.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from worker.errors import EvalWorkerError
from worker.store.job_queries import Item, ItemResult

ROWS = 10_000  # of a row group of Parquet, at most
CHARACTERS = 32 * 1024 * 1024  # likewise, of its texts

ITEM_COLUMNS = Item._fields
SCORE_COLUMNS = ("evaluator_name", "score", "justification", "confidence")


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


def write_file(found: Iterable[ItemResult], path: Path, form: Format) -> None:
    """The file is there when it is whole; until then it has `.part` at the end of its name."""
    if path.exists() and not path.is_file():  # a pipe, or a terminal
        _write(found, path, form)
        return
    part = path.with_name(f"{path.name}.part")
    try:
        _write(found, part, form)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _write(found: Iterable[ItemResult], path: Path, form: Format) -> None:
    if form is Format.PARQUET:
        _arrow()  # before the file is made
        with path.open("wb") as binary:
            write_parquet(found, binary)
        return
    with path.open("w", encoding="utf-8", newline="") as text:
        write_text(found, text, form)


def write_text(found: Iterable[ItemResult], stream: IO[str], form: Format) -> None:
    """JSONL or CSV."""
    if form is Format.JSONL:
        for result in found:
            stream.write(json.dumps(_nested(result), default=_plain, ensure_ascii=False) + "\n")
        return
    writer = csv.writer(stream)
    writer.writerow([*ITEM_COLUMNS, *SCORE_COLUMNS])
    for row in _flat(found):
        writer.writerow(row.values())


def write_parquet(found: Iterable[ItemResult], stream: IO[bytes]) -> None:
    """One row group after the other; raises `EvalWorkerError` where pyarrow is not installed."""
    arrow, parquet = _arrow()
    schema = arrow.schema(list(_types(arrow).items()))
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for group in _groups(_flat(found)):
            writer.write_table(arrow.Table.from_pylist(group, schema=schema))


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append({**row, "job_id": str(row["job_id"]), "batch_id": _text(row["batch_id"])})
        size += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(group) >= ROWS or size >= CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _flat(found: Iterable[ItemResult]) -> Iterator[dict[str, Any]]:
    for result in found:
        item = {name: getattr(result.item, name) for name in ITEM_COLUMNS}
        if not result.scores:
            yield item | dict.fromkeys(SCORE_COLUMNS)
        for score in result.scores:
            yield item | {name: getattr(score, name) for name in SCORE_COLUMNS}


def _nested(result: ItemResult) -> dict[str, Any]:
    given = [{name: getattr(score, name) for name in SCORE_COLUMNS} for score in result.scores]
    return {**result.item._asdict(), "scores": given}


def _types(arrow: Any) -> dict[str, Any]:
    types = dict.fromkeys((*ITEM_COLUMNS, *SCORE_COLUMNS), arrow.string())
    types |= dict.fromkeys(("item_index", "attempts"), arrow.int64())
    types |= dict.fromkeys(("score", "confidence"), arrow.float64())
    return types | {"finished_at": arrow.timestamp("us", tz="UTC")}


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise EvalWorkerError(
            "Parquet needs the extra `parquet`: pip install 'evalworker[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
