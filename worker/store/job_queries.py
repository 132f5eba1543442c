"""Read jobs for people: their progress, results and notices, and what waits or is on hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import BatchState, NoticeState, Status
from worker.errors import UnknownJob
from worker.store import pauses
from worker.store.rows import read_rows, select_rows
from worker.store.score_functions import mean_if_addable
from worker.store.tables import (
    batch_is_held,
    batch_is_live,
    batches,
    gates,
    item_is_waiting,
    items,
    jobs,
    notices,
)
from worker.store.views import item_results, job_notices, job_progress, scores

CHUNK_SIZE = 1000  # items that are read at a time, so that results of any size need little memory


class JobProgress(NamedTuple):
    """A row of `eval_job_progress`."""

    job_id: UUID
    judge_id: str
    judge_version_id: str | None
    tags: Any
    metadata: Any
    status: str
    total: int
    waiting: int
    in_flight: int
    completed: int
    failed: int
    cancelled: int
    created_at: datetime
    finished_at: datetime | None
    error: str | None


class Item(NamedTuple):
    """A row of `eval_item_results`."""

    job_id: UUID
    item_index: int
    status: str
    request: str | None
    response: str | None
    expected_output: str | None
    attempts: int
    error: str | None
    batch_id: UUID | None
    remote_batch_id: str | None
    execution_log_id: str | None
    finished_at: datetime | None
    metadata: Any


class Score(NamedTuple):
    """A row of `eval_scores`."""

    job_id: UUID
    item_index: int
    judge_id: str
    judge_version_id: str | None
    tags: Any
    evaluator_name: str
    score: float | None
    justification: str | None
    confidence: float | None
    finished_at: datetime | None


class ItemResult(NamedTuple):
    """An input of a job with the scores of its evaluators."""

    item: Item
    scores: Sequence[Score]


class MeanScore(NamedTuple):
    """What an evaluator gave the inputs of a job."""

    evaluator_name: str
    mean: float | None
    scored: int
    unscored: int


class Notice(NamedTuple):
    """A row of `eval_job_notices`."""

    job_id: UUID
    notice_id: UUID
    state: str
    attempts: int
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class HeldBatch(NamedTuple):
    """A batch that is on hold until a person resolves it."""

    id: UUID
    judge_id: str
    item_count: int
    remote_batch_id: str | None
    error: str | None


class BatchInDoubt(NamedTuple):
    """A batch whose submission had no usable response: the remote is searched for it."""

    id: UUID
    judge_id: str
    item_count: int
    submissions: int
    due_at: datetime
    error: str | None


class ClosedGate(NamedTuple):
    """A row of `eval_gates` behind which work waits."""

    scope: str
    opens_at: datetime
    probing_until: datetime | None
    failures: int
    reason: str
    closed_at: datetime
    refused_at: datetime | None


def is_drained(connection: sa.Connection, *, include_paused: bool = False) -> bool:
    """Return whether nothing is left to do.

    Left to do is a due job, a waiting input, a live batch, or a notice without a first attempt.
    Further attempts do not count, as they may go on for a day. Paused work waits for a person: it
    counts only with `include_paused`.
    """
    return not connection.scalar(_ANY_WORK if include_paused else _WORK_WITHOUT_PAUSED)


_IS_NOT_PAUSED = sa.not_(pauses.is_paused(jobs.c.judge_id))
_NOTICE_TO_SEND = sa.exists().where(
    notices.c.due_at.isnot(None),
    sa.or_(notices.c.attempts == 0, notices.c.lease_holder.isnot(None)),
)
_ANY_WORK = sa.select(
    sa.or_(
        sa.exists().where(jobs.c.due_at.isnot(None)),
        sa.exists().where(batch_is_live),
        sa.exists().where(item_is_waiting),
        _NOTICE_TO_SEND,
    )
)
_WORK_WITHOUT_PAUSED = sa.select(
    sa.or_(
        sa.exists().where(jobs.c.due_at.isnot(None), _IS_NOT_PAUSED),
        sa.exists().where(batch_is_live, sa.not_(pauses.is_behind_pause())),
        sa.exists().where(item_is_waiting, items.c.job_id == jobs.c.id, _IS_NOT_PAUSED),
        _NOTICE_TO_SEND,
    )
)


def progress_of(connection: sa.Connection, job_id: UUID) -> JobProgress:
    """Return the progress of a job; raises `UnknownJob`."""
    chosen = select_rows(JobProgress, job_progress).where(job_progress.c.job_id == job_id)
    if not (found := read_rows(connection, JobProgress, chosen)):
        raise UnknownJob(job_id)
    return found[0]


def recent_progress(connection: sa.Connection, limit: int) -> list[JobProgress]:
    """Return the progress of the newest jobs, newest first."""
    newest = sa.select(jobs.c.id).order_by(jobs.c.id.desc()).limit(limit)
    chosen = select_rows(JobProgress, job_progress).where(job_progress.c.job_id.in_(newest))
    return read_rows(connection, JobProgress, chosen.order_by(job_progress.c.job_id.desc()))


def job_counts(connection: sa.Connection) -> dict[str, int]:
    """Return the number of jobs by status."""
    return _counts_by(connection, jobs.c.status)


def notice_counts(connection: sa.Connection) -> dict[str, int]:
    """Return the number of notices by state."""
    return _counts_by(connection, notices.c.state)


def _counts_by(connection: sa.Connection, column: sa.Column[Any]) -> dict[str, int]:
    rows = connection.execute(sa.select(column, sa.func.count()).group_by(column))
    return {value: count for value, count in rows}  # noqa: C416 (a row is no pair to `dict`)


def held_batches(connection: sa.Connection) -> list[HeldBatch]:
    """Return the batches on hold, oldest first."""
    chosen = select_rows(HeldBatch, batches).where(batch_is_held).order_by(batches.c.id)
    return read_rows(connection, HeldBatch, chosen)


def batches_in_doubt(connection: sa.Connection) -> list[BatchInDoubt]:
    """Return the batches that are searched for, oldest first."""
    chosen = select_rows(BatchInDoubt, batches).where(
        batch_is_live, batches.c.state == BatchState.UNKNOWN
    )
    return read_rows(connection, BatchInDoubt, chosen.order_by(batches.c.id))


def failed_notices(connection: sa.Connection, limit: int) -> list[Notice]:
    """Return the notices that failed, newest first."""
    chosen = select_rows(Notice, job_notices).where(job_notices.c.state == NoticeState.FAILED)
    newest = chosen.order_by(job_notices.c.notice_id.desc()).limit(limit)
    return read_rows(connection, Notice, newest)


def notices_of(connection: sa.Connection, job_id: UUID) -> list[Notice]:
    """Return the notices of a job, one for each time it ended, oldest first."""
    chosen = select_rows(Notice, job_notices).where(job_notices.c.job_id == job_id)
    return read_rows(connection, Notice, chosen.order_by(job_notices.c.notice_id))


def asks_for_notices(connection: sa.Connection, *, failed_with: str) -> bool:
    """Return whether a job will have a notice, or one waits or has failed with this error."""
    asked = sa.exists().where(jobs.c.callback_url.isnot(None), jobs.c.finished_at.is_(None))
    waits = sa.exists().where(job_notices.c.state == NoticeState.WAITING)
    failed = sa.exists().where(
        job_notices.c.state == NoticeState.FAILED, job_notices.c.error == failed_with
    )
    return bool(connection.scalar(sa.select(sa.or_(asked, waits, failed))))


def closed_gates(connection: sa.Connection) -> list[ClosedGate]:
    """Return the gates that are closed because the API refuses requests."""
    chosen = select_rows(ClosedGate, gates).where(gates.c.closed_at.isnot(None))
    return read_rows(connection, ClosedGate, chosen.order_by(gates.c.scope))


def results_of(connection: sa.Connection, job_id: UUID) -> Iterator[ItemResult]:
    """Yield the results of a job in the order of its inputs, reading them in chunks."""
    start = 0
    chosen = select_rows(Item, item_results).where(item_results.c.job_id == job_id)
    chosen = chosen.order_by(item_results.c.item_index).limit(CHUNK_SIZE)
    while chunk := read_rows(connection, Item, chosen.where(item_results.c.item_index >= start)):
        last = chunk[-1].item_index
        in_chunk = scores.c.item_index.between(start, last)
        by_item: dict[int, list[Score]] = {}
        for score in read_rows(
            connection, Score, select_rows(Score, scores).where(scores.c.job_id == job_id, in_chunk)
        ):
            by_item.setdefault(score.item_index, []).append(score)
        for item in chunk:
            yield ItemResult(item, by_item.get(item.item_index, []))
        start = last + 1


def mean_scores(connection: sa.Connection, job_id: UUID) -> list[MeanScore]:
    """Return the mean score of each evaluator of a job."""
    scored = sa.func.count(scores.c.score)
    chosen = (
        sa.select(
            scores.c.evaluator_name,
            mean_if_addable(scores.c.score),
            scored,
            sa.func.count() - scored,
        )
        .where(scores.c.job_id == job_id)
        .group_by(scores.c.evaluator_name)
        .order_by(scores.c.evaluator_name)
    )
    return read_rows(connection, MeanScore, chosen)


def failures_of(connection: sa.Connection, job_id: UUID, limit: int) -> list[Item]:
    """Return the first failed inputs of a job."""
    chosen = select_rows(Item, item_results).where(
        item_results.c.job_id == job_id, item_results.c.status == Status.FAILED
    )
    return read_rows(connection, Item, chosen.order_by(item_results.c.item_index).limit(limit))
