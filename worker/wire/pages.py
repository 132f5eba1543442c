"""Make pages of batch executions whose rows are numbered, for the sandbox and the judge service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlencode

from worker.wire.list_query import ListQuery, invalid_cursor
from worker.wire.schemas import Head, Page, format_time

if TYPE_CHECKING:
    from starlette.requests import Request


class Numbered(Protocol):
    @property
    def number(self) -> int: ...


Row = TypeVar("Row", bound=Numbered)


def page_of(
    request: Request, query: ListQuery, rows: Sequence[Row], show: Callable[[Row], Head]
) -> Page:
    """Return a page of rows, newest first; one row more than fits shows that there is another."""
    shown = rows[: query.page_size]
    next_url = None
    if len(rows) > len(shown):
        params = {**request.query_params, "cursor": str(shown[-1].number)}
        next_url = str(request.url.replace(query=urlencode(params)))
    return Page(next=next_url, previous=None, results=[show(row) for row in shown])


def row_number(cursor: str | None) -> int | None:
    """Return the number of the row next to the page. Raises `Problem`, 400, for any other text."""
    if cursor is None:
        return None
    if not (cursor.isdecimal() and len(cursor) < 19):  # SQLite counts no further
        raise invalid_cursor()
    return int(cursor)


def format_seconds(seconds: float) -> str:
    """Return seconds since 1970 as the API shows times."""
    return format_time(datetime.fromtimestamp(seconds, UTC))
