"""Make the short phrases that people read: quantities, times, durations, and texts on one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from worker.domain.terminal_text import escape_controls


def quantity(number: int, noun: str) -> str:
    """Return a number with its noun: 1 input, 2 inputs, 1,000 inputs, 2 batches."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith('ch') else 's'}"


def value_text(value: object) -> str:
    """Return a value for people: a text as it is, lists and objects as JSON."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def tag_texts(tags: object) -> list[str]:
    """Return the tags of a job that are texts: plain SQL may have written anything."""
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def timestamp(value: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return "" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def age(value: datetime | None, now: datetime) -> str:
    return "" if value is None else duration((now - value).total_seconds())


def duration(seconds: float) -> str:
    """Return a duration in its largest fitting unit: 40s, 12m, 5h, 3d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def one_line(text: str | None, limit: int = 200) -> str:
    """Return text as it can be shown in one line, shortened to a number of characters."""
    line = escape_controls(" ".join((text or "").split()))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
