"""Say what is wrong with a file: one complaint for each cause, with its first location."""

from __future__ import annotations

import re
from dataclasses import dataclass

from worker.errors import InvalidInputs

SHOWN = 5  # causes; a file that has more of them is of another kind than was thought
_CAUSE_LENGTH = 200
_DETAILS = re.compile(r"; found: |: ")  # and remedies
_NUMBERS = re.compile(r"\d[\d,]*")


@dataclass(slots=True)
class _Complaint:
    """An offence with its first and its last location."""

    first: str
    last: str
    offence: str
    count: int = 1


class Complaints:
    """The offences of a file by their causes: offences that differ only in numbers are one."""

    def __init__(self) -> None:
        self._by_cause: dict[str, _Complaint] = {}

    def add(self, location: str, offence: str) -> None:
        """Add an offence."""
        cause = _NUMBERS.sub("0", _DETAILS.split(offence[:_CAUSE_LENGTH])[0])
        known = self._by_cause.get(cause)
        if known is None:
            if len(self._by_cause) >= SHOWN:
                cause = "others"
            known = self._by_cause.setdefault(cause, _Complaint(location, location, offence, 0))
        known.last = location
        known.count += 1

    def raise_if_any(self, name: str) -> None:
        """Raise `InvalidInputs` with all of them."""
        if self._by_cause:
            raise InvalidInputs(
                [
                    _indented(f"{name}: {known.first}: {known.offence}{_more(cause, known)}")
                    for cause, known in self._by_cause.items()
                ]
            )


def _more(cause: str, known: _Complaint) -> str:
    if known.count == 1:
        return ""
    others = f"{known.count - 1:,} more"
    if cause == "others":
        return f" (and {others} of other kinds)"
    last = f", the last at {known.last}" if known.last != known.first else ""
    return f" (and {others} like it{last})"


def refusal(name: str, *parts: str) -> InvalidInputs:
    """Return the error that refuses a file for one reason, whose further lines are indented."""
    return InvalidInputs([_indented(": ".join((name, *parts)))])


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")
