"""Compare an input as the remote echoes it with the input that was sent.

An item of a batch has no identity but its index, and servers number and order items in their own
ways. The echo is the evidence of whose results they are. Servers do not echo to the letter: fields
without a value are null or left out, and texts may be normalised.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

COMPARED_FIELDS = ("request", "response", "contexts", "expected_output", "turns")
"""Input fields that the remote is known to echo."""

_OPTIONAL_FIELDS = frozenset({"contexts", "turns"})  # that older servers do not echo


def is_echo(echo: Mapping[str, Any] | None, sent: Mapping[str, Any]) -> bool:
    """Return whether an echo is that of this input, and of no input with more or fewer fields."""
    if echo is None:
        return False
    shown, given = compared(echo), compared(sent)
    return agrees(shown, given) and all(
        (shown[name] is None) == (given[name] is None)
        for name in COMPARED_FIELDS
        if name in echo or name not in _OPTIONAL_FIELDS
    )


def has_content(echo: Mapping[str, Any] | None) -> bool:
    """Return whether an echo shows anything by which inputs can be told apart."""
    return echo is not None and any(part is not None for part in compared(echo).values())


def contradicts(echo: Mapping[str, Any] | None, sent: Mapping[str, Any]) -> bool:
    """Return whether a field that the echo shows is not what was sent."""
    if echo is None or all(echo.get(name) == sent.get(name) for name in COMPARED_FIELDS):
        return False  # nearly always; the rest takes longer
    return not agrees(compared(echo), compared(sent))


def compared(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are compared, in their canonical form; None: not shown, or empty."""
    return {name: canonical(fields.get(name)) for name in COMPARED_FIELDS}


def agrees(shown: Any, sent: Any) -> bool:
    """Return whether a canonical value may be the echo of another one.

    What is not shown is no evidence, nor is what the server added or put into another shape.
    """
    if isinstance(shown, dict) and isinstance(sent, dict):
        return all(agrees(shown.get(name), part) for name, part in sent.items())
    if isinstance(shown, list) and isinstance(sent, list):
        return len(shown) == len(sent) and all(map(agrees, shown, sent))
    if type(shown) in (int, float) and isinstance(sent, str):
        return _is_number(sent, shown)
    has_other_shape = sent is not None and type(shown) is not type(sent)
    return shown is None or has_other_shape or bool(shown == sent)


def _is_number(text: str, number: float) -> bool:
    """Return whether a server may have made this number of a text."""
    try:
        return float(text) == number
    except ValueError:
        return False


def canonical(value: Any) -> Any:
    """Return a value without the differences that servers make.

    Texts are in Unicode's form NFC with single spaces; parts without a value are left out.
    """
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFC", value).split()) or None
    if isinstance(value, list):
        return [canonical(part) for part in value] or None
    if isinstance(value, dict):
        parts = {name: canonical(part) for name, part in value.items()}
        return {name: part for name, part in parts.items() if part is not None} or None
    return value
