"""Authenticate callers by their keys, which are kept as hashes and compared in constant time."""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter

from worker.errors import ConfigurationError
from worker.gateway.key_entries import KeyEntry, digests_of, key_digest, read_entries
from worker.gateway.rate_limit import TokenBucket
from worker.wire.auth import key_from_header
from worker.wire.inputs import NonEmpty
from worker.wire.problems import Problem, invalid_key, not_authenticated, throttled

VARIABLE = "EVALWORKER_GATEWAY_KEYS"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


class _Entry(KeyEntry):
    judges: list[NonEmpty] | None = None
    requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


_entries = TypeAdapter(dict[str, _Entry])


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key; `judges` is None if it may use all of them."""

    name: str
    digest: bytes
    judges: frozenset[str] | None = None
    bucket: TokenBucket | None = None

    def check_judge(self, judge_id: str) -> None:
        """Raise `Problem`, 403, for a judge that this key may not use."""
        if self.judges is not None and judge_id not in self.judges:
            detail = "You do not have permission to perform this action."
            raise Problem(403, "permission_denied", detail)


class Keys:
    """All keys, with their rate limits, which each process counts for itself.

    Not thread-safe: use it on one event loop.
    """

    def __init__(
        self, keys: Sequence[Key], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = keys
        self._monotonic = monotonic

    def find(self, secret: str | None) -> Key | None:
        """Compare with every key, so that the time it takes reveals nothing."""
        digest = key_digest(secret or "")
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def admit(self, header: str | None) -> Key:
        """Return the key in the `Authorization` header; raise `Problem`, 401 or 429."""
        secret = key_from_header(header)
        if secret is None:
            raise not_authenticated()
        key = self.find(secret)
        if key is None:
            raise invalid_key()
        if key.bucket is not None:
            wait = key.bucket.take(self._monotonic())
            if wait:
                raise throttled(wait)
        return key


def read_keys(setting: str | None) -> list[Key]:
    """Read the keys from JSON, or from the JSON file named.

    Raises `ConfigurationError`, which quotes no key.
    """
    if not setting:
        raise ConfigurationError([f"{VARIABLE} is not set: the gateway needs at least one key"])
    entries = read_entries(VARIABLE, setting, _entries)
    if not entries:
        raise ConfigurationError([f"{VARIABLE}: has no key"])
    digests = digests_of(VARIABLE, entries, _NAME, "letters, digits and ._-")
    return [_key(name, entries[name], digest) for name, digest in digests.items()]


def _key(name: str, entry: _Entry, digest: bytes) -> Key:
    judges = None if entry.judges is None else frozenset(entry.judges)
    per_second = entry.requests_per_second
    return Key(name, digest, judges, TokenBucket(per_second) if per_second is not None else None)
