"""Read lists of jobs by page and by filter, within limits whatever the size of the tables."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from worker.store.affected_inputs import Affected, has_inputs
from worker.store.job_queries import JobProgress, MeanScore
from worker.store.rows import read_rows, select_rows
from worker.store.score_functions import mean_if_addable
from worker.store.sql_functions import has_element, has_pair
from worker.store.tables import job_scores, jobs
from worker.store.views import job_progress, scores


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; None: any. `metadata` is a name and its value as text.

    `affected`: only jobs with inputs that an action would change, which failed for the reason
    `error` if there is one.
    """

    status: str | None = None
    judge_id: str | None = None
    tag: str | None = None
    metadata: tuple[str, str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    affected: Affected | None = None
    error: str | None = None


def list_job_ids(
    connection: sa.Connection,
    wanted: JobFilter,
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[UUID]:
    """Return ids of jobs, newest first: those below `before`, or the ones next above `after`."""
    chosen = sa.select(jobs.c.id).where(*_conditions(wanted)).limit(limit)
    if after is not None:
        next_above = chosen.where(jobs.c.id > after).order_by(jobs.c.id)
        return list(connection.scalars(next_above))[::-1]
    if before is not None:
        chosen = chosen.where(jobs.c.id < before)
    return list(connection.scalars(chosen.order_by(jobs.c.id.desc())))


def count_jobs(connection: sa.Connection, wanted: JobFilter, *, limit: int) -> int:
    """Count matching jobs, but no further than one more than `limit`."""
    found = sa.select(jobs.c.id).where(*_conditions(wanted)).limit(limit + 1).subquery()
    return connection.scalar(sa.select(sa.func.count()).select_from(found)) or 0


def previous_job(connection: sa.Connection, job_id: UUID) -> UUID | None:
    """Return the latest earlier job of the same judge and tags; None if there is none."""
    own = jobs.alias()
    earlier = (
        sa.select(jobs.c.id)
        .join(own, sa.and_(own.c.judge_id == jobs.c.judge_id, own.c.tags == jobs.c.tags))
        .where(own.c.id == job_id, jobs.c.id < job_id)
    )
    return connection.scalar(earlier.order_by(jobs.c.id.desc()).limit(1))


def progress_by_id(connection: sa.Connection, job_ids: Collection[UUID]) -> dict[UUID, JobProgress]:
    """Return the progress of these jobs, as far as they exist."""
    chosen = select_rows(JobProgress, job_progress).where(job_progress.c.job_id.in_(job_ids))
    return {row.job_id: row for row in read_rows(connection, JobProgress, chosen)}


def means_by_job(
    connection: sa.Connection, job_ids: Collection[UUID]
) -> dict[UUID, list[MeanScore]]:
    """Return the mean score of each evaluator of each of these jobs.

    Jobs that have ended are looked up in the roll-up; only the others' scores are read.
    """
    found = _means_of(connection, _rolled_up_means(job_ids))
    others = [job_id for job_id in job_ids if job_id not in found]
    return found | (_means_of(connection, _live_means(others)) if others else {})


def _means_of(connection: sa.Connection, statement: sa.Select[Any]) -> dict[UUID, list[MeanScore]]:
    found: dict[UUID, list[MeanScore]] = {}
    for job_id, *mean in connection.execute(statement):
        found.setdefault(job_id, []).append(MeanScore(*mean))
    return found


def _rolled_up_means(job_ids: Collection[UUID]) -> sa.Select[Any]:
    scored = sa.cast(sa.func.sum(job_scores.c.scored), sa.BigInteger)
    return (
        sa.select(
            job_scores.c.job_id,
            job_scores.c.evaluator_name,
            sa.func.sum(job_scores.c.sum) / sa.func.nullif(scored, 0),
            scored,
            sa.cast(sa.func.sum(job_scores.c.unscored), sa.BigInteger),
        )
        .where(job_scores.c.job_id.in_(job_ids))
        .group_by(job_scores.c.job_id, job_scores.c.evaluator_name)
        .order_by(job_scores.c.evaluator_name)
    )


def _live_means(job_ids: Collection[UUID]) -> sa.Select[Any]:
    scored = sa.func.count(scores.c.score)
    return (
        sa.select(
            scores.c.job_id,
            scores.c.evaluator_name,
            mean_if_addable(scores.c.score),
            scored,
            sa.func.count() - scored,
        )
        .where(scores.c.job_id.in_(job_ids))
        .group_by(scores.c.job_id, scores.c.evaluator_name)
        .order_by(scores.c.evaluator_name)
    )


def _conditions(wanted: JobFilter) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.status is not None:
        conditions.append(jobs.c.status == wanted.status)
    if wanted.judge_id is not None:
        conditions.append(jobs.c.judge_id == wanted.judge_id)
    if wanted.tag is not None:
        conditions.append(has_element(jobs.c.tags, wanted.tag))
    if wanted.metadata is not None:
        conditions.append(has_pair(jobs.c.metadata, *wanted.metadata))
    if wanted.since is not None:
        conditions.append(jobs.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(jobs.c.created_at < wanted.until)
    if wanted.affected is not None:
        conditions.append(has_inputs(wanted.affected, error=wanted.error))
    return conditions
