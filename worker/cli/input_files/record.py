"""Define a record of a file, and what the reader of a format provides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol


class Record(NamedTuple):
    """What a file has for one input, or the reason why it cannot be read."""

    number: int  # of the line where it begins; in arrays and Parquet files, its own, from 1
    value: Any = None  # an object; JSON may hold any other value
    offence: str | None = None
    line: int | None = None  # where an element of an array begins


class Table(Protocol):
    """The records of a file. They can be read several times."""

    @property
    def description(self) -> str:
        """The format, in words."""

    @property
    def unit(self) -> str:
        """What `Record.number` counts."""

    @property
    def columns(self) -> Sequence[str] | None:
        """The names of the columns, if the file names them once for all records."""

    @property
    def columns_location(self) -> str:
        """Where the file names its columns."""

    @property
    def cells(self) -> bool:
        """Whether a list may be a text that holds JSON, as in the cells of a table."""

    @property
    def jq_records(self) -> str | None:
        """What makes jq yield the records, to be continued; None if the file is not JSON."""

    @property
    def notes(self) -> Sequence[str]:
        """What is not taken from the file; of rows, after they were read."""

    def records(self) -> Iterator[Record]:
        """Yield the records from the beginning of the file."""


def location(table: Table, record: Record) -> str:
    """Return where a record is, for a person."""
    line = "" if record.line is None else f" (line {record.line})"
    return f"{table.unit} {record.number}{line}"
