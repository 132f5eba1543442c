"""Read named keys from JSON, or from a JSON file: those of the gateway and of the console."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
)

from worker.domain.phrases import quantity
from worker.errors import ConfigurationError

MIN_KEY_LENGTH = 16  # characters


def _long_enough(key: SecretStr) -> SecretStr:
    length = len(key.get_secret_value())
    if length < MIN_KEY_LENGTH:
        characters = quantity(length, "character")
        raise ValueError(f"has {characters}, and needs at least {MIN_KEY_LENGTH}")
    return key


class KeyEntry(BaseModel):
    """A key as it is written: itself, or as its SHA-256."""

    model_config = ConfigDict(extra="forbid")

    key: Annotated[SecretStr, AfterValidator(_long_enough)] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    def digest(self) -> bytes | None:
        """Return the key's hash; None unless exactly one of the two forms is given."""
        if (self.key is None) == (self.sha256 is None):
            return None
        if self.key is not None:
            return key_digest(self.key.get_secret_value())
        return bytes.fromhex(self.sha256 or "")


Entry = TypeVar("Entry", bound=KeyEntry)


def key_digest(key: str) -> bytes:
    """Return the hash by which a key is stored and compared."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def is_json(setting: str) -> bool:
    """Return whether a setting holds the keys themselves; otherwise it names a file."""
    return setting.lstrip().startswith("{")


def read_entries(
    variable: str, setting: str, entries: TypeAdapter[dict[str, Entry]]
) -> dict[str, Entry]:
    """Read the entries; raises `ConfigurationError`, which quotes no key."""
    try:
        text = setting if is_json(setting) else Path(setting).read_text("utf-8")
        return entries.validate_json(text)
    except (OSError, UnicodeError) as error:
        needed = 'a JSON object such as {"team-a": {"key": "…"}}, or the name of a file with one'
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError([f"{variable}: it must be {needed} ({reason})"]) from None
    except ValidationError as error:
        parts = error.errors(include_input=False, include_url=False)
        raise ConfigurationError(
            [
                f"{variable}: {'.'.join(map(str, part['loc']))} "
                + str(part["msg"]).removeprefix("Value error, ")
                for part in parts
            ]
        ) from None


def digests_of(
    variable: str, entries: Mapping[str, KeyEntry], names: re.Pattern[str], allowed: str
) -> dict[str, bytes]:
    """Map each name to its key's hash.

    Raises `ConfigurationError` with every name that is not `allowed`, and every entry without a
    key of its own.
    """
    offences: list[str] = []
    owners: dict[bytes, str] = {}
    for name, entry in entries.items():
        digest = entry.digest()
        if not names.fullmatch(name):
            offences.append(f"{variable}: {name!r} is not a name of {allowed} only")
        elif digest is None:
            offences.append(f"{variable}: {name} must have either a key or its sha256")
        elif digest in owners:
            offences.append(f"{variable}: {name} has the same key as {owners[digest]}")
        else:
            owners[digest] = name
    if offences:
        raise ConfigurationError(offences)
    return {name: digest for digest, name in owners.items()}
