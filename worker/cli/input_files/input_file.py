"""Check a whole file before a row is written, then read its inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker.cli.input_files.charset import encoding_offence
from worker.cli.input_files.check import Check, CheckedFile, ColumnsRefused
from worker.cli.input_files.complaints import refusal
from worker.cli.input_files.record import Record, location
from worker.cli.input_files.selection import Selection, Unfit
from worker.cli.input_files.source import Source, open_source, recoded, refused_if_unreadable
from worker.cli.input_files.table import open_table
from worker.errors import InvalidInputs

_PROGRESS_STEP = 500  # records

Progress = Callable[[int], None]
"""Receives the number of bytes read so far."""


def _silent(_: int) -> None:
    pass


class InputFile:
    """The inputs of an open file."""

    def __init__(
        self, source: Source, selection: Selection, *, delimiter: str | None = None
    ) -> None:
        try:
            self._table = open_table(source, delimiter=delimiter, given=selection.constants)
        except UnicodeDecodeError:
            raise _not_utf8(source, selection, delimiter) from None
        self.name = source.name
        self.description = ", ".join((self._table.description, *source.details))
        self.size = source.file.seek(0, os.SEEK_END)
        self._source = source
        self._selection = selection
        self._delimiter = delimiter

    def check(self, on_progress: Progress = _silent) -> CheckedFile:
        """Read the whole file, and raise `InvalidInputs` with all that is wrong with it.

        If its columns or its encoding are refused, the error also has what would be wrong after
        the suggested options: so the second attempt can be the last.
        """
        try:
            return self._check(on_progress)
        except ColumnsRefused as refused:
            if not refused.suggested:
                raise
            selection = self._selection.with_columns(refused.suggested)
            later = _offences(self._source, selection, self._delimiter)
            raise InvalidInputs([*refused.offences, *later]) from None
        except UnicodeDecodeError:
            raise _not_utf8(self._source, self._selection, self._delimiter) from None

    def _check(self, on_progress: Progress) -> CheckedFile:
        check = Check(self.name, self._table, self._selection)
        for record in self._records(on_progress):
            check.add(record)
        checked = check.result()
        checked.notes = [*self._source.notes, *checked.notes]
        return checked

    def inputs(self, on_progress: Progress = _silent) -> Iterator[dict[str, Any]]:
        """Yield the inputs of a file that `check` has accepted, ready for `enqueue`."""
        try:
            for record in self._records(on_progress):
                if record.offence is not None or not isinstance(record.value, dict):
                    raise self._changed(location(self._table, record))
                yield self._selection.input_of(record.value, cells=self._table.cells)
        except (UnicodeDecodeError, Unfit):
            raise self._changed("line of another kind") from None

    def _records(self, on_progress: Progress) -> Iterator[Record]:
        with refused_if_unreadable(self.name):
            for count, record in enumerate(self._table.records()):
                if count % _PROGRESS_STEP == 0:
                    on_progress(min(self._source.file.tell(), self.size))
                yield record
        on_progress(self.size)

    def _changed(self, where: str) -> InvalidInputs:
        return refusal(self.name, where, "changed since the file was checked")


def _offences(source: Source, selection: Selection, delimiter: str | None) -> list[str]:
    try:
        InputFile(source, selection, delimiter=delimiter).check()
    except InvalidInputs as error:
        return error.offences
    return []


def _not_utf8(source: Source, selection: Selection, delimiter: str | None) -> InvalidInputs:
    """Return the error of a file that is not UTF-8, with what would be wrong in the likely one."""
    offence = encoding_offence(source.file)
    error = refusal(source.name, offence.text)
    if offence.guess is None:
        return error
    try:
        with recoded(source, offence.guess) as readable:
            later = _offences(readable, selection, delimiter)
    except InvalidInputs as refused:
        later = refused.offences
    return InvalidInputs([*error.offences, *later])


@contextmanager
def open_input_file(
    path: Path,
    selection: Selection | None = None,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[InputFile]:
    """Open a file of inputs, or standard input for `-`; raises `InvalidInputs`."""
    with open_source(path, encoding) as source:
        yield InputFile(source, selection or Selection(), delimiter=delimiter)
