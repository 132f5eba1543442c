"""Read batches for people: by state, with their history, and the work of each judge."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import BatchState, Status
from worker.store.rows import read_rows, select_rows
from worker.store.sql_functions import later, now, seconds_between
from worker.store.tables import (
    batch_is_held,
    batch_is_live,
    batches,
    events,
    item_is_in_batch,
    item_is_live,
    items,
    jobs,
)

CHUNK_SIZE = 1000  # events that are read at a time


class Batch(NamedTuple):
    """A row of `eval_batches`, with the columns that matter to people."""

    id: UUID
    judge_id: str
    judge_version_id: str | None
    tags: Any
    state: str
    item_count: int
    remote_batch_id: str | None
    remote_status: str | None
    submissions: int
    polls: int
    failures: int
    gate: str | None
    error: str | None
    created_at: datetime
    submitted_at: datetime | None
    due_at: datetime | None
    finished_at: datetime | None
    lease_holder: str | None


class BatchCount(NamedTuple):
    """The open batches of one judge and state."""

    judge_id: str
    state: str
    batches: int
    oldest: float | None  # seconds since the first of them was planned


class EventRow(NamedTuple):
    """A row of `eval_events`."""

    id: int
    at: datetime
    event: str
    job_id: UUID | None
    item_index: int | None
    batch_id: UUID | None
    detail: Any


class JudgeWork(NamedTuple):
    """The inputs of a judge that have not ended."""

    judge_id: str
    jobs: int
    waiting: int
    in_flight: int
    oldest: datetime  # when the first of these jobs was enqueued


class JudgeOutput(NamedTuple):
    """The inputs in batches of a judge that finished recently."""

    judge_id: str
    inputs: int
    since: datetime  # when the first of these batches was submitted


def list_batches(
    connection: sa.Connection,
    *,
    states: Collection[BatchState],
    judge_id: str | None = None,
    job_id: UUID | None = None,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[Batch]:
    """Return batches in one of these states, newest first; of a job, those its inputs are in.

    They are those below `before`, or the ones next above `after`.
    """
    chosen = select_rows(Batch, batches).where(batches.c.state.in_(sorted(states)))
    if judge_id is not None:
        chosen = chosen.where(batches.c.judge_id == judge_id)
    if job_id is not None:
        # First its batches, then these: PostgreSQL would otherwise try each batch of the table.
        own = _batches_of(job_id).distinct().cte("own")
        own = own.prefix_with("MATERIALIZED", dialect="postgresql")
        chosen = chosen.join(own, own.c.batch_id == batches.c.id)
    if after is not None:
        next_above = chosen.where(batches.c.id > after).order_by(batches.c.id).limit(limit)
        return read_rows(connection, Batch, next_above)[::-1]
    if before is not None:
        chosen = chosen.where(batches.c.id < before)
    return read_rows(connection, Batch, chosen.order_by(batches.c.id.desc()).limit(limit))


def find_batch(connection: sa.Connection, batch_id: UUID) -> Batch | None:
    """Return one batch; None if there is no such batch."""
    chosen = select_rows(Batch, batches).where(batches.c.id == batch_id)
    return next(iter(read_rows(connection, Batch, chosen)), None)


def jobs_of_open_batch(connection: sa.Connection, batch_id: UUID) -> dict[UUID, int]:
    """Map the jobs whose inputs are in a batch that has not ended to the number of these."""
    chosen = (
        sa.select(items.c.job_id, sa.func.count())
        .where(item_is_in_batch, items.c.batch_id == batch_id)
        .group_by(items.c.job_id)
        .order_by(items.c.job_id)
    )
    return {row[0]: row[1] for row in connection.execute(chosen)}


def _batches_of(job_id: UUID) -> sa.Select[Any]:
    """Build the ids of the batches of a job, including those that its inputs have left."""
    now_in = sa.select(items.c.batch_id).where(
        items.c.job_id == job_id, items.c.batch_id.isnot(None)
    )
    left = sa.select(events.c.batch_id).where(
        events.c.job_id == job_id, events.c.batch_id.isnot(None)
    )
    return sa.select(now_in.union(left).subquery().c.batch_id)


def open_batch_counts(connection: sa.Connection) -> list[BatchCount]:
    """Count the batches that are live or on hold, by judge and state."""
    return [BatchCount._make(row) for row in connection.execute(_OPEN_BATCHES)]


def _count_batches(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    age = sa.func.max(seconds_between(batches.c.created_at, now()))
    return (
        sa.select(batches.c.judge_id, batches.c.state, sa.func.count(), age)
        .where(condition)
        .group_by(batches.c.judge_id, batches.c.state)
    )


# Two selects, because each condition has a partial index.
_OPEN_BATCHES = _count_batches(batch_is_live).union_all(_count_batches(batch_is_held))


def history_of(connection: sa.Connection, job_id: UUID) -> Iterator[EventRow]:
    """Yield the events of a job, its inputs and its batches, oldest first."""
    # Events of a batch that name another job belong to that job only.
    of_batch = sa.and_(events.c.batch_id.in_(_batches_of(job_id)), events.c.job_id.is_(None))
    chosen = select_rows(EventRow, events).where(sa.or_(events.c.job_id == job_id, of_batch))
    chosen = chosen.order_by(events.c.id).limit(CHUNK_SIZE)
    last = 0
    while chunk := read_rows(connection, EventRow, chosen.where(events.c.id > last)):
        yield from chunk
        last = chunk[-1].id


def work_by_judge(connection: sa.Connection) -> list[JudgeWork]:
    """Return the open work of each judge that has some."""
    per_job = (
        sa.select(
            items.c.job_id,
            sa.func.count().filter(items.c.status == Status.PENDING).label("waiting"),
            sa.func.count().filter(items.c.status == Status.PROCESSING).label("in_flight"),
        )
        .where(item_is_live)
        .group_by(items.c.job_id)
        .subquery()
    )
    chosen = (
        sa.select(
            jobs.c.judge_id,
            sa.func.count(),
            _sum(per_job.c.waiting),
            _sum(per_job.c.in_flight),
            sa.func.min(jobs.c.created_at),
        )
        .join_from(jobs, per_job, per_job.c.job_id == jobs.c.id)
        .group_by(jobs.c.judge_id)
        .order_by(jobs.c.judge_id)
    )
    return read_rows(connection, JudgeWork, chosen)


def recent_output_by_judge(connection: sa.Connection, seconds: float) -> list[JudgeOutput]:
    """Return what each judge finished in the last `seconds`."""
    chosen = (
        sa.select(
            batches.c.judge_id, _sum(batches.c.item_count), sa.func.min(batches.c.submitted_at)
        )
        .where(
            batches.c.state == BatchState.FINISHED,
            batches.c.finished_at > later(sa.literal(-seconds)),
        )
        .group_by(batches.c.judge_id)
    )
    return read_rows(connection, JudgeOutput, chosen)


def _sum(counts: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return sa.cast(sa.func.sum(counts), sa.BigInteger)  # PostgreSQL sums to a decimal
