"""List batches by state, and show the timeline of one; an operator decides what is on hold."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from starlette.responses import Response

from worker.console.event_rows import event_views
from worker.console.limits import PAGE_ROWS, Neighbours
from worker.console.problems import not_found
from worker.console.visit import Visit
from worker.domain.lifecycle import BatchState
from worker.store import batch_queries, event_queries, job_queries
from worker.store.batch_queries import Batch
from worker.store.event_queries import EventFilter

STATES = tuple(BatchState)
EVENTS = 100


class Moment(NamedTuple):
    """A point in the life of a batch."""

    name: str
    at: datetime


def show(visit: Visit) -> Response:
    state = visit.query.choice("state", STATES)
    job_id = visit.query.uuid("job")
    before, after = visit.query.uuid("before"), visit.query.uuid("after")
    with visit.read() as connection:
        if job_id is not None:
            job_queries.progress_of(connection, job_id)
        found = batch_queries.list_batches(
            connection,
            states=STATES if state is None else [BatchState(state)],
            judge_id=visit.query.text("judge"),
            job_id=job_id,
            before=before,
            after=after,
            limit=PAGE_ROWS + 1,
        )
    page = Neighbours.of(found, goes_back=after is not None, is_first=before is None)
    newer, older = page.links(visit.links, lambda batch: batch.id, back="after", on="before")
    return visit.page(
        "batches.html",
        batches=page.rows,
        states=STATES,
        is_filtered=any(visit.query.text(name) for name in ("state", "judge", "job")),
        newer=newer,
        older=older,
    )


def show_one(visit: Visit) -> Response:
    batch_id = visit.path_id("batch_id", "batch")
    with visit.read() as connection:
        batch = batch_queries.find_batch(connection, batch_id)
        if batch is None:
            raise not_found("such batch")
        jobs = {}
        if batch.finished_at is None:
            jobs = batch_queries.jobs_of_open_batch(connection, batch_id)
        events = event_queries.list_events(connection, EventFilter(batch_id=batch_id), limit=EVENTS)
    return visit.page(
        "batch.html",
        batch=batch,
        jobs=jobs,
        events=event_views(events[::-1]),
        moments=_moments(batch),
        is_held=batch.state == BatchState.HELD,
    )


def resolve(visit: Visit) -> Response:
    """Let a batch on hold continue: search for it at the judge, or submit it again."""
    batch_id = visit.path_id("batch_id", "batch")
    how = visit.form.choice("how", ("search", "resubmit"), "search")
    visit.admin.resolve(batch_id, resubmit=how == "resubmit")
    return visit.redirect(visit.links.to("batches", batch_id), done="resolve")


def _moments(batch: Batch) -> list[Moment]:
    named = [
        ("Planned", batch.created_at),
        ("Accepted by the judge API", batch.submitted_at),
        ("Ended", batch.finished_at),
    ]
    return [Moment(name, at) for name, at in named if at is not None]
