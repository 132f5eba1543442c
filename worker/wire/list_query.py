"""Parse the query parameters of the list of batch executions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

from worker.wire.problems import Problem, field_problem
from worker.wire.schemas import STATUSES, ExecutionStatus

MAX_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class ListQuery:
    """The filters and the cursor; both dates are inclusive."""

    judge_id: str | None = None
    status: ExecutionStatus | None = None
    date_from: datetime | None = None
    date_to: datetime | None = None
    project_id: str | None = None
    page_size: Annotated[int, Field(ge=1)] = MAX_PAGE_SIZE
    cursor: str | None = None


PARAMETERS = tuple(field.name for field in fields(ListQuery))


def read_query(parameters: Mapping[str, str]) -> ListQuery:
    """Raise `Problem`, 400, for a parameter that is unknown or invalid."""
    unknown = sorted(parameters.keys() - set(PARAMETERS))
    if unknown:
        raise field_problem({name: ["Unknown query parameter."] for name in unknown})
    for name, text in parameters.items():
        if "\x00" in text:
            raise field_problem({name: ["Null characters are not allowed."]})
    return ListQuery(
        judge_id=parameters.get("judge_id"),
        status=_status(parameters.get("status")),
        date_from=_time(parameters, "date_from"),
        date_to=_time(parameters, "date_to"),
        project_id=parameters.get("project_id"),
        page_size=_page_size(parameters.get("page_size", str(MAX_PAGE_SIZE))),
        cursor=parameters.get("cursor"),
    )


def invalid_cursor() -> Problem:
    return field_problem({"cursor": ["Invalid cursor."]})


def _status(text: str | None) -> ExecutionStatus | None:
    if text is None:
        return None
    for status in STATUSES:
        if text == status:
            return status
    raise field_problem({"status": [f"'{text}' is not one of the available choices."]})


def _page_size(text: str) -> int:
    """Cap the number at `MAX_PAGE_SIZE`, however many digits it has."""
    digits = text.lstrip("0")
    if not digits.isdecimal():
        raise field_problem({"page_size": ["A whole number above zero is required."]})
    return (
        MAX_PAGE_SIZE if len(digits) > len(str(MAX_PAGE_SIZE)) else min(int(digits), MAX_PAGE_SIZE)
    )


def _time(parameters: Mapping[str, str], name: str) -> datetime | None:
    text = parameters.get(name)
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise field_problem({name: ["Enter a valid date-time."]}) from None
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError:  # in the first or last hours of the calendar
        return time.replace(tzinfo=UTC)
