"""Find out where a JSON file has its records: on lines, in an array, or in a member's array."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import BinaryIO

from worker.cli.input_files.complaints import refusal
from worker.cli.input_files.json_lines import JsonLines
from worker.cli.input_files.json_stream import JsonStream
from worker.cli.input_files.json_values import JsonArray, JsonValues, elements, keys
from worker.cli.input_files.record import Table
from worker.wire.inputs import CONTENT_FIELDS

_OF_ONE_RECORD = {"messages", "turns", "conversation", "conversations", "contexts", "documents"}
_OF_ONE_RECORD |= {"functions", "tools", "chat", "dialog", "dialogue", "choices", "tool_calls"}
"""Members that hold an array of objects in one record."""

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
        return False  # reading the array names the place


@dataclass(frozen=True, slots=True)
class _Members:
    """What the members of an object hold."""

    objects: list[str]  # those that are arrays of objects
    others: dict[str, str]  # the kind of the value of each other one


def json_table(file: BinaryIO, name: str) -> Table:
    """Return the records of a JSON file; raises `InvalidInputs` if it has none of a known form."""
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
        return JsonArray(file, member)
    return JsonLines(file) if first_line == last_line else JsonValues(file)


def _members(stream: JsonStream) -> _Members:
    """Read the object that begins here."""
    objects: list[str] = []
    others: dict[str, str] = {}
    for key in keys(stream):
        if stream.peek() != "[":
            value = stream.value()
            others[key] = "object" if isinstance(value, dict) else "value"
            continue
        kinds = {isinstance(element, dict) for _, element in elements(stream)}
        if True in kinds:
            objects.append(key)
        else:
            others[key] = "array"
    return _Members(objects, others)


def _member_with_records(members: _Members, name: str) -> str | None:
    """Return the member of a file's only object that has the records; None if it is a record."""
    if not members.others.keys().isdisjoint(CONTENT_FIELDS):
        return None
    candidates = [key for key in members.objects if key.lower() not in _OF_ONE_RECORD]
    known = [key for key in candidates if key.lower() in _OF_RECORDS]
    if len(known) == 1 or len(candidates) == 1:
        return (known or candidates)[0]
    if candidates:
        raise refusal(
            name,
            f"its object has several arrays of objects: {', '.join(candidates)}\n"
            f"take one of them: jq -c '.{candidates[0]}[]' FILE | evalworker enqueue - …",
        )
    kinds = set(members.others.values())
    if not members.objects and len(members.others) > 1 and kinds in ({"object"}, {"array"}):
        raise refusal(name, _by_column_or_key(members))
    return None


def _by_column_or_key(members: _Members) -> str:
    first = ", ".join(list(members.others)[:5])
    return (
        f"is one object with the keys {first}, not a list of inputs\n"
        "if these are columns, write it again: DataFrame.to_json(…, orient='records', lines=True)\n"
        "if each is an input: jq -c '.[]' FILE | evalworker enqueue - …"
    )
