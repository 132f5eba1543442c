"""Make one-line error messages in the API's own words, without the key."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from worker.remote.json_values import make_storable

MAX_REASON = 500  # characters
MAX_CLEANED = 8 * MAX_REASON  # characters that are cleaned; later ones would not be shown
MAX_PARTS = 12  # field errors in one line
MAX_DEPTH = 8

MESSAGE_FIELDS = ("detail", "title", "error", "message")  # the first one with a text is used
_PROBLEM_FIELDS = ("type", "status", "instance", "code")  # say nothing about this very problem


def one_line(text: str, secrets: Collection[str] = ()) -> str:
    """Return a storable line of bounded length, without secrets and control characters."""
    # Secrets are hidden before the text is cut, which could leave half of one, and again after it
    # is cleaned, which could join the halves of one.
    line = make_storable(hide(text, secrets)[:MAX_CLEANED])
    line = "".join(letter for letter in " ".join(line.split()) if letter.isprintable())
    line = hide(line, secrets)
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…"


def hide(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def error_message(body: object) -> str:
    """Return what an error's body says, or ''; `inputs[1].contexts: too few` for field errors."""
    parts = _messages(body) if isinstance(body, dict) else _field_errors(body, "")
    return "; ".join(islice(parts, MAX_PARTS))


def without_markup(text: str) -> str:
    """Remove the tags of a body that is not JSON, such as a proxy's HTML page."""
    return re.sub(r"<[^>]*>", " ", text)


def _messages(body: Mapping[str, Any]) -> Iterator[str]:
    yield from _main_message(body)
    known = MESSAGE_FIELDS + _PROBLEM_FIELDS
    others = {name: value for name, value in body.items() if name not in known}
    yield from _field_errors(others, "")


def _main_message(body: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    for name in MESSAGE_FIELDS:
        value = body.get(name)
        if isinstance(value, str) and value.strip():
            yield value
            return
        if not isinstance(value, dict | list):
            continue
        nested: list[str] = []
        if isinstance(value, dict) and depth < MAX_DEPTH:
            nested = [*_main_message(value, depth + 1)]
        nested = nested or [*islice(_field_errors(value, ""), MAX_PARTS)]
        if nested:
            yield from nested
            return


def _field_errors(value: object, path: str, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        if value.strip():
            yield f"{path}: {value}" if path else value
    elif depth > MAX_DEPTH:
        return
    elif isinstance(value, dict) and _has_location(value):
        location = _location_path(value["loc"])
        yield f"{location}: {value['msg']}" if location else value["msg"]
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _field_errors(part, f"{path}.{name}" if path else str(name), depth + 1)
    elif isinstance(value, list):
        is_text_list = all(isinstance(part, str) for part in value)
        for index, part in enumerate(value):
            part_path = path if is_text_list else f"{path}[{index}]"
            yield from _field_errors(part, part_path, depth + 1)


def _has_location(error: Mapping[str, Any]) -> bool:
    """Return whether this is a field error of FastAPI: it has its path as a list."""
    return isinstance(error.get("loc"), list) and isinstance(error.get("msg"), str)


def _location_path(parts: Sequence[object]) -> str:
    """Write `["body", "inputs", 1, "request"]` as `inputs[1].request`."""
    named = parts[1:] if parts[:1] == ["body"] else parts
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in named)
    return path.removeprefix(".")
