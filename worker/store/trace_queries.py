"""Which traces of producers a batch, or a job, belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from worker.store.tables import item_is_in_flight, items, jobs

MOST = 128  # links of one span, as OpenTelemetry limits them


def of_batch(connection: sa.Connection, batch_id: UUID) -> Sequence[str]:
    """The trace contexts of the jobs whose items are in this batch, each once."""
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
    .limit(MOST)
)


def of_job(connection: sa.Connection, job_id: UUID) -> Any:
    """trace_context and judge_id of a job that is traced; else None."""
    return connection.execute(_OF_JOB, {"of_job": job_id}).one_or_none()


_OF_JOB = sa.select(jobs.c.trace_context, jobs.c.judge_id).where(
    jobs.c.id == sa.bindparam("of_job"), jobs.c.trace_context.isnot(None)
)
