"""Read and write the API key of a request, in the header `Authorization: Api-Key …`."""

from __future__ import annotations

SCHEME = "Api-Key"


def authorization(key: str) -> str:
    """Return the value of the header for this key."""
    return f"{SCHEME} {key}"


def key_from_header(value: str | None) -> str | None:
    """Return the key in the header's value, if there is one."""
    scheme, _, key = (value or "").strip().partition(" ")
    return key.strip() or None if scheme.lower() == SCHEME.lower() else None
