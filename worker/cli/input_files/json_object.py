"""Decode JSON by the standard library, and refuse objects that have a key twice."""

from __future__ import annotations

import json
from typing import Any

WITHOUT_NUL = r"without NUL characters: tr -d '\000' < FILE | evalworker enqueue - …"


class RepeatedKey(ValueError):
    """An object has a key twice: decoders take the last value in silence."""


class WrittenFloat(float):
    """A number that remembers how it was written, for texts: `1.10` is not `1.1` there."""

    def __init__(self, written: str) -> None:
        self.written = written


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise RepeatedKey(f"has the key {json.dumps(repeated[:40], ensure_ascii=False)} twice")
    return value


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=WrittenFloat)
decode = _decoder.decode
raw_decode = _decoder.raw_decode


def decoded(text: str) -> Any:
    """Return the object or list that a text holds as JSON; any other text as it is."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return decode(text)
    except (ValueError, RecursionError):
        return text


def offence_of(error: ValueError | RecursionError, column: int | None = None) -> str:
    """Return why JSON could not be decoded, with the column on its line.

    `column` is given where the text that was decoded does not begin with the line.
    """
    match error:
        case RepeatedKey():
            return str(error)
        case json.JSONDecodeError():
            column = column or error.colno
            return f"is not JSON: {error.msg} (column {column}){_remedy(error)}"
        case RecursionError():
            return "is not readable JSON: nested too deeply"
    return "is not readable JSON: a number is too long"  # a limit of Python's, not of JSON


def _remedy(error: json.JSONDecodeError) -> str:
    rest = error.doc[error.pos : error.pos + 20].lstrip()
    if rest.startswith("'"):
        return ": it looks like Python; write it with json.dumps(), not with str() or print()"
    if rest.startswith(",") and error.msg == "Extra data":
        return ": a comma follows the object"
    if rest.startswith(("None", "True", "False")):
        return ": it looks like Python; write it with json.dumps(), not with str() or print()"
    if rest.startswith(("]", "}")) and error.msg.startswith(("Expecting", "Illegal trailing")):
        return ": a comma before it is too many, or a value is missing"
    if rest.startswith("\0"):
        return f": {WITHOUT_NUL}"
    if error.msg.startswith("Invalid control character"):
        return ": json.dumps() writes it as \\n, \\t or \\u…"
    if not rest or error.msg.startswith("Unterminated"):
        return ": it is cut off"
    return ""
