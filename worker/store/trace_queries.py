"""Read which traces of producers a batch or a job belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.store.tables import item_is_in_flight, items, jobs

MAX_LINKS = 128  # of one span, as OpenTelemetry limits them


class TracedJob(NamedTuple):
    trace_context: str
    judge_id: str


def contexts_of_batch(connection: sa.Connection, batch_id: UUID) -> Sequence[str]:
    """Return the distinct trace contexts of the jobs whose items are in this batch."""
    return connection.scalars(_OF_BATCH, {"of_batch": batch_id}).all()


_OF_BATCH = (
    sa.select(jobs.c.trace_context)
    .distinct()
    .join_from(items, jobs, jobs.c.id == items.c.job_id)
    .where(
        items.c.batch_id == sa.bindparam("of_batch"),
        item_is_in_flight,
        jobs.c.trace_context.isnot(None),
    )
    .limit(MAX_LINKS)
)


def traced_job(connection: sa.Connection, job_id: UUID) -> TracedJob | None:
    """Return a job if it has a trace context."""
    row = connection.execute(_OF_JOB, {"of_job": job_id}).one_or_none()
    return None if row is None else TracedJob._make(row)


_OF_JOB = sa.select(jobs.c.trace_context, jobs.c.judge_id).where(
    jobs.c.id == sa.bindparam("of_job"), jobs.c.trace_context.isnot(None)
)
