"""Check the records of a file: its columns once, and each record for itself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.cli.input_files import columns
from worker.cli.input_files.columns import ColumnOffence
from worker.cli.input_files.complaints import Complaints, refusal
from worker.cli.input_files.csv_dialect import likely_delimiter
from worker.cli.input_files.csv_table import CsvTable
from worker.cli.input_files.jq import jq_lines_command
from worker.cli.input_files.json_object import WITHOUT_NUL
from worker.cli.input_files.record import Record, Table, location
from worker.cli.input_files.remedies import json_text_notes, no_object_offence, with_remedy
from worker.cli.input_files.selection import Selection, Unfit, part_of
from worker.errors import InvalidInputs
from worker.validation import HAS_NUL, given_offences, missing_content

EXAMPLES = 3
_LONGEST_HEADER = 1000  # characters that are searched for a delimiter
_NO_HEADER = (
    "if another line is the header: tail -n +2 FILE | evalworker enqueue - …\n"
    "if there is none: (printf {header}; cat FILE) | evalworker enqueue - …"
)
_ONE_COLUMN = (
    "if there are more columns: add --delimiter {delimiter}\n"
    "if another line is the header: tail -n +2 FILE | evalworker enqueue - …\n"
    f"if each line is a request: {jq_lines_command('{{request: .}}')}"
)


@dataclass(slots=True)
class CheckedFile:
    """What a file without offences has."""

    inputs: int = 0
    taken: dict[str, str] = field(default_factory=dict)  # the column that fills each field
    left_out: list[str] = field(default_factory=list)  # columns that no option mentions
    notes: list[str] = field(default_factory=list)  # what else is not taken, or should be looked at
    examples: list[dict[str, Any]] = field(default_factory=list)  # the first inputs


class ColumnsRefused(InvalidInputs):
    """The columns of a file do not fit; its records were not read."""

    def __init__(self, refused: InvalidInputs, suggested: dict[str, str]) -> None:
        super().__init__(refused.offences)
        self.suggested = suggested


def _header_remedy(names: Sequence[str], delimiter: str) -> str:
    """Say what helps where the first line of a CSV file may be no header, or not be divided."""
    if len(names) > 1:
        others = (f"column {number}" for number in range(3, len(names) + 1))
        header = delimiter.join(("request", "response", *others)).replace("\t", r"\t")
        return _NO_HEADER.format(header=shlex.quote(header + r"\n"))
    return _ONE_COLUMN.format(
        delimiter=shlex.quote(likely_delimiter(names[0][:_LONGEST_HEADER]) or "CHARACTER")
    )


class Check:
    """What is found while a file is read for the first time."""

    def __init__(self, name: str, table: Table, selection: Selection) -> None:
        self._file = CheckedFile()
        self._name = name
        self._table = table
        self._selection = selection
        self._complaints = Complaints()
        self._columns: dict[str, Any] = {}
        self._first: dict[str, Any] = {}  # the first record, or the columns of the table
        self._missing = set(selection.named)

    def add(self, record: Record) -> None:
        """Check one record more; raises `ColumnsRefused` at the first one."""
        self._file.inputs += 1
        value = record.value
        if self._file.inputs == 1 and self._table.columns:
            self._check_header(self._table.columns, value or {})
        if isinstance(value, dict):
            if not value.keys() <= self._columns.keys():
                self._check_columns(record)
            if self._missing:
                self._missing -= self._columns.keys()
                self._missing = {name for name in self._missing if part_of(value, name) is None}
        for offence in self._offences(record):
            self._complaints.add(location(self._table, record), offence)

    def result(self) -> CheckedFile:
        """Return what the file has; raises `InvalidInputs` if anything is wrong with it."""
        if not self._file.inputs:
            if self._table.columns:
                self._check_header(self._table.columns, {})
            only = ", only a header" if self._table.columns else ""
            raise refusal(self._name, f"the file has no inputs{only}")
        self._complaints.raise_if_any(self._name)
        if self._missing:
            raise refusal(self._name, columns.absence(sorted(self._missing), self._columns))
        if nothing := columns.split_offence(self._columns, self._selection):
            raise refusal(self._name, nothing)
        self._file.taken = columns.taken_columns(self._columns, self._selection)
        self._file.left_out = columns.left_out(self._columns, self._selection)
        unfilled = columns.unfilled_note(self._first, self._selection)
        self._file.notes = [
            *self._table.notes,
            *([unfilled] if unfilled else []),
            *json_text_notes(self._file.examples[0], self._file.taken),
        ]
        return self._file

    def _check_header(self, names: Sequence[str], cells: dict[str, Any]) -> None:
        """Check the columns that a table names for all records, by what its first row has."""
        where = self._table.columns_location
        self._columns = dict.fromkeys(names)
        self._first = self._columns | {
            name: columns.json_in_cell(name, cell) for name, cell in cells.items()
        }
        self._refuse(where, columns.missing_offence(self._columns, self._selection))
        offence = columns.column_offence(self._first, self._selection)
        if offence and not offence.suggested and isinstance(self._table, CsvTable):
            remedy = _header_remedy(names, self._table.delimiter)
            offence = ColumnOffence(f"{offence.text}\n{remedy}")
        self._refuse(where, offence)

    def _check_columns(self, record: Record) -> None:
        """Check the columns that no record before had."""
        new = {name: part for name, part in record.value.items() if name not in self._columns}
        is_first = not self._columns
        self._columns |= dict.fromkeys(new)
        if is_first:
            self._first = record.value
            offence = columns.column_offence(record.value, self._selection, self._table.jq_records)
            self._refuse(location(self._table, record), offence)
            return
        filled = self._selection.filled(record.value)
        if offence := columns.misspelt_offence(new, filled, self._selection):
            self._complaints.add(location(self._table, record), offence.text)

    def _refuse(self, where: str, offence: ColumnOffence | None) -> None:
        if offence is not None:
            raise ColumnsRefused(refusal(self._name, where, offence.text), offence.suggested)

    def _offences(self, record: Record) -> list[str]:
        if record.offence is not None:
            return [record.offence]
        if not isinstance(record.value, dict):
            return [no_object_offence(record.value, self._table.jq_records)]
        try:
            value = self._selection.input_of(record.value, cells=self._table.cells)
        except Unfit as error:
            return [str(error)]
        if len(self._file.examples) < EXAMPLES:
            self._file.examples.append(value)
        offences = given_offences(value)
        if offences and missing_content(value):
            # Name also what is no input field.
            offences[0] = missing_content(record.value | value) or offences[0]
        return [self._with_remedy(offence, value) for offence in offences]

    def _with_remedy(self, offence: str, value: dict[str, Any]) -> str:
        if offence.endswith(HAS_NUL) and isinstance(self._table, CsvTable):
            return f"{offence}: {WITHOUT_NUL}"
        name = offence.partition(" ")[0].partition("[")[0]
        column = self._selection.columns.get(name, name)
        return with_remedy(offence, value.get(name), column, self._table.jq_records)
