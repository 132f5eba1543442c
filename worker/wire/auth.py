"""The key of a request: `Authorization: Api-Key …`."""

from __future__ import annotations

SCHEME = "Api-Key"


def authorization(key: str) -> str:
    """The header's value that carries this key."""
    return f"{SCHEME} {key}"


def key_from_header(given: str | None) -> str | None:
    """The key that the header's value carries; None where it carries none."""
    scheme, _, key = (given or "").strip().partition(" ")
    return key.strip() or None if scheme.lower() == SCHEME.lower() else None
