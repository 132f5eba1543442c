"""Read Parquet by pyarrow, which the extra `parquet` installs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, BinaryIO

from worker.cli.input_files.complaints import refusal
from worker.cli.input_files.record import Record
from worker.errors import InvalidInputs

_BATCH = 1000  # rows in memory
_BUFFER = 64 * 1024  # bytes of each column that are read at a time


class ParquetTable:
    """The rows of a Parquet file."""

    description = "Parquet"
    unit = "row"
    jq_records = None
    columns_location = "schema"
    cells = True
    notes: Sequence[str] = ()

    def __init__(self, file: BinaryIO, name: str) -> None:
        try:
            parquet = import_module("pyarrow.parquet")
        except ModuleNotFoundError:
            reason = "is a Parquet file, which needs pip install 'evalworker[parquet]'"
            raise refusal(name, reason) from None
        self._arrow = import_module("pyarrow")
        self._name = name
        try:
            # Else whole columns of a row group, which may be the file, are in memory.
            self._file = parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
        except (self._arrow.ArrowException, OSError) as error:
            raise self._damaged(error) from None
        self.columns: list[str] = list(self._file.schema_arrow.names)

    def records(self) -> Iterator[Record]:
        """Yield the records, with dates, decimals and bytes of UTF-8 as strings."""
        number = 0
        try:
            for batch in self._file.iter_batches(batch_size=_BATCH):
                for row in self._rows(batch):
                    number += 1
                    yield Record(number, _json_value(row))
        except (self._arrow.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _rows(self, batch: Any) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = batch.to_pylist()
        except (ValueError, OverflowError):  # a time of a year or a unit that Python lacks
            is_temporal = self._arrow.types.is_temporal
            columns = [
                column.cast(self._arrow.string()) if is_temporal(column.type) else column
                for column in batch.columns
            ]
            rows = self._arrow.RecordBatch.from_arrays(columns, names=self.columns).to_pylist()
        return rows

    def _damaged(self, error: Exception) -> InvalidInputs:
        reason = str(error).partition("\n")[0][:120]
        return refusal(self._name, f"is a cut-off or damaged Parquet file: {reason}")


def _json_value(value: Any) -> Any:
    """Return a value as JSON has it; bytes that are not UTF-8 remain, to be refused in inputs."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        return {name: _json_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(part) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if isoformat else str(value)
