"""What people look at beyond single jobs: batches by state, histories, the work of each judge."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import BatchState, Status
from worker.store.sql_functions import later
from worker.store.tables import batches, events, item_is_live, items, jobs

READ_AT_ONCE = 1000  # events

_SHOWN = [
    batches.c[name]
    for name in (
        *("id", "judge_id", "judge_version_id", "tags", "state", "item_count", "remote_batch_id"),
        *("remote_status", "submissions", "polls", "failures", "gate", "error"),
        *("created_at", "submitted_at", "due_at", "finished_at", "lease_holder"),
    )
]


def list_batches(
    connection: sa.Connection,
    *,
    states: Collection[BatchState],
    judge_id: str | None = None,
    job_id: UUID | None = None,
    limit: int,
) -> Sequence[Any]:
    """Batches in one of these states, the newest first; of a job: those its inputs are in now."""
    chosen = sa.select(*_SHOWN).where(batches.c.state.in_(sorted(states)))
    if judge_id is not None:
        chosen = chosen.where(batches.c.judge_id == judge_id)
    if job_id is not None:
        chosen = chosen.where(batches.c.id.in_(_batches_of(job_id)))
    return connection.execute(chosen.order_by(batches.c.id.desc()).limit(limit)).all()


def count_batches(connection: sa.Connection, states: Collection[BatchState]) -> int:
    counted = sa.select(sa.func.count()).where(batches.c.state.in_(sorted(states)))
    return int(connection.scalar(counted) or 0)


def _batches_of(job_id: UUID) -> sa.Select[Any]:
    return sa.select(items.c.batch_id).where(items.c.job_id == job_id, items.c.batch_id.isnot(None))


def history_of(connection: sa.Connection, job_id: UUID) -> Iterator[Any]:
    """The events of a job, its inputs and its batches, also those that it has left; oldest first.

    Columns: id, at, event, job_id, item_index, batch_id, detail.
    """
    left = sa.select(events.c.batch_id).where(
        events.c.job_id == job_id, events.c.batch_id.isnot(None)
    )
    own = _batches_of(job_id).union(left).subquery()
    # What a batch tells of other jobs that it also carries is theirs.
    of_batch = sa.and_(events.c.batch_id.in_(sa.select(own.c.batch_id)), events.c.job_id.is_(None))
    last = 0
    while chunk := connection.execute(
        sa.select(events)
        .where(sa.or_(events.c.job_id == job_id, of_batch), events.c.id > last)
        .order_by(events.c.id)
        .limit(READ_AT_ONCE)
    ).all():
        yield from chunk
        last = chunk[-1].id


def waiting_by_judge(connection: sa.Connection) -> Sequence[Any]:
    """Of each judge with open jobs: judge_id, jobs, waiting, in_flight, and since when (oldest)."""
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
    return connection.execute(
        sa.select(
            jobs.c.judge_id,
            sa.func.count().label("jobs"),
            _sum(per_job.c.waiting).label("waiting"),
            _sum(per_job.c.in_flight).label("in_flight"),
            sa.func.min(jobs.c.created_at).label("oldest"),
        )
        .join_from(jobs, per_job, per_job.c.job_id == jobs.c.id)
        .group_by(jobs.c.judge_id)
        .order_by(jobs.c.judge_id)
    ).all()


def batches_by_judge(connection: sa.Connection) -> Sequence[Any]:
    """Live and held batches: judge_id, state, batches."""
    return connection.execute(
        sa.select(batches.c.judge_id, batches.c.state, sa.func.count().label("batches"))
        .where(sa.or_(batches.c.due_at.isnot(None), batches.c.state == BatchState.HELD))
        .group_by(batches.c.judge_id, batches.c.state)
        .order_by(batches.c.judge_id, batches.c.state)
    ).all()


def ended_lately(connection: sa.Connection, seconds: float) -> Sequence[Any]:
    """What came back in the last so many seconds: judge_id, inputs, and since when it was there."""
    return connection.execute(
        sa.select(
            batches.c.judge_id,
            _sum(batches.c.item_count).label("inputs"),
            sa.func.min(batches.c.submitted_at).label("since"),
        )
        .where(
            batches.c.state == BatchState.FINISHED,
            batches.c.finished_at > later(sa.literal(-seconds)),
        )
        .group_by(batches.c.judge_id)
    ).all()


def _sum(counts: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return sa.cast(sa.func.sum(counts), sa.BigInteger)  # PostgreSQL makes a decimal of it
