"""Read CSV: a header with the names of the columns, then a row for each input."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TextIO

from worker.cli.input_files.complaints import refusal
from worker.cli.input_files.csv_dialect import Dialect, delimiter_name, dialect_of
from worker.cli.input_files.record import Record
from worker.domain.phrases import quantity

_SAMPLE_LINES = 50
_SAMPLE_CHARACTERS = 64 * 1024

_RULER = re.compile(r"(?=.*-{2})(?=.*[|+])[-+|:= \t]+[\r\n]*")
_WITH_QUOTES = """sed 's/"/""/g; s/[^\\t]*/"&"/g' FILE | evalworker enqueue - --delimiter tab …"""
_SINGLE_QUOTED = re.compile(r"'.*'")
_SINGLE_QUOTES = (
    "puts its cells in single quotes, which are parts of the texts in CSV: write double quotes"
)
_DRAWN = (
    "is a line of a table that is drawn for people\n"
    "write it as CSV (psql --csv, sqlite3 -csv -header), or separated by tabs (mysql --batch)"
)

_SWALLOWED_ROWS = (
    "has a quoted cell with a line end and a tab, which may be rows\n"
    f"if quotes are parts of the texts: {_WITH_QUOTES}\n"
    "if it is one cell: write the file as CSV or JSONL"
)
# Spaces, byte order marks and others that nobody sees.
_AROUND_NAMES = re.compile(r"^[\s\u200b-\u200f\u2060\ufeff]+|[\s\u200b-\u200f\u2060\ufeff]+$")

_Rows = Iterator[tuple[int, list[str]]]


class CsvTable:
    """The rows of a CSV file. Its header is read, and checked, when it is made."""

    unit = "line"
    cells = True
    jq_records = None

    def __init__(
        self, file: BinaryIO, name: str, *, delimiter: str | None = None, default: str = ","
    ) -> None:
        csv.field_size_limit(sys.maxsize)
        self._file = file
        with _text(file) as text:
            lines = list(itertools.islice(_short_lines(text), _SAMPLE_LINES))
        for number, text_line in enumerate(lines[:2], 1):  # later ones may be parts of texts
            if _RULER.fullmatch(text_line):
                raise refusal(name, f"line {number}", _DRAWN)
        self._dialect = dialect_of(lines, delimiter=delimiter, default=default)
        self._blank_rows = 0
        self.columns, line = self._header(name)
        self.columns_location = f"line {line}, the header"

    @property
    def description(self) -> str:
        return self._dialect.description

    @property
    def delimiter(self) -> str:
        return self._dialect.delimiter

    @property
    def notes(self) -> list[str]:
        count = self._blank_rows
        return [f"left out {quantity(count, 'empty row')}"] if count else []

    def records(self) -> Iterator[Record]:
        """Yield the records; after one that is not CSV, there are no others."""
        width = len(self.columns)
        self._blank_rows = 0
        with _text(self._file) as text:
            rows = _numbered_rows(text, self._dialect)
            number = 0
            try:
                next(rows, None)  # the header
                for number, row in rows:
                    if not any(cell.strip() for cell in row):
                        self._blank_rows += 1  # as spreadsheets write below the last row
                        continue
                    if self.delimiter == "\t" and any(map(_may_be_rows, row)):
                        yield Record(number, offence=_SWALLOWED_ROWS)
                        continue
                    if len(row) != width:
                        yield Record(number, offence=self._width_offence(len(row)))
                        continue
                    yield Record(
                        number,
                        {name: cell for name, cell in zip(self.columns, row, strict=True) if cell},
                    )
            except _NotCsv as error:
                yield Record(error.number, offence=self._not_csv(error))

    def _not_csv(self, error: _NotCsv) -> str:
        reason = f"is not CSV: {error}"
        if self._dialect.delimiter == "\t":
            return f"{reason}\nif quotes are parts of the texts: {_WITH_QUOTES}"
        return reason

    def _width_offence(self, width: int) -> str:
        wanted = len(self.columns)
        if width < wanted:
            return f"has {width} of {wanted} cells: it is cut off, or delimiters are missing"
        delimiter = delimiter_name(self._dialect.delimiter)
        return (
            f"has {width} cells, the header has {wanted}: put quotes around a cell that contains "
            f"{delimiter}, or name every column in the header"
        )

    def _header(self, name: str) -> tuple[list[str], int]:
        with _text(self._file) as text:
            try:
                number, row = next(_numbered_rows(text, self._dialect), (1, []))
            except _NotCsv as error:
                raise refusal(name, f"line {error.number}", self._not_csv(error)) from None
        if row and all(_SINGLE_QUOTED.fullmatch(cell.strip()) for cell in row):
            raise refusal(name, f"line {number}", _SINGLE_QUOTES)
        names = (_AROUND_NAMES.sub("", cell) for cell in row)
        columns = [name or f"column {n}" for n, name in enumerate(names, 1)]
        return columns, number


def _may_be_rows(cell: str) -> bool:
    """Return whether a cell of a tab file may be rows between two quotes that texts have."""
    return "\t" in cell and ("\n" in cell or "\r" in cell)


class _NotCsv(Exception):
    """A row breaks the rules of CSV."""

    def __init__(self, number: int, reason: str) -> None:
        self.number = number
        super().__init__(reason)


def _numbered_rows(text: TextIO, dialect: Dialect) -> _Rows:
    """Yield the rows with the number of the line on which each begins; blank lines are left out."""
    skipped = 0
    if dialect.has_sep_line:
        text.readline()
        skipped = 1
    rows: Any = csv.reader(
        text, delimiter=dialect.delimiter, skipinitialspace=dialect.skips_spaces, strict=True
    )
    while True:
        number = skipped + rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise _NotCsv(number, _plain(error)) from None
        if row and not (len(row) == 1 and not row[0].strip()):
            yield number, row


def _plain(error: csv.Error) -> str:
    """Return the reason with what is to be done about it."""
    if "unexpected end of data" in str(error):
        return "unexpected end of data: a quote that opens here is never closed"
    if "expected after" in str(error):
        return (
            "a quote inside quotes is not doubled\n"
            """if it is written as \\": sed 's/\\\\"/""/g' FILE | evalworker enqueue - …"""
        )
    return str(error)


def _short_lines(text: TextIO) -> Iterator[str]:
    room = _SAMPLE_CHARACTERS
    while room > 0 and (line := text.readline(room)):
        yield line
        room -= len(line)


@contextmanager
def _text(file: BinaryIO) -> Iterator[TextIO]:
    """Read a binary file as text; line ends of Unix, Windows and old Macs stay as they are."""
    start = 0
    file.seek(start)
    while file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:  # files with such marks get joined
        start += len(codecs.BOM_UTF8)
    file.seek(start)
    text = io.TextIOWrapper(file, "utf-8", newline="")
    try:
        yield text
    finally:
        text.detach()
