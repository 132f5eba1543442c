"""Pages of batch executions, newest first; a cursor is the id next to the page, and the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from worker.store.gateway_queries import Wanted
from worker.wire.list_query import ListQuery, wrong_cursor

OLDER, NEWER = "o", "n"


@dataclass(frozen=True, slots=True)
class Cut:
    """The rows of a page, and the cursors of the pages beside it where there are any."""

    rows: Sequence[Any]
    next: str | None
    previous: str | None


def wanted(owner: str, query: ListQuery) -> Wanted:
    """One row more than a page, to know whether there is another; raises `Problem`, 400."""
    before = after = None
    if query.cursor is not None:
        try:
            beside = UUID(query.cursor[1:])
        except ValueError:
            raise wrong_cursor() from None
        if query.cursor[0] not in (OLDER, NEWER):
            raise wrong_cursor()
        before, after = (beside, None) if query.cursor[0] == OLDER else (None, beside)
    return Wanted(
        owner=owner,
        limit=query.page_size + 1,
        judge_id=query.judge_id,
        status=query.status,
        date_from=query.date_from,
        date_to=query.date_to,
        project_id=query.project_id,
        before=before,
        after=after,
    )


def cut(rows: Sequence[Any], asked: Wanted) -> Cut:
    """A page of what `wanted` found."""
    size = asked.limit - 1
    more = len(rows) > size
    if asked.after is not None:
        page = rows[-size:]
        older, newer = True, more
    else:
        page = rows[:size]
        older, newer = more, asked.before is not None
    if not page:
        return Cut([], None, None)
    return Cut(
        page,
        f"{OLDER}{page[-1].id}" if older else None,
        f"{NEWER}{page[0].id}" if newer else None,
    )
