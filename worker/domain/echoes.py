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
    return echo is not None and all(
        _are_equal(echo.get(name), sent.get(name))
        for name in COMPARED_FIELDS
        if name in echo or name not in _OPTIONAL_FIELDS
    )


def has_content(echo: Mapping[str, Any] | None) -> bool:
    """Return whether an echo shows anything by which inputs can be told apart."""
    return echo is not None and any(canonical(echo.get(name)) for name in COMPARED_FIELDS)


def contradicts(echo: Mapping[str, Any] | None, sent: Mapping[str, Any]) -> bool:
    """Return whether a field that the echo shows is not what was sent.

    What the echo leaves out is no evidence: some servers do not show every field.
    """
    return echo is not None and any(
        echo.get(name) and not _are_equal(echo[name], sent.get(name)) for name in COMPARED_FIELDS
    )


def _are_equal(shown: object, sent: object) -> bool:
    return shown == sent or canonical(shown) == canonical(sent)


def canonical(value: Any) -> Any:
    """Return a value without the differences that servers make.

    Texts are in Unicode's form NFC with single spaces; fields without a value are left out.
    """
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFC", value).split()) or None
    if isinstance(value, list):
        return [canonical(part) for part in value] or None
    if isinstance(value, dict):
        parts = {name: canonical(part) for name, part in value.items()}
        return {name: part for name, part in parts.items() if part is not None} or None
    return value
