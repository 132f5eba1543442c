"""Whose key it is: read from the settings, kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from worker.errors import ConfigurationError
from worker.gateway.rate_limit import Rate
from worker.wire.auth import key_in
from worker.wire.inputs import NonEmpty
from worker.wire.problems import Problem, not_authenticated, throttled, wrong_key

VARIABLE = "EVALWORKER_GATEWAY_KEYS"
SHORTEST = 16  # characters of a key
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Annotated[SecretStr, Field(min_length=SHORTEST)] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    judges: list[NonEmpty] | None = None
    requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def digest(self) -> bytes | None:
        """None unless exactly one of the two forms is given."""
        if (self.key is None) == (self.sha256 is None):
            return None
        return bytes.fromhex(self.sha256) if self.sha256 else _digest(self._plain())

    def _plain(self) -> str:
        return self.key.get_secret_value() if self.key else ""


_entries = TypeAdapter(dict[str, _Entry])


@dataclass(frozen=True, slots=True)
class Key:
    """Who asks; `judges` is None for all of them."""

    name: str
    digest: bytes
    judges: frozenset[str] | None = None
    rate: Rate | None = None

    def check_judge(self, judge_id: str) -> None:
        """Raises `Problem`, 403, for a judge out of this key's scope."""
        if self.judges is not None and judge_id not in self.judges:
            words = "You do not have permission to perform this action."
            raise Problem(403, "permission_denied", words)


class Keys:
    """All keys. Rates are kept here: each process has its own account of them."""

    def __init__(
        self, keys: Sequence[Key], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = keys
        self._monotonic = monotonic
        self._lock = threading.Lock()

    def find(self, given: str | None) -> Key | None:
        """Looks at every key, whichever matches: the time taken tells nothing."""
        digest = _digest(given or "")
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def admit(self, header: str | None) -> Key:
        """Whose request it is; raises `Problem`, 401 or 429."""
        given = key_in(header)
        if given is None:
            raise not_authenticated()
        key = self.find(given)
        if key is None:
            raise wrong_key()
        if key.rate is not None:
            with self._lock:
                wait = key.rate.take(self._monotonic())
            if wait:
                raise throttled(wait)
        return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def read_keys(given: str | None) -> list[Key]:
    """From JSON, or from a file of it; raises `ConfigurationError` that quotes no key."""
    if not given:
        raise ConfigurationError([f"{VARIABLE} is not set: nobody could use the gateway"])
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text("utf-8")
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
            offences.append(f"{VARIABLE}: {name!r} is no name: letters, digits and ._- only")
        elif digest is None:
            offences.append(f"{VARIABLE}: {name} must have either a key or its sha256")
        elif digest in found:
            offences.append(f"{VARIABLE}: {name} has the same key as {found[digest].name}")
        else:
            judges = None if entry.judges is None else frozenset(entry.judges)
            per_second = entry.requests_per_second
            rate = Rate(per_second) if per_second is not None else None
            found[digest] = Key(name, digest, judges, rate)
    if offences:
        raise ConfigurationError(offences)
    return list(found.values())
