"""Say which option or form makes a value fit its field."""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Iterator
from typing import Any

from worker.cli.input_files.fields import TEXT_LISTS

_SEPARATORS = ("|||", "||", "|", "###", "\n", ";", "\t")
_OFFENCE = re.compile(
    r"(?P<field>\w+)(?P<index>\[0])? must be a (?P<wanted>string|list), not (?P<found>.+)"
)
_MEMBERS_WITH_TEXT = ("content", "text", "answer", "output", "value", "page_content", "response")
_DEPTH = 6  # of objects and lists in a value


def list_remedy(field: str, text: str) -> str:
    """Say how the text of a cell has to be written for a field that holds a list or an object."""
    if field not in TEXT_LISTS:
        example = '{"id": 7}' if field == "metadata" else '[{"role": "user", "content": "…"}]'
        return f"write it as JSON, such as {example}"
    if text.lstrip().startswith("["):
        return 'write ["first", "second"], as json.dumps() does; print() and str() do not'
    return f'write ["first", "second"], or add {_split_option(field, text)}'


def with_remedy(offence: str, value: Any, column: str) -> str:
    """Add to an offence what helps; `value` is what the field holds, from this column."""
    match = _OFFENCE.fullmatch(offence)
    if match is None:
        return offence
    field, found = match["field"], match["found"]
    if match["index"]:
        return offence + _elements_remedy(field, value)
    if match["wanted"] == "list":
        is_text = field in TEXT_LISTS and isinstance(value, str)
        return f"{offence}: add {_split_option(field, value)}" if is_text else offence
    if found in ("a number", "a boolean"):
        return f"{offence}: to take it as text, add --map {_pair(field, column)}"
    if path := _path_to_text(value):
        return f"{offence}: to take a part of it, add --map {_pair(field, f'{column}.{path}')}"
    return offence


def _split_option(field: str, text: str) -> str:
    separator = next((one for one in _SEPARATORS if one in text), "|")
    shown = codecs.encode(separator, "unicode_escape").decode()
    return f"--split {field}={shlex.quote(shown)}"


def _pair(field: str, column: str) -> str:
    return shlex.quote(f"{field}={column}")


def _elements_remedy(field: str, value: Any) -> str:
    if isinstance(value, list) and isinstance(value[0], dict) and (path := _path_to_text(value[0])):
        return f": take their texts: jq -c '.{field} |= map(.{path})' FILE | evalworker enqueue - …"
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
