"""Read the parameters of a query or a form as typed values; each offence names its parameter."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from worker.console.problems import invalid_parameter

MAX_INTEGER = 2**31 - 1
_INTEGER = re.compile("[0-9]{1,19}")
MAX_LENGTH = 10_000  # characters of a value; reasons of failures may be long


class Parameters:
    """Parameters by name.

    Empty ones count as absent, as forms send every field; lines end in LF, for which forms send
    CRLF.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            if len(value) > MAX_LENGTH:
                raise invalid_parameter(name, value, f"at most {MAX_LENGTH:,} characters long")
            if "\0" in value:
                raise invalid_parameter(name, value, "a text without NUL")
            if value.strip():
                self._values.setdefault(name, []).append(value.replace("\r\n", "\n"))

    def as_dict(self) -> dict[str, str]:
        """Return the last value of each parameter, for links to the same page."""
        return {name: values[-1] for name, values in self._values.items()}

    def text(self, name: str) -> str | None:
        """Return a value as it was sent."""
        return self._values[name][-1] if name in self._values else None

    def every(self, name: str) -> list[str]:
        return list(self._values.get(name, ()))

    def choice(self, name: str, allowed: Sequence[str], default: str | None = None) -> str | None:
        value = self.text(name)
        if value is not None and value not in allowed:
            raise invalid_parameter(name, value, f"one of {', '.join(allowed)}")
        return default if value is None else value

    def integer(self, name: str, *, largest: int = MAX_INTEGER) -> int | None:
        """Return a whole number; by default, one that fits the column of an index."""
        value = self.text(name)
        if value is None:
            return None
        if not _INTEGER.fullmatch(value) or int(value) > largest:
            raise invalid_parameter(name, value, f"a whole number from 0 to {largest:,}")
        return int(value)

    def number(self, name: str) -> float | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise invalid_parameter(name, value, "a number")
        return number

    def uuid(self, name: str) -> UUID | None:
        value = self.text(name)
        return None if value is None else _uuid(name, value)

    def uuids(self, name: str) -> list[UUID]:
        return [_uuid(name, value) for value in self.every(name)]

    def moment(self, name: str) -> datetime | None:
        """Return a time; without a zone it is in UTC, and a day is its beginning."""
        value = self.text(name)
        if value is None:
            return None
        try:
            moment = datetime.fromisoformat(value)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            raise invalid_parameter(name, value, "a time such as 2026-01-31T12:00") from None

    def pair(self, name: str) -> tuple[str, str] | None:
        """Return both sides of `name=value`."""
        value = self.text(name)
        if value is None:
            return None
        left, sign, right = value.partition("=")
        if not sign or not left.strip():
            raise invalid_parameter(name, value, "a name and a value with = between them")
        return left.strip(), right.strip()


def _uuid(name: str, value: str) -> UUID:
    try:
        return UUID(value.strip())
    except ValueError:
        raise invalid_parameter(name, value, "an id") from None
