"""Digest the content of a job in one pass, to compare what comes later under its key."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ENCODED_TOGETHER = 50  # inputs: encoding each alone takes twice as long
SCHEME = "py1:"  # digests of another scheme, such as that of `eval_enqueue`, cannot be compared


class ContentDigest:
    """The digest of a job's judge, version, tags, and inputs with their metadata.

    These say what is evaluated, and what for. Priority, metadata of the job and callback URL are
    left out: they say how it is handled, and may differ when a producer tries again.
    """

    def __init__(self, *, judge_id: str, judge_version_id: str | None, tags: Sequence[str]) -> None:
        self._hash = hashlib.sha256()
        self._add([[judge_id, judge_version_id, sorted(set(tags))]])

    @classmethod
    def of_job(cls, columns: Mapping[str, Any]) -> ContentDigest:
        """Begin the digest of a job, given by its columns."""
        return cls(**{name: columns[name] for name in ("judge_id", "judge_version_id", "tags")})

    def add(self, inputs: Iterable[Mapping[str, Any]]) -> None:
        """Add the next inputs; a field that is None is the same as one that is absent."""
        rest = iter(inputs)
        while some := [_without_none(value) for value in itertools.islice(rest, ENCODED_TOGETHER)]:
            self._add(some)

    def _add(self, values: list[Any]) -> None:
        # With sorted names: the order of an object's members means nothing. Without the brackets
        # of the list, it does not matter how many values are added at a time.
        self._hash.update(_encode(values)[1:-1].encode())
        self._hash.update(b",")

    def value(self) -> str:
        """Return the digest of what was added so far, with its scheme."""
        return SCHEME + self._hash.hexdigest()


def can_be_compared(stored: str | None) -> bool:
    """Return whether a stored digest is of this scheme: older jobs and plain SQL have none."""
    return stored is not None and stored.startswith(SCHEME)


def _without_none(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if type(value) is dict and None not in value.values():
        return value
    return {name: part for name, part in value.items() if part is not None}


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode
