"""Read the remote's list of batch executions page by page, within limits of pages and of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worker.domain.outcomes import Listed, ListOutcome


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The list goes on, but the page limit or the time budget is used up."""

    reason: str


def list_pages(
    read_page: Callable[[str | None], ListOutcome],
    *,
    max_pages: int,
    max_seconds: float,
    monotonic: Callable[[], float],
) -> Iterator[ListOutcome | Incomplete]:
    """Yield each page of the list, in the server's order, until one has no next cursor.

    `read_page` requests the page at a cursor. An outcome other than `Listed` is the last one: the
    failure of a request, or `Incomplete`. `max_seconds` count from the first request. They are
    checked before each request and do not interrupt one, so the last page may arrive after they are
    over.
    """
    end = monotonic() + max_seconds
    cursor: str | None = None
    for _ in range(max_pages):
        if monotonic() >= end:
            yield Incomplete(f"the list could not be read within {max_seconds:g} s")
            return
        page = read_page(cursor)
        yield page
        if not isinstance(page, Listed) or page.next_cursor is None:
            return
        cursor = page.next_cursor
    yield Incomplete(f"the list has more than {max_pages} pages")
