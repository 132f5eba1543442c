"""Jobs as the gateway shows them, each to its owner alone: as the API's batch executions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import Status
from worker.store.driver import Ask, Often
from worker.store.sql_functions import text_at
from worker.store.tables import batches, evaluator_results, items, jobs

_JOB = (
    jobs.c.id,
    jobs.c.judge_id,
    jobs.c.judge_version_id,
    jobs.c.tags,
    jobs.c.status,
    jobs.c.created_at,
    jobs.c.started_at,
    jobs.c.finished_at,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to list; `before` and `after` are ids, of which one at most is given."""

    owner: str
    limit: int
    judge_id: str | None = None
    status: str | None = None  # the API's word
    date_from: datetime | None = None
    date_to: datetime | None = None
    project_id: str | None = None
    before: UUID | None = None
    after: UUID | None = None


async def with_key(ask: Ask, key: str) -> Any | None:
    """The job that has this idempotency key: its id, owner, and what was noted with it."""
    found = await ask(_WITH_KEY, {"of_key": key})
    return found[0] if found else None


_WITH_KEY = Often(
    sa.select(jobs.c.id, jobs.c.owner, jobs.c.metadata).where(
        jobs.c.idempotency_key == sa.bindparam("of_key")
    )
)


async def rows_of(ask: Ask, job_id: UUID, owner: str) -> Sequence[Any]:
    """A row for each item, in order, each with its job and batch; none if it is not the owner's."""
    return await ask(_ROWS, {"of_job": job_id, "of_owner": owner})


_ROWS = Often(
    sa.select(
        *_JOB,
        items.c.item_index,
        items.c.status.label("item_status"),
        items.c.request,
        items.c.response,
        items.c.contexts,
        items.c.functions,
        items.c.expected_output,
        items.c.extra,
        items.c.error,
        items.c.execution_log_id,
        items.c.finished_at.label("item_finished_at"),
        batches.c.submitted_at,
        batches.c.ran_judge_version_id,
    )
    .join_from(jobs, items, items.c.job_id == jobs.c.id)
    .outerjoin(batches, batches.c.id == items.c.batch_id)
    .where(jobs.c.id == sa.bindparam("of_job"), jobs.c.owner == sa.bindparam("of_owner"))
    .order_by(items.c.item_index)
)


async def results_of(ask: Ask, job_id: UUID) -> Sequence[Any]:
    """Every evaluator's verdict on every item, in order."""
    return await ask(_RESULTS, {"of_job": job_id})


_RESULTS = Often(
    sa.select(evaluator_results)
    .where(evaluator_results.c.job_id == sa.bindparam("of_job"))
    .order_by(evaluator_results.c.item_index, evaluator_results.c.position)
)


async def is_there(ask: Ask, job_id: UUID) -> bool:
    """Whether the job still exists."""
    return bool(await ask(_THERE, {"of_job": job_id}))


_THERE = Often(sa.select(jobs.c.id).where(jobs.c.id == sa.bindparam("of_job")))


def page(connection: sa.Connection, wanted: Wanted) -> Sequence[Any]:
    """Jobs without their items but with their counts: newest first, from below `before`.

    With `after`, the jobs next above it, still newest first.
    """
    chosen = sa.select(jobs.c.id).where(*_conditions(wanted))
    chosen = chosen.order_by(jobs.c.id if wanted.after else jobs.c.id.desc()).limit(wanted.limit)
    return heads(connection, connection.scalars(chosen).all())


def heads(connection: sa.Connection, job_ids: Iterable[UUID]) -> Sequence[Any]:
    """Newest first: the job, total, completed, failed, cancelled, and the version that ran."""
    counts = [
        sa.func.count().filter(items.c.status == status).label(status)
        for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
    ]
    ran = sa.func.max(batches.c.ran_judge_version_id).label("ran_judge_version_id")
    return connection.execute(
        sa.select(*_JOB, sa.func.count(items.c.job_id).label("total"), *counts, ran)
        .join_from(jobs, items, items.c.job_id == jobs.c.id, isouter=True)
        .outerjoin(batches, batches.c.id == items.c.batch_id)
        .where(jobs.c.id.in_(list(job_ids)))
        .group_by(jobs.c.id)
        .order_by(jobs.c.id.desc())
    ).all()


def _conditions(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    found = [jobs.c.owner == wanted.owner]
    if wanted.judge_id is not None:
        found.append(jobs.c.judge_id == wanted.judge_id)
    if wanted.status is not None:
        found.append(_has_status(wanted.status))
    if wanted.date_from is not None:
        found.append(jobs.c.created_at >= wanted.date_from)
    if wanted.date_to is not None:
        found.append(jobs.c.created_at <= wanted.date_to)
    if wanted.project_id is not None:
        found.append(text_at(jobs.c.metadata, "project_id") == wanted.project_id)
    if wanted.before is not None:
        found.append(jobs.c.id < wanted.before)
    if wanted.after is not None:
        found.append(jobs.c.id > wanted.after)
    return found


def _has_status(word: str) -> sa.ColumnElement[bool]:
    """The API has no word for a cancelled job: partial, or failed where nothing was evaluated."""
    evaluated = sa.exists(
        sa.select(1).where(items.c.job_id == jobs.c.id, items.c.status == Status.COMPLETED)
    )
    cancelled = jobs.c.status == Status.CANCELLED
    if word == "partial":
        return sa.and_(cancelled, evaluated)
    if word == "failed":
        return sa.or_(jobs.c.status == Status.FAILED, sa.and_(cancelled, ~evaluated))
    return jobs.c.status == word
