"""List what happened, newest first, and who did it."""

from __future__ import annotations

from starlette.responses import Response

from worker.console.event_rows import event_views
from worker.console.limits import PAGE_ROWS, Neighbours
from worker.console.visit import Visit
from worker.events import Event
from worker.store import event_queries
from worker.store.event_queries import EventFilter

MAX_ID = 2**63 - 1
WORDS = tuple(Event)


def show(visit: Visit) -> Response:
    query = visit.query
    wanted = EventFilter(
        event=query.choice("event", WORDS),
        job_id=query.uuid("job"),
        item_index=query.integer("input"),
        batch_id=query.uuid("batch"),
        by_people=query.choice("by", ("anybody", "people")) == "people",
    )
    before = query.integer("before", largest=MAX_ID)
    after = query.integer("after", largest=MAX_ID)
    with visit.read() as connection:
        found = event_queries.list_events(
            connection, wanted, before=before, after=after, limit=PAGE_ROWS + 1
        )
    page = Neighbours.of(found, goes_back=after is not None, is_first=before is None)
    newer, older = page.links(visit.links, lambda event: event.id, back="after", on="before")
    return visit.page(
        "events.html",
        events=event_views(page.rows),
        words=WORDS,
        is_filtered=wanted != EventFilter(),
        newer=newer,
        older=older,
    )
