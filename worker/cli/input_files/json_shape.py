"""Find out where a JSON file has its records: on lines, in an array, or in a member's array."""

from __future__ import annotations

import json
import shlex
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from worker.cli.input_files.columns import flat, listed
from worker.cli.input_files.complaints import refusal
from worker.cli.input_files.fields import FIELDS, TEXTS, alias_field, meant_field, near_field
from worker.cli.input_files.jq import jq_command, jq_path
from worker.cli.input_files.json_lines import JsonLines
from worker.cli.input_files.json_stream import JsonStream
from worker.cli.input_files.json_values import JsonArray, JsonValues, elements, keys
from worker.cli.input_files.record import Table
from worker.wire.inputs import CONTENT_FIELDS

_OF_ONE_RECORD = {"messages", "turns", "conversation", "conversations", "contexts", "documents"}
_OF_ONE_RECORD |= {"functions", "tools", "chat", "dialog", "dialogue", "choices", "tool_calls"}
"""Members that hold an array of objects in one record."""

_DEPTH = 3  # of objects that are searched for arrays
_LONGEST_SHOWN = 200  # characters of a text that a suggested option has

_OF_RECORDS = {"data", "examples", "rows", "records", "items", "instances", "inputs", "questions"}
_OF_RECORDS |= {"samples", "dataset", "test", "tests", "test_cases", "entries", "results"}
"""Members that hold the records of a file, where it has several arrays of objects."""


def _is_line_with_list(stream: JsonStream) -> bool:
    """Return whether the array that begins here is one line of several, not the whole file."""
    first_line = stream.line
    try:
        for _, element in elements(stream):
            if isinstance(element, dict):
                return False
        last_line = stream.line
        return bool(stream.peek()) and first_line == last_line
    except (ValueError, RecursionError):
        return False  # reading the array names the location


@dataclass(frozen=True, slots=True)
class _Members:
    """What the members of an object hold."""

    objects: dict[str, dict[str, Any]]  # the first object of each array of objects
    others: dict[str, str]  # the kind of the value of each other one
    nested: list[str]  # paths of arrays of objects within others
    texts: dict[str, str]  # of fields of inputs

    def beside(self, member: str) -> list[str]:
        return [key for key in (*self.objects, *self.others) if key != member]


def json_table(file: BinaryIO, name: str, given: Container[str] = ()) -> Table:
    """Return the records of a JSON file; raises `InvalidInputs` if it has none of a known form.

    `given` are the fields that have the same value in all inputs.
    """
    stream = JsonStream(file)
    if stream.peek() == "[":
        return JsonLines(file) if _is_line_with_list(stream) else JsonArray(file)
    first_line = stream.line
    try:
        members = _members(stream)
        last_line, follows = stream.line, stream.peek()
    except UnicodeDecodeError:
        raise
    except json.JSONDecodeError as error:
        in_first_line = stream.line_of(error) == first_line
        return JsonLines(file) if in_first_line else JsonValues(file)
    except (ValueError, RecursionError):
        return JsonLines(file)
    if follows:
        is_line = first_line == last_line < stream.line and not stream.has_mac_line_ends
        return JsonLines(file) if is_line else JsonValues(file)
    if member := _member_with_records(members, name):
        return JsonArray(file, member, _notes(members, member, given))
    return JsonLines(file) if first_line == last_line else JsonValues(file)


def _members(stream: JsonStream) -> _Members:
    """Read the object that begins here."""
    objects: dict[str, dict[str, Any]] = {}
    others: dict[str, str] = {}
    nested: list[str] = []
    texts: dict[str, str] = {}
    for key in keys(stream):
        if stream.peek() != "[":
            value = stream.value()
            others[key] = _kind_of_member(value)
            nested += _paths_of_arrays(value, key, _DEPTH)
            if key in TEXTS and isinstance(value, str):
                texts[key] = value
            continue
        first: dict[str, Any] = {}
        kinds = set()
        for _, element in elements(stream):
            kinds.add(kind := _kind(element))
            first = first or (element if kind == "object" else {})
        if "object" in kinds:
            objects[key] = first
        else:
            others[key] = "value" if "message" in kinds else "array"
    return _Members(objects, others, nested, texts)


def _kind_of_member(value: Any) -> str:
    if not isinstance(value, dict):
        return "value"
    is_column = bool(value) and all(key.isdecimal() for key in value)  # by the rows' numbers
    return "array" if is_column else "object"


def _kind(element: Any) -> str:
    """Return what an element of an array is; a message is a part of one record."""
    if not isinstance(element, dict):
        return "other"
    is_message = "role" in element or {"from", "value"} <= element.keys()
    return "message" if is_message else "object"


def _paths_of_arrays(value: Any, path: str, depth: int) -> Iterator[str]:
    """Yield the paths of arrays of objects in a value."""
    if isinstance(value, list) and value and _kind(value[0]) == "object":
        yield path
    elif isinstance(value, dict) and depth:
        for key, part in value.items():
            if key.lower() not in _OF_ONE_RECORD:
                yield from _paths_of_arrays(part, f"{path}.{key}", depth - 1)


def _member_with_records(members: _Members, name: str) -> str | None:
    """Return the member of a file's only object that has the records; None if it is a record."""
    kinds = set(members.others.values())
    is_alike = not members.objects and len(members.others) > 1
    if is_alike and kinds == {"array"} and members.others.keys() & {"request", "response"}:
        raise refusal(name, _by_column_or_key(members))
    if not members.others.keys().isdisjoint(CONTENT_FIELDS):
        return None
    candidates = [key for key in members.objects if key.lower() not in _OF_ONE_RECORD]
    known = [key for key in candidates if key.lower() in _OF_RECORDS]
    if len(known) == 1 and not _have_rival(members.objects, candidates, known[0]):
        return known[0]
    if any(kind == "value" and _has_content(key) for key, kind in members.others.items()):
        return None
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        programs = [f"{jq_path(candidate)}[]" for candidate in candidates]
        raise refusal(
            name,
            f"its object has several arrays of objects: {', '.join(candidates)}\n"
            f"take one of them: {jq_command(programs[0])}\n"
            f"or all: {jq_command(', '.join(programs))}",
        )
    if not members.objects and members.nested:
        path = members.nested[0]
        raise refusal(
            name,
            f"is one object; its inputs may be in {path}\n"
            f"take them: {jq_command(f'{jq_path(path)}[]')}",
        )
    is_record = kinds == {"object"} and len({*map(meant_field, members.others)} - {None}) > 1
    if is_alike and kinds in ({"object"}, {"array"}) and not is_record:
        raise refusal(name, _by_column_or_key(members))
    return None


def _have_rival(objects: dict[str, dict[str, Any]], candidates: list[str], known: str) -> bool:
    """Return whether another array may have inputs, too, as `train` has beside `test`."""
    return any(
        objects[key].keys() == objects[known].keys() or _may_be_input(objects[key])
        for key in candidates
        if key != known
    )


def _may_be_input(record: dict[str, Any]) -> bool:
    return any(meant_field(column) in CONTENT_FIELDS for column in flat(record))


def _notes(members: _Members, member: str, given: Container[str]) -> list[str]:
    """Say what is not taken from an object, since it is beside the array of its records."""
    beside = [key for key in members.beside(member) if key not in given]
    if not beside:
        return []
    note = f"left out what is beside its array {member!r}: {listed(beside)}"
    if fields := [key for key in beside if key in FIELDS]:
        options = " ".join(_set_option(key, members.texts.get(key)) for key in fields)
        note = f"{note}; to give it to all inputs: {options}"
    return [note]


def _set_option(field: str, text: str | None) -> str:
    is_short = text is not None and 0 < len(text) <= _LONGEST_SHOWN and text.isprintable()
    return f"--set {field}={shlex.quote(text) if text and is_short else 'VALUE'}"


def _has_content(key: str) -> bool:
    """Return whether a member is probably what is to be evaluated."""
    return (near_field(key) or alias_field(key)) in CONTENT_FIELDS


def _by_column_or_key(members: _Members) -> str:
    first = ", ".join(list(members.others)[:5])
    return (
        f"is one object with the keys {first}, not a list of inputs\n"
        "if these are columns, write it again: DataFrame.to_json(…, orient='records', lines=True)\n"
        f"if each is an input: {jq_command('.[]')}"
    )
