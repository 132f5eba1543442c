"""What the list of batch executions can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from worker.wire.problems import field_problem
from worker.wire.schemas import STATUSES

PARAMETERS = ("judge_id", "status", "date_from", "date_to", "page_size", "cursor", "project_id")
MAX_PAGE = 100


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Filters and the place in the list; times are inclusive."""

    judge_id: str | None = None
    status: str | None = None
    date_from: datetime | None = None
    date_to: datetime | None = None
    project_id: str | None = None
    page_size: int = MAX_PAGE
    cursor: str | None = None


def read_query(asked: Mapping[str, str]) -> ListQuery:
    """Raises `Problem`, 400, for a parameter that is not known or cannot be read."""
    unknown = sorted(asked.keys() - set(PARAMETERS))
    if unknown:
        raise field_problem({name: ["Unknown query parameter."] for name in unknown})
    for name, text in asked.items():
        if "\x00" in text:
            raise field_problem({name: ["Null characters are not allowed."]})
    status = asked.get("status")
    if status is not None and status not in STATUSES:
        raise field_problem({"status": [f"'{status}' is not one of the available choices."]})
    return ListQuery(
        judge_id=asked.get("judge_id"),
        status=status,
        date_from=_moment(asked, "date_from"),
        date_to=_moment(asked, "date_to"),
        project_id=asked.get("project_id"),
        page_size=_page_size(asked),
        cursor=asked.get("cursor"),
    )


def invalid_cursor() -> Exception:
    return field_problem({"cursor": ["Invalid cursor."]})


def _page_size(asked: Mapping[str, str]) -> int:
    """More than the most is taken for the most, however long the number is."""
    text = asked.get("page_size", str(MAX_PAGE)).lstrip("0")
    if not text.isdecimal():
        raise field_problem({"page_size": ["A whole number above zero is required."]})
    return MAX_PAGE if len(text) > len(str(MAX_PAGE)) else min(int(text), MAX_PAGE)


def _moment(asked: Mapping[str, str], name: str) -> datetime | None:
    text = asked.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise field_problem({name: ["Enter a valid date-time."]}) from None
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:  # the first and last hours of the calendar
        return moment.replace(tzinfo=UTC)
