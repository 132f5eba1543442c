"""Cut lists of batch executions into pages, newest first.

A cursor is the id of the job next to the page, after a letter for the direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from worker.store.gateway_queries import ExecutionFilter, JobSummary
from worker.wire.list_query import ListQuery, invalid_cursor

OLDER, NEWER = "o", "n"


@dataclass(frozen=True, slots=True)
class Page:
    """The rows of a page, and the cursors of the next and previous pages that exist."""

    rows: Sequence[JobSummary]
    next: str | None
    previous: str | None


def execution_filter(owner: str, query: ListQuery) -> ExecutionFilter:
    """Read the query's cursor. Raises `Problem`, 400, for an invalid one."""
    before = after = None
    if query.cursor is not None:
        try:
            neighbour = UUID(query.cursor[1:])
        except ValueError:
            raise invalid_cursor() from None
        if query.cursor[0] not in (OLDER, NEWER):
            raise invalid_cursor()
        before, after = (neighbour, None) if query.cursor[0] == OLDER else (None, neighbour)
    return ExecutionFilter(owner, query, before, after)


def page_of(rows: Sequence[JobSummary], wanted: ExecutionFilter) -> Page:
    """Cut the rows found by `wanted` to one page; one more shows whether there is another page."""
    size = wanted.query.page_size
    has_more = len(rows) > size
    if wanted.after is not None:
        rows = rows[-size:]
        has_older, has_newer = True, has_more
    else:
        rows = rows[:size]
        has_older, has_newer = has_more, wanted.before is not None
    if not rows:
        return Page([], None, None)
    return Page(
        rows,
        f"{OLDER}{rows[-1].job.id}" if has_older else None,
        f"{NEWER}{rows[0].job.id}" if has_newer else None,
    )
