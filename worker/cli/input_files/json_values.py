"""Read JSON that is not one object a line: arrays, and objects that follow one another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from worker.cli.input_files.jq import jq_command, jq_path
from worker.cli.input_files.json_object import offence_of
from worker.cli.input_files.json_stream import JsonStream
from worker.cli.input_files.record import Record

_COMMA = (
    "is not JSON: a comma follows the object\n"
    "without the commas at the ends of lines: sed 's/,$//' FILE | evalworker enqueue - …"
)


class JsonValues:
    """Objects one after the other, each on any number of lines."""

    description = "JSON objects"
    unit = "line"
    columns = None
    columns_location = ""
    jq_records = ""
    cells = False
    notes: Sequence[str] = ()

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def records(self) -> Iterator[Record]:
        """Yield the records; after one that cannot be read, there are no others."""
        stream = JsonStream(self._file)
        try:
            while stream.peek():
                line = stream.line
                yield Record(line, stream.value())
                if stream.peek() == ",":
                    yield Record(stream.line, offence=_COMMA)
                    return
        except json.JSONDecodeError as error:
            offence = offence_of(error, stream.column_of(error))
            yield Record(stream.line_of(error), offence=offence)
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            yield Record(stream.line, offence=offence_of(error))


class JsonArray:
    """The elements of an array, which is the whole file or a member of its object."""

    unit = "item"
    columns = None
    columns_location = ""
    cells = False

    def __init__(
        self, file: BinaryIO, member: str | None = None, notes: Sequence[str] = ()
    ) -> None:
        self.notes = notes
        self._file = file
        self._member = member
        self.description = "a JSON array" if member is None else f"the JSON array {member!r}"
        self.jq_records = f"{jq_path(member)}[] | "

    def records(self) -> Iterator[Record]:
        """Yield the records; after one that cannot be read, there are no others."""
        stream = JsonStream(self._file)
        number = 0
        try:
            if self._member is not None:
                _find(stream, self._member)
            for number, value in enumerate(elements(stream), 1):
                yield Record(number, value[1], line=value[0])
            if self._member is None and stream.peek():
                reason = "is not part of the array, which has ended"
                if stream.peek() == "[":
                    reason = f"{reason}: take what is in each of them: {jq_command('.[]')}"
                yield Record(number + 1, offence=reason, line=stream.line)
        except json.JSONDecodeError as error:
            offence = offence_of(error, stream.column_of(error))
            yield Record(number + 1, offence=offence, line=stream.line_of(error))
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            yield Record(number + 1, offence=offence_of(error), line=stream.line)


def elements(stream: JsonStream) -> Iterator[tuple[int, Any]]:
    """Yield the elements of the array that begins here, each with its line."""
    stream.skip("[")
    if stream.peek() == "]":
        stream.skip("]")
        return
    while True:
        stream.peek()
        line = stream.line
        yield line, stream.value()
        if stream.skip(",", "]") == "]":
            return


def keys(stream: JsonStream) -> Iterator[str]:
    """Yield the keys of the object that begins here; the caller reads the value of each."""
    stream.skip("{")
    if stream.peek() == "}":
        stream.skip("}")
        return
    while True:
        if stream.peek() != '"':
            stream.skip('"')  # raises
        key: str = stream.value()
        stream.skip(":")
        yield key
        if stream.skip(",", "}") == "}":
            return


def _find(stream: JsonStream, member: str) -> None:
    """Go to the value of a member of the object that begins here."""
    for key in keys(stream):
        if key == member:
            stream.peek()
            return
        skip_value(stream)


def skip_value(stream: JsonStream) -> None:
    """Skip a value, an array element by element."""
    if stream.peek() == "[":
        for _ in elements(stream):
            pass
    else:
        stream.value()
