"""Keep the keys of the people who may use the console, each with its role."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog
from pydantic import TypeAdapter

from worker.errors import ConfigurationError
from worker.gateway.key_entries import KeyEntry, digests_of, is_json, key_digest, read_entries

VARIABLE = "EVALWORKER_CONSOLE_KEYS"
_NAME = re.compile(r"[A-Za-z0-9._@+-]{1,100}")

log = structlog.get_logger("evalworker")


class Role(StrEnum):
    """What a person may do: a viewer looks, an operator also acts."""

    VIEWER = "viewer"
    OPERATOR = "operator"


class _Entry(KeyEntry):
    role: Role = Role.VIEWER


_entries = TypeAdapter(dict[str, _Entry])


@dataclass(frozen=True, slots=True)
class Person:
    """A person who may use the console; `digest` is None if only a proxy can vouch for them."""

    name: str
    role: Role
    digest: bytes | None = None


class People:
    """The people of EVALWORKER_CONSOLE_KEYS.

    A file is read again when it has changed, so that a key that was removed opens nothing from the
    next request on. Without a setting, there is nobody.
    """

    def __init__(self, setting: str | None, *, with_proxy: bool = False) -> None:
        self._setting = setting or ""
        self._with_proxy = with_proxy
        self._file = None if not setting or is_json(setting) else Path(setting)
        self._read_at = self._state_of_file()
        self._people = self._read()
        if setting and not self._people:
            raise ConfigurationError([f"{VARIABLE}: has no key"])

    def __bool__(self) -> bool:
        return any(person.digest is not None for person in self.by_name().values())

    def by_name(self) -> Mapping[str, Person]:
        """Return everybody by name; raises nothing, as a file may be half-written just now."""
        state = self._state_of_file()
        if state != self._read_at:
            try:
                self._people = self._read()
            except ConfigurationError as error:
                log.warning("console.keys_unreadable", reason=str(error))
            else:
                self._read_at = state
        return self._people

    def find(self, key: str) -> Person | None:
        """Compare with every key, so that the time it takes reveals nothing."""
        digest = key_digest(key)
        found = None
        for person in self.by_name().values():
            if person.digest is not None and hmac.compare_digest(person.digest, digest):
                found = person
        return found

    def _state_of_file(self) -> object:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError as error:
            return type(error)
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> dict[str, Person]:
        if not self._setting:
            return {}
        entries = read_entries(VARIABLE, self._setting, _entries)
        own = dict(entries)
        if self._with_proxy:
            own = {name: entry for name, entry in entries.items() if _has_key(entry)}
        digests = digests_of(VARIABLE, own, _NAME, "letters, digits and ._@+-")
        return {
            name: Person(name, entry.role, digests.get(name)) for name, entry in entries.items()
        }


def _has_key(entry: _Entry) -> bool:
    return entry.key is not None or entry.sha256 is not None
