"""Files of inputs, JSONL or CSV, of any size in constant memory.

A file is read twice: once to find everything that is wrong with it, line by line, before a row is
written; and once to enqueue it.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from worker.errors import SHOWN, InvalidInputs
from worker.validation import offences_of
from worker.wire.inputs import Input

FIELDS = frozenset(Input.model_fields)
JSON_FIELDS = ("contexts", "functions", "turns", "file_ids")
"""Input fields whose cells of a CSV file hold JSON."""


@dataclass(slots=True)
class Survey:
    """What a first reading of a file found."""

    inputs: int = 0
    offences: list[str] = field(default_factory=list)  # the first ones, as `line 3: …`
    total_offences: int = 0
    ignored: set[str] = field(default_factory=set)  # fields that are not inputs of the judge API

    def complain(self, line: int, complaint: str) -> None:
        self.total_offences += 1
        if len(self.offences) < SHOWN:
            self.offences.append(f"line {line}: {complaint}")


@dataclass(frozen=True, slots=True)
class _Line:
    """A record of the file: its value, or what is wrong with it."""

    number: int
    value: Any = None
    complaint: str | None = None


def survey(path: Path, on_progress: Callable[[int], None] = lambda _: None) -> Survey:
    """Reads the whole file; raises `InvalidInputs` naming every bad line.

    `on_progress` is told the bytes read so far.
    """
    found = Survey()
    for line in _lines(path, on_progress):
        found.inputs += 1
        if line.complaint is not None:
            found.complain(line.number, line.complaint)
        elif not isinstance(line.value, dict):
            found.complain(line.number, offences_of(line.value)[0])
        else:
            _survey_fields(line, found)
    if not found.inputs:
        found.complain(1, "the file has no inputs")
    if found.offences:
        raise InvalidInputs(found.offences, total=found.total_offences)
    return found


def _survey_fields(line: _Line, found: Survey) -> None:
    value = _known(line.value)
    found.ignored |= line.value.keys() - FIELDS
    if not value:
        found.complain(line.number, "has no input field of the judge API (request, response, …)")
    for offence in offences_of(value):
        found.complain(line.number, offence)


def read_inputs(
    path: Path, on_progress: Callable[[int], None] = lambda _: None
) -> Iterator[dict[str, Any]]:
    """The inputs of a file that `survey` found good, one by one, ready for `enqueue`."""
    for line in _lines(path, on_progress):
        if line.complaint is not None or not isinstance(line.value, dict):
            raise InvalidInputs([f"line {line.number}: changed since the file was checked"])
        yield _known(line.value)


def _known(value: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if name in FIELDS and part is not None}


def _lines(path: Path, on_progress: Callable[[int], None]) -> Iterator[_Line]:
    with path.open("rb") as raw:
        reader = _csv_lines if path.suffix.lower() == ".csv" else _json_lines
        for line in reader(raw):
            yield line
            on_progress(raw.tell())


def _json_lines(raw: IO[bytes]) -> Iterator[_Line]:
    for number, text in enumerate(raw, 1):
        try:
            decoded = text.decode("utf-8-sig" if number == 1 else "utf-8")
            if decoded.strip():
                yield _Line(number, json.loads(decoded))
        except UnicodeDecodeError as error:
            yield _Line(number, complaint=f"is not UTF-8 (byte {error.start + 1})")
        except json.JSONDecodeError as error:
            yield _Line(number, complaint=f"is not JSON: {error.msg} (column {error.colno})")
        except RecursionError:
            yield _Line(number, complaint="is not JSON that can be read: nested too deeply")
        except ValueError:  # Python's own limit, which JSON does not know
            yield _Line(number, complaint="is not JSON that can be read: a number is too long")


def _csv_lines(raw: IO[bytes]) -> Iterator[_Line]:
    csv.field_size_limit(sys.maxsize)
    lines = _CountedLines(raw)
    rows = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while True:
        number = lines.number + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except UnicodeDecodeError:
            yield _Line(lines.number, complaint="is not UTF-8")
            if header is None:
                return  # without it no other line can be judged
            continue
        except csv.Error as error:
            yield _Line(number, complaint=f"is not CSV: {error}")
            return
        if not row:
            continue
        if header is not None:
            yield _csv_line(number, header, row)
            continue
        header = [name.strip() for name in row]
        if doubled := sorted({name for name in header if header.count(name) > 1}):
            yield _Line(number, complaint=f"names a column twice: {', '.join(doubled)}")
            return


class _CountedLines:
    """The lines of a file as text, counted: a quoted cell can hold several of them."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self.number = 0

    def __iter__(self) -> _CountedLines:
        return self

    def __next__(self) -> str:
        line = self.raw.readline()
        if not line:
            raise StopIteration
        self.number += 1
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8")


def _csv_line(number: int, header: list[str], row: list[str]) -> _Line:
    if len(row) > len(header):
        return _Line(number, complaint=f"has {len(row)} cells, the header has {len(header)}")
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
            return _Line(number, complaint=f"{name} does not hold JSON")
    return _Line(number, value)
