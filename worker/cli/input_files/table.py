"""Choose the reader of a file by its content, and by its name where the content fits several."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Container

from worker.cli.input_files.columns import listed
from worker.cli.input_files.complaints import refusal
from worker.cli.input_files.csv_dialect import likely_delimiter
from worker.cli.input_files.csv_table import CsvTable
from worker.cli.input_files.json_shape import json_table
from worker.cli.input_files.parquet_table import ParquetTable
from worker.cli.input_files.record import Table
from worker.cli.input_files.signatures import HEAD
from worker.cli.input_files.source import Source

_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*[\"'}]|\[\s*[\[{\]\"])")
_JSON_SUFFIXES = {".json", ".jsonl", ".ndjson", ".jl", ".jsonlines"}
_TAB_SUFFIXES = {".tsv", ".tab"}


def open_table(
    source: Source, *, delimiter: str | None = None, given: Container[str] = ()
) -> Table:
    """Return the records of a file; raises `InvalidInputs` if it has none of a known form.

    `given` are the fields that have the same value in all inputs.
    """
    table = _open(source, delimiter, given)
    counts = Counter(table.columns or ())
    if repeated := [column for column, count in counts.items() if count > 1]:
        reason = f"names a column twice: {listed(repeated)}\nrename one of them"
        raise refusal(source.name, table.columns_location, reason)
    return table


def _open(source: Source, delimiter: str | None, given: Container[str]) -> Table:
    if source.is_parquet:
        return ParquetTable(source.file, source.name)
    source.file.seek(0)
    head = source.file.read(HEAD)
    is_json = _JSON.match(head) is not None
    if is_json and delimiter is not None:
        raise refusal(source.name, "is JSON: leave out --delimiter")
    if is_json or (delimiter is None and source.suffix in _JSON_SUFFIXES):
        if not is_json and (mark := _delimiter_of_names(head)):
            option = f"--delimiter {shlex.quote(mark)}"
            raise refusal(source.name, f"is CSV, in spite of its name: add {option}")
        return json_table(source.file, source.name, given)
    default = "\t" if source.suffix in _TAB_SUFFIXES else ","
    return CsvTable(source.file, source.name, delimiter=delimiter, default=default)


def _delimiter_of_names(head: bytes) -> str | None:
    """Return what divides the first line, if it is a header rather than JSON with a mistake."""
    line = head.decode("utf-8", "replace").strip().partition("\n")[0]
    return None if line.startswith(("{", "[")) else likely_delimiter(line)
