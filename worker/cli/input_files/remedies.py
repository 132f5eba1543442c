"""Say which option or form makes a value fit its field."""

from __future__ import annotations

import codecs
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from worker.cli.input_files.fields import TEXT_LISTS, is_conversation
from worker.cli.input_files.jq import jq_command, jq_path
from worker.cli.input_files.json_object import decoded
from worker.validation import HAS_NUL, NOT_FINITE, given_offences

_SEPARATORS = ("|||", "||", "|", "###", "\n", ";", "\t")
_OFFENCE = re.compile(
    r"(?P<field>\w+)(?P<index>\[0])? must be an? (?P<wanted>string|list|object), not (?P<found>.+)"
)
_CONTENT_PARTS = re.compile(r"turns\[\d+\]\.content must be a string, not a list")
_MEMBERS_WITH_TEXT = ("content", "text", "answer", "output", "value", "page_content", "response")
_WITHOUT_NUL = r'(.. | strings) |= gsub("\u0000"; "")'
_DEPTH = 6  # of objects and lists in a value


def list_remedy(field: str, text: str) -> str:
    """Say how the text of a cell has to be written for a field that holds a list or an object."""
    if field == "metadata":
        return 'write it as JSON, such as {"id": 7}, or leave it out: --ignore metadata'
    if field not in TEXT_LISTS:
        return 'write it as JSON, such as [{"role": "user", "content": "…"}]'
    if text.lstrip().startswith("["):
        return 'write ["first", "second"], as json.dumps() does; print() and str() do not'
    return f'write ["first", "second"], or add {_split_options(field, text)}'


def no_object_offence(value: Any, jq_records: str | None) -> str:
    """Return what is wrong with a record that is no object, with what helps."""
    (offence,) = given_offences(value)
    if jq_records is None:
        return offence
    if isinstance(value, str):
        return f"{offence}: name it: {jq_command(jq_records + '{request: .}')}"
    if isinstance(value, list) and value and isinstance(value[0], str):
        command = jq_command(jq_records + "{request: .[0], response: .[1]}")
        return f"{offence}: name its parts: {command}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{offence}: take its elements: {jq_command(jq_records + '.[]')}"
    return offence


def with_remedy(offence: str, value: Any, column: str, jq_records: str | None) -> str:
    """Add to an offence what helps.

    Args:
        offence: What is wrong with a field.
        value: What the field holds.
        column: Where it is from.
        jq_records: `Table.jq_records` of its file.
    """
    if offence.startswith("metadata must be an object"):
        return f"{offence}: to leave it out, add --ignore metadata"
    if offence.endswith(HAS_NUL) and jq_records is not None:
        return f"{offence}: remove it: {jq_command(jq_records + _WITHOUT_NUL)}"
    if offence.endswith(NOT_FINITE):
        return f"{offence}: {_null_remedy(jq_records)}"
    if _CONTENT_PARTS.fullmatch(offence) and jq_records is not None:
        return f"{offence}: join the texts: {jq_command(jq_records + _joined_texts(column))}"
    match = _OFFENCE.fullmatch(offence)
    if match is None:
        return offence
    field, found = match["field"], match["found"]
    if found == "bytes":
        return f"{offence} that are not UTF-8"
    if match["index"]:
        return offence + _elements_remedy(field, value, column, jq_records)
    if match["wanted"] == "list":
        is_text = isinstance(value, str)
        return offence + _text_remedy(field, value, jq_records) if is_text else offence
    if isinstance(value, float) and not math.isfinite(value):
        return f"{offence}: {_null_remedy(jq_records)}"
    if found in ("a number", "a boolean"):
        return f"{offence}: to take it as text, add {map_option(field, column)}"
    return offence + _part_remedy(field, value, column)


def _part_remedy(field: str, value: Any, column: str) -> str:
    """Say which part of an object or a list is the text that is meant."""
    messages = _path_to_conversation(value, column)
    if messages and field == "request":
        return f": to take its messages, add {map_option('turns', messages)}"
    if messages:
        return f": to take the last message, add {map_option(field, f'{messages}.-1.content')}"
    if path := _path_to_text(value):
        return f": to take a part of it, add {map_option(field, f'{column}.{path}')}"
    return ""


def _path_to_conversation(value: Any, path: str, depth: int = _DEPTH) -> str | None:
    if is_conversation(value):
        return path
    if isinstance(value, dict) and depth:
        parts = (
            _path_to_conversation(part, f"{path}.{name}", depth - 1) for name, part in value.items()
        )
        return next(filter(None, parts), None)
    return None


def _joined_texts(column: str) -> str:
    """Return the program of jq that makes a text of the parts of each message."""
    return (
        f"{jq_path(column)}[].content |="
        ' if type == "array" then map(.text // empty) | join("\\n") else . end'
    )


def json_text_notes(value: dict[str, Any], taken: Mapping[str, str]) -> Iterator[str]:
    """Say which texts of the first input are messages, or objects, that are written as JSON."""
    for field in ("request", "response"):
        text, column = value.get(field), taken.get(field)
        if column is None or not isinstance(text, str):
            continue
        part = decoded(text)
        is_object = isinstance(part, dict) and (field == "request" or "role" in part)
        if is_object or is_conversation(part):
            remedy = _part_remedy(field, part, column)
            yield f"the first {field}, from {column}, is JSON and taken as text{remedy}"


def _null_remedy(jq_records: str | None) -> str:
    if jq_records is None:
        return "write null instead"
    return "write null: sed -E 's/: *(NaN|-?Infinity)/: null/g' FILE | evalworker enqueue - …"


def _text_remedy(field: str, text: str, jq_records: str | None) -> str:
    """Say how a text becomes a list in a JSON file."""
    try:
        is_list = isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        is_list = False
    if is_list and jq_records is not None:
        return f": it is JSON in a text: {jq_command(f'{jq_records}.{field} |= fromjson')}"
    if field in TEXT_LISTS:
        return f": {list_remedy(field, text)}"
    return ""


def _split_options(field: str, text: str) -> str:
    """Name the option that keeps a text whole, as prose has line ends and semicolons, too."""
    whole = rf"--split {field}='\0' to take a text as one"
    separator = next((one for one in _SEPARATORS if one in text), None)
    if separator is None:
        return whole
    shown = codecs.encode(separator, "unicode_escape").decode()
    return f"{whole}, or --split {field}={shlex.quote(shown)} to divide it"


def map_option(field: str, column: str) -> str:
    """Return the option that fills a field from a column, for a shell."""
    return f"--map {shlex.quote(f'{field}={column}')}"


def _elements_remedy(field: str, value: Any, column: str, jq_records: str | None) -> str:
    if field == "turns" and isinstance(value[0], str):
        return f": to take the first one, add {map_option('request', f'{column}.0')}"
    if jq_records is not None and (path := _path_to_text(value[0])):
        program = f"{jq_records}{jq_path(column)} |= map({jq_path(path)})"
        return f": take their texts: {jq_command(program)}"
    return ""


def _path_to_text(value: Any) -> str | None:
    """Return the path of the string in a value that is probably meant."""
    paths = list(_text_paths(value, _DEPTH))
    for path in paths:
        if path.rpartition(".")[2] in _MEMBERS_WITH_TEXT:
            return path
    return paths[0] if paths else None


def _text_paths(value: Any, depth: int) -> Iterator[str]:
    if not depth:
        return
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = {str(index): part for index, part in enumerate(value[:1])}.items()
    else:
        return
    for name, part in members:
        if isinstance(part, str):
            yield name
        for path in _text_paths(part, depth - 1):
            yield f"{name}.{path}"
