"""Read JSON Lines: an object on each line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from worker.cli.input_files.json_object import decode, offence_of
from worker.cli.input_files.record import Record


class JsonLines:
    """An object on each line. A line that cannot be read does not affect the others."""

    description = "JSON Lines"
    unit = "line"
    columns = None
    columns_location = ""
    jq_records = ""
    cells = False
    notes: Sequence[str] = ()

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def records(self) -> Iterator[Record]:
        """Yield the records; raises `UnicodeDecodeError` at a line that is not UTF-8."""
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            text = line.decode().lstrip("\ufeff").strip()  # files with such marks get joined
            if not text:
                continue
            try:
                value = decode(text)
            except (ValueError, RecursionError) as error:
                yield Record(number, offence=offence_of(error))
            else:
                yield Record(number, value)
