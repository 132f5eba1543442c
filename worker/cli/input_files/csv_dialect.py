"""Tell the delimiter of a CSV file from its first lines."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

from worker.cli.input_files.fields import alias_field, near_field

_CANDIDATES = (",", ";", "\t", "|")
_SEP_LINE = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)
_NAMES = {"\t": "tab", " ": "space"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the cells of a CSV file are separated."""

    delimiter: str
    has_sep_line: bool  # Excel's `sep=;` comes before the header
    skips_spaces: bool  # spaces after a delimiter are no part of the cell

    @property
    def description(self) -> str:
        return f"CSV separated by {delimiter_name(self.delimiter)}"


def delimiter_name(delimiter: str) -> str:
    return _NAMES.get(delimiter, f"'{delimiter}'")


def dialect_of(lines: list[str], *, delimiter: str | None, default: str) -> Dialect:
    """Return the dialect of a file that begins with these lines.

    Args:
        lines: The first lines, with their ends.
        delimiter: What the user says that it is.
        default: Used if the header has no delimiter.
    """
    sep_line = _SEP_LINE.fullmatch(lines[0]) if lines else None
    rest = lines[1:] if sep_line else lines
    header = next((line for line in rest if line.strip()), "")
    found = delimiter or (sep_line[1] if sep_line else _delimiter_of(header, rest, default))
    return Dialect(found, sep_line is not None, _has_padding(header, rest, found))


def _delimiter_of(header: str, lines: list[str], default: str) -> str:
    """Decide by the header, whose names are short; if it has several, by the rows, too."""
    widths = {candidate: _width(header, candidate) for candidate in _CANDIDATES}
    found = [candidate for candidate in _CANDIDATES if widths[candidate] > 1]
    if not found:
        return default
    if default in found and default != ",":
        return default  # what the name of the file says
    if len(found) == 1:
        return found[0]
    try:
        return csv.Sniffer().sniff("".join(lines), "".join(found)).delimiter
    except csv.Error:
        return max(found, key=lambda candidate: widths[candidate])


def likely_delimiter(header: str) -> str | None:
    """Return the character that divides a header into names, of which at least one is known."""
    marks = sorted({mark for mark in header if not mark.isalnum() and mark not in "_-. \"'"})
    for mark in marks:
        names = header.split(mark)
        if len(names) > 1 and any(near_field(name) or alias_field(name) for name in names):
            return mark
    return None


def _width(header: str, delimiter: str) -> int:
    return len(next(csv.reader([header], delimiter=delimiter), []))


def _has_padding(header: str, lines: list[str], delimiter: str) -> bool:
    """Return whether a space follows each delimiter of the header, or stands before quotes."""
    mark = re.escape(delimiter)
    if delimiter.isspace():
        return False
    if re.search(f"{mark} ", header) and not re.search(f"{mark}[^ ]", header):
        return True
    quoted = re.compile(f'(?:^|{mark}) +"[^"]*"[\r\n]*(?:$|{mark})')
    return any(quoted.search(line) for line in lines)
