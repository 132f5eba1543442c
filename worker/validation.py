"""What is wrong with a producer's input, in words that name the place; nothing is sent unchecked.

Shared by `enqueue`, by the reading of files, and by the worker for rows that plain SQL wrote.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from worker.wire.inputs import MAX_TEXT, Input

MAX_DEPTH = 200
"""Of lists and objects in one another; deeper, and JSON libraries fail here and elsewhere."""
MAX_INT_BITS = 14_000  # some 4,200 digits: Python writes no more as text
MAX_URL = 2000  # characters; longer ones many servers refuse

KNOWN_FIELDS = frozenset(Input.model_fields)

_PLAIN_FIELDS = frozenset({"request", "response", "expected_output"})

_WORDS = {
    "string_type": "must be a text",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "string_too_short": "must not be empty",
    "missing": "is missing",
    "string_unicode": "contains half of a surrogate pair, which cannot be stored",
    "invalid_key": "is not a field name: it must be a text",
}


def offences_of(value: object) -> list[str]:
    """What is wrong with one input; empty if it can be sent."""
    if _is_plain(value):
        return []
    if not isinstance(value, Mapping):
        return [f"must be an object, not {_kind(value)}"]
    try:
        Input.model_validate(value if isinstance(value, dict) else dict(value))
    except ValidationError as error:
        return [_sentence(part) for part in error.errors(include_url=False, include_input=True)]
    except RecursionError:
        return ["is nested too deeply"]
    return [
        f"{place} {complaint}"
        for name, part in value.items()
        for place, complaint in _unstorable(part, name)
    ]


def _is_plain(value: object) -> bool:
    """Only texts that everything can hold, as most inputs are: these need no closer look."""
    if type(value) is not dict or not value.keys() <= _PLAIN_FIELDS:
        return False
    for text in value.values():
        if type(text) is not str or "\x00" in text or len(text) > MAX_TEXT:
            return False
        if not text.isascii() and _has_lone_surrogate(text):
            return False
    return True


def judge_offences(judge_id: object, name: str = "judge_id") -> list[str]:
    """What is wrong with the id of a judge or of its version."""
    if not isinstance(judge_id, str):
        return [f"{name} must be a text, not {_kind(judge_id)}"]
    if not judge_id.strip():
        return [f"{name} must not be empty"]
    return [f"{place} {complaint}" for place, complaint in _unstorable(judge_id, name)]


def tag_offences(tags: object) -> list[str]:
    """What is wrong with a list of tags."""
    if isinstance(tags, str) or not isinstance(tags, list | tuple | set | frozenset):
        return [f"tags must be a list of texts, not {_kind(tags)}"]
    offences = []
    for place, tag in enumerate(tags):
        if not isinstance(tag, str):
            offences.append(f"tags[{place}] must be a text, not {_kind(tag)}")
        elif not tag:
            offences.append(f"tags[{place}] must not be empty")
        else:
            offences += [f"{where} {what}" for where, what in _unstorable(tag, f"tags[{place}]")]
    return offences


def url_offences(url: object, name: str = "callback_url") -> list[str]:
    """What is wrong with a URL that is to be told something."""
    if not isinstance(url, str):
        return [f"{name} must be a text, not {_kind(url)}"]
    if len(url) > MAX_URL:
        return [f"{name} is too long: {len(url):,} characters, {MAX_URL:,} are allowed"]
    try:
        parts = urlsplit(url)
        readable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        readable = False
    if not readable or parts.scheme not in ("https", "http") or not _is_one_word(url):
        return [f"{name} must be a URL such as https://example.com/path"]
    if "@" in parts.netloc:
        return [f"{name} must not carry a user name or password"]
    return []


def _is_one_word(url: str) -> bool:
    """What one reader takes for a host and another for a path is not interpreted but refused."""
    return url.isascii() and url.isprintable() and not set(url) & set(" \\")


def _unstorable(value: object, place: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """What PostgreSQL, UTF-8 or JSON cannot hold."""
    if isinstance(value, str):
        if "\x00" in value:
            yield place, "contains a NUL character, which cannot be stored"
        elif not value.isascii() and _has_lone_surrogate(value):
            yield place, "contains half of a surrogate pair, which cannot be stored"
    elif isinstance(value, dict | list | tuple):
        if depth == MAX_DEPTH:
            yield f"{place[:80]}…", f"is nested too deeply: {MAX_DEPTH} levels are allowed"
        else:
            yield from _unstorable_parts(value, place, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield place, "is not a finite number, which JSON cannot carry"
    elif isinstance(value, int):
        if value.bit_length() > MAX_INT_BITS:
            yield place, "is a number of too many digits, which cannot be stored"
    elif value is not None:
        yield place, f"must be something that JSON can carry, not {_kind(value)}"


def _unstorable_parts(
    value: dict[Any, Any] | list[Any] | tuple[Any, ...], place: str, depth: int
) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict):
        for index, part in enumerate(value):
            yield from _unstorable(part, f"{place}[{index}]", depth)
        return
    for key, part in value.items():
        if not isinstance(key, str):
            yield place, f"must have texts as its names, not {_kind(key)}"
            continue
        yield from _unstorable(key, f"{place}.{key!a}")
        yield from _unstorable(part, f"{place}.{key}", depth)


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _sentence(error: Any) -> str:
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]
    ).lstrip(".")
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place, KNOWN_FIELDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{place} is not an input field of the judge API{hint}"
    if error["type"] == "string_too_long":
        most = error["ctx"]["max_length"]
        return f"{place} is too long: {len(error['input']):,} characters, {most:,} are allowed"
    words = _WORDS.get(error["type"], error["msg"])
    if error["type"].endswith("_type"):
        words += f", not {_kind(error['input'])}"
    return f"{place} {words}"


def _kind(value: object) -> str:
    kinds = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        type(None): "null",
        bytes: "bytes",
    }
    if isinstance(value, Mapping):
        return "an object"
    return kinds.get(type(value), type(value).__name__)
