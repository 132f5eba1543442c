"""Say which option or form makes a value fit its field."""

from __future__ import annotations

import codecs
import json
import math
import re
import shlex
from collections.abc import Iterator
from typing import Any

from worker.cli.input_files.fields import TEXT_LISTS
from worker.cli.input_files.jq import jq_command, jq_path
from worker.validation import NOT_FINITE, given_offences

_SEPARATORS = ("|||", "||", "|", "###", "\n", ";", "\t")
_OFFENCE = re.compile(
    r"(?P<field>\w+)(?P<index>\[0])? must be an? (?P<wanted>string|list|object), not (?P<found>.+)"
)
_MEMBERS_WITH_TEXT = ("content", "text", "answer", "output", "value", "page_content", "response")
_DEPTH = 6  # of objects and lists in a value


def list_remedy(field: str, text: str) -> str:
    """Say how the text of a cell has to be written for a field that holds a list or an object."""
    if field == "metadata":
        return 'write it as JSON, such as {"id": 7}, or leave it out: --ignore metadata'
    if field not in TEXT_LISTS:
        return 'write it as JSON, such as [{"role": "user", "content": "…"}]'
    if text.lstrip().startswith("["):
        return 'write ["first", "second"], as json.dumps() does; print() and str() do not'
    return f'write ["first", "second"], or add {_split_option(field, text)}'


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
    if offence.endswith(NOT_FINITE):
        return f"{offence}: {_null_remedy(jq_records)}"
    match = _OFFENCE.fullmatch(offence)
    if match is None:
        return offence
    field, found = match["field"], match["found"]
    if match["index"]:
        return offence + _elements_remedy(field, value, column, jq_records)
    if match["wanted"] == "list":
        is_text = isinstance(value, str)
        return offence + _text_remedy(field, value, jq_records) if is_text else offence
    if isinstance(value, float) and not math.isfinite(value):
        return f"{offence}: {_null_remedy(jq_records)}"
    if found in ("a number", "a boolean"):
        return f"{offence}: to take it as text, add {map_option(field, column)}"
    if path := _path_to_text(value):
        return f"{offence}: to take a part of it, add {map_option(field, f'{column}.{path}')}"
    return offence


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


def _split_option(field: str, text: str) -> str:
    separator = next((one for one in _SEPARATORS if one in text), "|")
    shown = codecs.encode(separator, "unicode_escape").decode()
    return f"--split {field}={shlex.quote(shown)}"


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
