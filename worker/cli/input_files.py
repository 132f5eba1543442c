"""Read files of inputs, JSONL or CSV, in constant memory.

A file is read twice: once to find all that is wrong with it, before a row is written, and once to
enqueue it.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from worker.errors import SHOWN, InvalidInputs
from worker.validation import missing_content, offences_of
from worker.wire.inputs import Input

FIELDS = frozenset(Input.model_fields)
JSON_FIELDS = ("contexts", "functions", "turns", "file_ids")
"""Input fields whose cells of a CSV file hold JSON."""


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file without offences."""

    inputs: int
    ignored: set[str]  # fields of the file that the judge API does not have


@dataclass(frozen=True, slots=True)
class _Record:
    """An input of a file, or what keeps it from being read."""

    line: int  # where it begins
    value: Any = None
    offence: str | None = None


def check_file(path: Path, on_progress: Callable[[int], None] = lambda _: None) -> CheckedFile:
    """Read the whole file, and raise `InvalidInputs` with the offences of every line.

    `on_progress` receives the number of bytes read so far.
    """
    inputs = total = 0
    shown: list[str] = []
    ignored: set[str] = set()
    for record in _records(path, on_progress):
        inputs += 1
        offences = _record_offences(record)
        total += len(offences)
        room = SHOWN - len(shown)
        shown += [f"line {record.line}: {offence}" for offence in offences[:room]]
        if isinstance(record.value, dict):
            ignored |= record.value.keys() - FIELDS
    if not inputs:
        raise InvalidInputs(["line 1: the file has no inputs"])
    if shown:
        raise InvalidInputs(shown, total=total)
    return CheckedFile(inputs, ignored)


def _record_offences(record: _Record) -> list[str]:
    if record.offence is not None:
        return [record.offence]
    if not isinstance(record.value, dict):
        return offences_of(record.value)
    missing = missing_content(record.value)
    offences = offences_of(_input_of(record.value))
    # Of what is there, it names also what is no input field.
    return [missing, *offences[1:]] if missing else offences


def read_inputs(
    path: Path, on_progress: Callable[[int], None] = lambda _: None
) -> Iterator[dict[str, Any]]:
    """Yield the inputs of a file that `check_file` has accepted, ready for `enqueue`."""
    for record in _records(path, on_progress):
        if record.offence is not None or not isinstance(record.value, dict):
            raise InvalidInputs([f"line {record.line}: changed since the file was checked"])
        yield _input_of(record.value)


def _input_of(value: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if name in FIELDS and part is not None}


def _records(path: Path, on_progress: Callable[[int], None]) -> Iterator[_Record]:
    with path.open("rb") as raw:
        reader = _csv_records if path.suffix.lower() == ".csv" else _json_records
        for record in reader(raw):
            yield record
            on_progress(raw.tell())


def _json_records(raw: IO[bytes]) -> Iterator[_Record]:
    for number, text in enumerate(raw, 1):
        try:
            decoded = text.decode("utf-8-sig" if number == 1 else "utf-8")
            if decoded.strip():
                yield _Record(number, json.loads(decoded))
        except UnicodeDecodeError as error:
            yield _Record(number, offence=f"is not UTF-8 (byte {error.start + 1})")
        except json.JSONDecodeError as error:
            yield _Record(number, offence=f"is not JSON: {error.msg} (column {error.colno})")
        except RecursionError:
            yield _Record(number, offence="is not readable JSON: nested too deeply")
        except ValueError:  # a limit of Python's, not of JSON
            yield _Record(number, offence="is not readable JSON: a number is too long")


def _csv_records(raw: IO[bytes]) -> Iterator[_Record]:
    csv.field_size_limit(sys.maxsize)
    lines = _NumberedLines(raw)
    rows = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while True:
        number = lines.number + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except UnicodeDecodeError:
            yield _Record(lines.number, offence="is not UTF-8")
            if header is None:
                return  # without a header no other line can be read
            continue
        except csv.Error as error:
            yield _Record(number, offence=f"is not CSV: {error}")
            return
        if not row:
            continue
        if header is not None:
            yield _csv_record(number, header, row)
            continue
        header = [name.strip() for name in row]
        if repeated := sorted({name for name in header if header.count(name) > 1}):
            yield _Record(number, offence=f"names a column twice: {', '.join(repeated)}")
            return


class _NumberedLines:
    """Iterate over lines as text, and count them: a quoted cell can hold several."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self.number = 0

    def __iter__(self) -> _NumberedLines:
        return self

    def __next__(self) -> str:
        line = self.raw.readline()
        if not line:
            raise StopIteration
        self.number += 1
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8")


def _csv_record(number: int, header: list[str], row: list[str]) -> _Record:
    if len(row) > len(header):
        return _Record(number, offence=f"has {len(row)} cells, the header has {len(header)}")
    value: dict[str, Any] = {}
    for name, cell in zip(header, row, strict=False):
        if not cell:
            continue  # an empty cell is an absent field
        if name not in JSON_FIELDS:
            value[name] = cell
            continue
        try:
            value[name] = json.loads(cell)
        except (ValueError, RecursionError):
            return _Record(number, offence=f"{name} does not hold JSON")
    return _Record(number, value)
