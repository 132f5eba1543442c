"""Read the history by page, newest first: all of it, or of a job, an input, a batch, or people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from worker.store.batch_queries import EventRow
from worker.store.rows import read_rows, select_rows
from worker.store.sql_functions import text_at
from worker.store.tables import events


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events; None: any. `by_people` are those whose detail names an actor."""

    event: str | None = None
    job_id: UUID | None = None
    item_index: int | None = None
    batch_id: UUID | None = None
    by_people: bool = False


def list_events(
    connection: sa.Connection,
    wanted: EventFilter,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int,
) -> list[EventRow]:
    """Return events, newest first: those below `before`, or the ones next above `after`."""
    chosen = select_rows(EventRow, events).where(*_conditions(wanted)).limit(limit)
    if after is not None:
        next_above = chosen.where(events.c.id > after).order_by(events.c.id)
        return read_rows(connection, EventRow, next_above)[::-1]
    if before is not None:
        chosen = chosen.where(events.c.id < before)
    return read_rows(connection, EventRow, chosen.order_by(events.c.id.desc()))


def _conditions(wanted: EventFilter) -> Iterator[sa.ColumnElement[bool]]:
    if wanted.event is not None:
        yield events.c.event == wanted.event
    if wanted.job_id is not None:
        yield events.c.job_id == wanted.job_id
    if wanted.item_index is not None:
        yield events.c.item_index == wanted.item_index
    if wanted.batch_id is not None:
        yield events.c.batch_id == wanted.batch_id
    if wanted.by_people:
        yield text_at(events.c.detail, "actor").isnot(None)
