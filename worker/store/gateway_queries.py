"""Read jobs for the gateway, each for its owner only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import Status
from worker.store.sql_functions import text_at
from worker.store.tables import batches, evaluator_results, items, jobs
from worker.wire.list_query import ListQuery


class JobRow(NamedTuple):
    id: UUID
    judge_id: str
    judge_version_id: str | None
    tags: list[str]
    status: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class ItemRow(NamedTuple):
    """An input, with when its batch was submitted and the judge version that evaluated it."""

    item_index: int
    status: str
    request: str | None
    response: str | None
    contexts: list[str] | None
    functions: list[dict[str, Any]] | None
    expected_output: str | None
    extra: dict[str, Any] | None
    error: str | None
    execution_log_id: str | None
    finished_at: datetime | None
    submitted_at: datetime | None
    ran_judge_version_id: str | None


class ResultRow(NamedTuple):
    """One evaluator's result for one item."""

    item_index: int
    evaluator_name: str
    score: float | None
    justification: str | None
    evaluator_id: str | None
    evaluator_version_id: str | None
    confidence: float | None
    extra: dict[str, Any] | None


class JobDetail(NamedTuple):
    """A job with its items and their results, both ordered by item index."""

    job: JobRow
    items: Sequence[ItemRow]
    results: Sequence[ResultRow]


class JobSummary(NamedTuple):
    """A job with the counts of its items."""

    job: JobRow
    total: int
    completed: int
    failed: int
    cancelled: int
    ran_judge_version_id: str | None


class KeyedJob(NamedTuple):
    """What tells whether a repeated idempotency key comes with the same submission."""

    id: UUID
    owner: str | None
    metadata: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Which jobs to list; at most one of `before` and `after` is given, each a job's id."""

    owner: str
    query: ListQuery
    before: UUID | None = None
    after: UUID | None = None


_JOB_COLUMNS = [jobs.c[name] for name in JobRow._fields]
_BATCH_COLUMNS = ("submitted_at", "ran_judge_version_id")
_JOB_ITEMS = (
    sa.select(
        *_JOB_COLUMNS,
        *((batches if name in _BATCH_COLUMNS else items).c[name] for name in ItemRow._fields),
    )
    .join_from(jobs, items, items.c.job_id == jobs.c.id)
    .outerjoin(batches, batches.c.id == items.c.batch_id)
    .where(jobs.c.id == sa.bindparam("job_id"), jobs.c.owner == sa.bindparam("owner"))
    .order_by(items.c.item_index)
)
# The outer join yields a row for every job that exists, so that no row means a deleted job.
_JOB_RESULTS = (
    sa.select(*(evaluator_results.c[name] for name in ResultRow._fields))
    .join_from(jobs, evaluator_results, evaluator_results.c.job_id == jobs.c.id, isouter=True)
    .where(jobs.c.id == sa.bindparam("job_id"))
    .order_by(evaluator_results.c.item_index, evaluator_results.c.position)
)
_KEYED_JOB = sa.select(jobs.c.id, jobs.c.owner, jobs.c.metadata).where(
    jobs.c.idempotency_key == sa.bindparam("key")
)


def keyed_job(connection: sa.Connection, key: str) -> KeyedJob | None:
    """Return the job that has this idempotency key."""
    row = connection.execute(_KEYED_JOB, {"key": key}).one_or_none()
    return None if row is None else KeyedJob(*row)


def job_detail(connection: sa.Connection, job_id: UUID, owner: str) -> JobDetail | None:
    """Return the whole job; None if there is none with this id that belongs to this owner.

    Results are read after the items, so that every item that has ended has its results.
    """
    rows = connection.execute(_JOB_ITEMS, {"job_id": job_id, "owner": owner}).all()
    if not rows:
        return None
    width = len(JobRow._fields)
    found = [ItemRow(*row[width:]) for row in rows]
    results: Sequence[ResultRow] | None = ()
    if any(item.finished_at is not None for item in found):
        results = job_results(connection, job_id)
    if results is None:
        return None
    return JobDetail(JobRow(*rows[0][:width]), found, results)


def job_results(connection: sa.Connection, job_id: UUID) -> Sequence[ResultRow] | None:
    """Return every evaluator's result for every item; None if the job was deleted meanwhile."""
    rows = connection.execute(_JOB_RESULTS, {"job_id": job_id}).all()
    return [ResultRow(*row) for row in rows if row.item_index is not None] if rows else None


def job_summaries(connection: sa.Connection, wanted: ExecutionFilter) -> list[JobSummary]:
    """Return jobs, newest first: those below `before`, or the ones next above `after`.

    One more than a page is returned, if there are so many.
    """
    limit = wanted.query.page_size + 1
    chosen = sa.select(jobs.c.id).where(*_conditions(wanted)).limit(limit)
    chosen = chosen.order_by(jobs.c.id if wanted.after else jobs.c.id.desc())
    job_ids = connection.scalars(chosen).all()
    counts = [
        sa.func.count().filter(items.c.status == status)
        for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
    ]
    rows = connection.execute(
        sa.select(
            *_JOB_COLUMNS,
            sa.func.count(items.c.job_id),
            *counts,
            sa.func.max(batches.c.ran_judge_version_id),
        )
        .join_from(jobs, items, items.c.job_id == jobs.c.id, isouter=True)
        .outerjoin(batches, batches.c.id == items.c.batch_id)
        .where(jobs.c.id.in_(job_ids))
        .group_by(jobs.c.id)
        .order_by(jobs.c.id.desc())
    )
    width = len(JobRow._fields)
    return [JobSummary(JobRow(*row[:width]), *row[width:]) for row in rows]


def _conditions(wanted: ExecutionFilter) -> list[sa.ColumnElement[bool]]:
    query, conditions = wanted.query, [jobs.c.owner == wanted.owner]
    if query.judge_id is not None:
        conditions.append(jobs.c.judge_id == query.judge_id)
    if query.status is not None:
        conditions.append(_has_status(query.status))
    if query.date_from is not None:
        conditions.append(jobs.c.created_at >= query.date_from)
    if query.date_to is not None:
        conditions.append(jobs.c.created_at <= query.date_to)
    if query.project_id is not None:
        conditions.append(text_at(jobs.c.metadata, "project_id") == query.project_id)
    if wanted.before is not None:
        conditions.append(jobs.c.id < wanted.before)
    if wanted.after is not None:
        conditions.append(jobs.c.id > wanted.after)
    return conditions


def _has_status(status: str) -> sa.ColumnElement[bool]:
    """Translate: to the API a cancelled job is partial, or failed if nothing was evaluated."""
    evaluated = sa.exists(
        sa.select(1).where(items.c.job_id == jobs.c.id, items.c.status == Status.COMPLETED)
    )
    cancelled = jobs.c.status == Status.CANCELLED
    if status == "partial":
        return sa.and_(cancelled, evaluated)
    if status == "failed":
        return sa.or_(jobs.c.status == Status.FAILED, sa.and_(cancelled, ~evaluated))
    return jobs.c.status == status
