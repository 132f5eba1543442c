"""Convert single JSON values of the remote leniently: a value that does not fit becomes None."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any, TypeVar

Value = TypeVar("Value")

MAX_DEPTH = 100  # of nested values; JSON encoders of databases give up at about a thousand
TOO_DEEP = "(nested too deeply to be kept)"

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def make_storable(value: Value) -> Value:
    r"""Replace whatever a database would refuse, in nested lists, objects and their keys too.

    NUL and lone surrogates, which PostgreSQL refuses, are spelled out as `\u0000`. Numbers that
    are not finite become their usual names in JSON (`NaN`, `Infinity`, `-Infinity`). A value
    nested deeper than `MAX_DEPTH` becomes `TOO_DEEP`.
    """
    return _storable(value, 0)  # type: ignore[no-any-return]


def _storable(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, dict | list) and depth >= MAX_DEPTH:
        return TOO_DEEP
    if isinstance(value, dict):
        return {_storable(k, depth): _storable(part, depth + 1) for k, part in value.items()}
    if isinstance(value, list):
        return [_storable(part, depth + 1) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    return value


def storable_text(text: str) -> str:
    r"""Spell out what PostgreSQL refuses in a text, NUL and lone surrogates, as `\u0000`."""
    if "\x00" not in text and (text.isascii() or _is_encodable(text)):
        return text  # nearly always; a search takes ten times as long
    return _UNSTORABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(value: object) -> str | None:
    """Return a string; encode any other value but null as JSON rather than lose it."""
    if isinstance(value, str):
        return storable_text(value)
    return None if value is None else json.dumps(make_storable(value), ensure_ascii=False)


def string_or_none(value: object) -> str | None:
    return storable_text(value) if isinstance(value, str) else None


def count_or_none(value: object) -> int | None:
    """Return an integer from 0 that fits a database's 32 bits; digits may be text."""
    if type(value) is int and 0 <= value < 2**31:
        return value  # nearly always
    number = number_or_none(value)
    if number is None or not number.is_integer():
        return None
    return int(number) if 0 <= number < 2**31 else None


def number_or_none(value: object) -> float | None:
    """Return a finite number; it may be text, as some servers write decimals."""
    if value is None or (type(value) is float and math.isfinite(value)):
        return value  # nearly always
    if isinstance(value, str):
        value = value if _NUMBER.fullmatch(value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def datetime_or_none(value: object) -> datetime | None:
    """Return an ISO 8601 time with its zone, which is UTC where the text has none."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
