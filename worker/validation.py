"""Validate what producers hand over: each offence is a sentence that begins with its path.

`enqueue`, the command line's files and the worker share it; the worker validates again because
plain SQL writes jobs, too.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from worker.wire.inputs import CONTENT_FIELDS, MAX_TEXT, Input

MAX_DEPTH = 200  # levels of nested lists and objects; JSON libraries fail beyond some limit
MAX_INT_BITS = 14_000  # about 4,200 digits; Python refuses to print more than 4,300
MAX_KEY = 255  # characters, of what indexes and primary keys hold: ids and idempotency keys
GATEWAY_KEYS = "gateway/"  # the idempotency keys that begin so are the gateway's own
MAX_NAMES = 12  # names of fields that a complaint lists, of up to `MAX_NAME` characters each
MAX_NAME = 40
MAX_URL = 2000  # characters; many servers refuse longer URLs

KNOWN_FIELDS = frozenset(Input.model_fields)

_PLAIN_FIELDS = frozenset({"request", "response", "expected_output"})

HAS_NUL = "contains a NUL character, which cannot be stored"
UNPAIRED_SURROGATE = "contains an unpaired surrogate, which cannot be stored"
NOT_FINITE = "is not a finite number, which JSON does not allow"
_REASONS = {
    "string_type": "must be a string",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "string_too_short": "must not be empty",
    "missing": "is missing",
    "string_unicode": UNPAIRED_SURROGATE,
    "invalid_key": "is not a field name: it must be a string",
}


def offences_of(value: object) -> list[str]:
    """Return what is wrong with an input; an empty list means that it can be sent."""
    if _is_plain(value):
        return []
    if not isinstance(value, Mapping):
        return [f"must be an object, not {_kind(value)}"]
    missing = missing_content(value)
    offences = [missing] if missing else []
    try:
        Input.model_validate(value if isinstance(value, dict) else dict(value))
    except ValidationError as error:
        return offences + [
            _sentence(part)
            for part in error.errors(include_url=False, include_input=True)
            # A name that is not a field's is already among those that `missing` lists.
            if not (missing and part["type"] in ("extra_forbidden", "invalid_key"))
        ]
    except RecursionError:
        return [*offences, "is nested too deeply"]
    for name, part in value.items():
        offences += _unstorable(part, name)
    return offences


def missing_content(value: Mapping[Any, Any]) -> str | None:
    """Return what an input lacks that has nothing to evaluate; it would be billed all the same."""
    if any(_has_content(value.get(name)) for name in CONTENT_FIELDS):
        return None
    names = [_described(name, part) for name, part in itertools.islice(value.items(), MAX_NAMES)]
    if len(value) > MAX_NAMES:
        names.append("…")
    return f"needs `request`, `response` or `turns`; found: {', '.join(names) or 'nothing'}"


def _has_content(part: object) -> bool:
    return not part.isspace() and bool(part) if isinstance(part, str) else bool(part)


def _described(name: object, part: object) -> str:
    """Return a name that was found where content is missing, and why it is not enough."""
    text = str(name)[:MAX_NAME].encode(errors="backslashreplace").decode()
    if name in CONTENT_FIELDS:
        return f"{text} (null)" if part is None else f"{text} (empty)"
    if name in KNOWN_FIELDS:
        return text
    near = difflib.get_close_matches(text, KNOWN_FIELDS, n=1, cutoff=0.81)
    return f"{text} (did you mean '{near[0]}'?)" if near else text


def given_offences(value: object) -> list[str]:
    """Return what is wrong with an input as producers give it: it may carry `metadata`."""
    if _is_plain(value) or not isinstance(value, Mapping) or "metadata" not in value:
        return offences_of(value)
    fields = {name: part for name, part in value.items() if name != "metadata"}
    return [*offences_of(fields), *metadata_offences(value["metadata"])]


def metadata_offences(metadata: object) -> list[str]:
    """Return what is wrong with the metadata of a job or of an input; None is none."""
    if metadata is None or isinstance(metadata, dict):
        return list(_unstorable(metadata, "metadata"))
    kind = type(metadata).__name__ if isinstance(metadata, Mapping) else _kind(metadata)
    return [f"metadata must be an object (a dict), not {kind}"]


def _is_plain(value: object) -> bool:
    """Return whether an input has only storable strings, as most do; it then needs no model."""
    if type(value) is not dict or not value.keys() <= _PLAIN_FIELDS:
        return False
    for text in value.values():
        if type(text) is not str or "\x00" in text or len(text) > MAX_TEXT:
            return False
        if not text.isascii() and _has_unpaired_surrogate(text):
            return False
    request, response = value.get("request"), value.get("response")
    return bool((request and not request.isspace()) or (response and not response.isspace()))


def judge_offences(judge_id: object, name: str = "judge_id") -> list[str]:
    """Return what is wrong with the id of a judge, of its version, or with a key."""
    if not isinstance(judge_id, str):
        return [f"{name} must be a string, not {_kind(judge_id)}"]
    if not judge_id.strip():
        return [f"{name} must not be empty"]
    if len(judge_id) > MAX_KEY:
        return [f"{name} is too long: {len(judge_id):,} characters, {MAX_KEY} are allowed"]
    return list(_unstorable(judge_id, name))


def key_offences(key: object) -> list[str]:
    """Return what is wrong with the idempotency key of a producer."""
    if isinstance(key, str) and key.startswith(GATEWAY_KEYS):
        return [f"idempotency_key must not begin with {GATEWAY_KEYS!r}, which is the gateway's"]
    return judge_offences(key, "idempotency_key")


def iterable_offences(inputs: object) -> list[str]:
    """Return what is wrong with what should be an iterable of inputs, before it is read."""
    if isinstance(inputs, Mapping):
        return ["inputs must be a list of objects, not one object: pass [inputs]"]
    if hasattr(inputs, "iterrows") or hasattr(inputs, "iter_rows"):  # it would yield its columns
        return ["inputs must be a list of objects, not a table: pass its rows as dicts"]
    if hasattr(inputs, "__aiter__"):
        return ["inputs must be a list of objects, not an async iterable: collect them first"]
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable):
        return [f"inputs must be a list of objects, not {_kind(inputs)}"]
    return []


def tag_offences(tags: object) -> list[str]:
    """Return what is wrong with the tags of a job."""
    if isinstance(tags, str) or not isinstance(tags, list | tuple | set | frozenset):
        return [f"tags must be a list of strings, not {_kind(tags)}"]
    offences = []
    for index, tag in enumerate(tags):
        path = f"tags[{index}]"
        if not isinstance(tag, str):
            offences.append(f"{path} must be a string, not {_kind(tag)}")
        elif not tag:
            offences.append(f"{path} must not be empty")
        else:
            offences += _unstorable(tag, path)
    return offences


def url_offences(url: object, name: str = "callback_url") -> list[str]:
    """Return what is wrong with the URL of a webhook."""
    if not isinstance(url, str):
        return [f"{name} must be a string, not {_kind(url)}"]
    if len(url) > MAX_URL:
        return [f"{name} is too long: {len(url):,} characters, {MAX_URL:,} are allowed"]
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or parts.scheme not in ("https", "http") or not _is_unambiguous(url):
        return [f"{name} must be a URL such as https://example.com/path"]
    if "@" in parts.netloc:
        return [f"{name} must not contain a user name or password"]
    return []


def _is_unambiguous(url: str) -> bool:
    """Return whether all parsers read a URL alike; at spaces and backslashes they differ."""
    return url.isascii() and url.isprintable() and not set(url) & set(" \\")


def _unstorable(value: object, path: str, depth: int = 0) -> Iterator[str]:
    """Yield an offence for each part that PostgreSQL, UTF-8 or JSON cannot represent."""
    if isinstance(value, str):
        if "\x00" in value:
            yield f"{path} {HAS_NUL}"
        elif not value.isascii() and _has_unpaired_surrogate(value):
            yield f"{path} {UNPAIRED_SURROGATE}"
    elif isinstance(value, dict | list | tuple):
        if depth == MAX_DEPTH:
            yield f"{path[:80]}… is nested too deeply: {MAX_DEPTH} levels are allowed"
        else:
            yield from _unstorable_parts(value, path, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{path} {NOT_FINITE}"
    elif isinstance(value, int):
        if value.bit_length() > MAX_INT_BITS:
            yield f"{path} has too many digits to be stored"
    elif value is not None:
        yield f"{path} must be a JSON value, not {type(value).__name__}"


def _unstorable_parts(
    value: dict[Any, Any] | list[Any] | tuple[Any, ...], path: str, depth: int
) -> Iterator[str]:
    if not isinstance(value, dict):
        for index, part in enumerate(value):
            yield from _unstorable(part, f"{path}[{index}]", depth)
        return
    for key, part in value.items():
        if not isinstance(key, str):
            yield f"{path} must have strings as keys, not {_kind(key)}"
            continue
        yield from _unstorable(key, f"{path}.{key!a}")
        yield from _unstorable(part, f"{path}.{key}", depth)


def _has_unpaired_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _sentence(error: Any) -> str:
    path = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]
    ).lstrip(".")
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path, KNOWN_FIELDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{path} is not an input field of the judge API{hint}"
    if error["type"] == "string_too_long":
        limit = error["ctx"]["max_length"]
        return f"{path} is too long: {len(error['input']):,} characters, {limit:,} are allowed"
    reason = _REASONS.get(error["type"], error["msg"])
    if error["type"].endswith("_type"):
        reason += f", not {_kind(error['input'])}"
    return f"{path} {reason}"


def _kind(value: object) -> str:
    kinds = {
        bool: "a boolean",
        int: "a number",
        str: "a string",
        list: "a list",
        type(None): "null",
        bytes: "bytes",
    }
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, float):
        return "a number"
    return kinds.get(type(value), type(value).__name__)
