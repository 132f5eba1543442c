"""Authenticate callers by their keys, which are kept as hashes and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from worker.errors import ConfigurationError
from worker.gateway.rate_limit import TokenBucket
from worker.wire.auth import key_from_header
from worker.wire.inputs import NonEmpty
from worker.wire.problems import Problem, invalid_key, not_authenticated, throttled

VARIABLE = "EVALWORKER_GATEWAY_KEYS"
MIN_KEY_LENGTH = 16  # characters
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Annotated[SecretStr, Field(min_length=MIN_KEY_LENGTH)] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    judges: list[NonEmpty] | None = None
    requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def digest(self) -> bytes | None:
        """Return the key's hash; None unless exactly one of the two forms is given."""
        if (self.key is None) == (self.sha256 is None):
            return None
        if self.key is not None:
            return _digest(self.key.get_secret_value())
        return bytes.fromhex(self.sha256 or "")


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
        digest = _digest(secret or "")
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


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def read_keys(setting: str | None) -> list[Key]:
    """Read the keys from JSON, or from the JSON file named.

    Raises `ConfigurationError`, which quotes no key.
    """
    if not setting:
        raise ConfigurationError([f"{VARIABLE} is not set: the gateway needs at least one key"])
    try:
        is_json = setting.lstrip().startswith("{")
        text = setting if is_json else Path(setting).read_text("utf-8")
        entries = _entries.validate_json(text)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError([f"{VARIABLE}: cannot be read: {type(error).__name__}"]) from None
    except ValidationError as error:
        parts = error.errors(include_input=False, include_url=False)
        raise ConfigurationError(
            [f"{VARIABLE}: {'.'.join(map(str, part['loc']))} {part['msg']}" for part in parts]
        ) from None
    return _checked(entries)


def _checked(entries: dict[str, _Entry]) -> list[Key]:
    offences = [] if entries else [f"{VARIABLE}: has no key"]
    found: dict[bytes, Key] = {}
    for name, entry in entries.items():
        digest = entry.digest()
        if not _NAME.fullmatch(name):
            offences.append(f"{VARIABLE}: {name!r} is not a name of letters, digits and ._- only")
        elif digest is None:
            offences.append(f"{VARIABLE}: {name} must have either a key or its sha256")
        elif digest in found:
            offences.append(f"{VARIABLE}: {name} has the same key as {found[digest].name}")
        else:
            judges = None if entry.judges is None else frozenset(entry.judges)
            per_second = entry.requests_per_second
            bucket = TokenBucket(per_second) if per_second is not None else None
            found[digest] = Key(name, digest, judges, bucket)
    if offences:
        raise ConfigurationError(offences)
    return list(found.values())
