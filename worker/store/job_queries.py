"""How far jobs are, what came out of them, and what waits or is held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import BatchState, NoticeState, Status
from worker.errors import UnknownJob
from worker.store import pauses
from worker.store.tables import batches, gates, item_is_waiting, items, jobs, notices
from worker.store.views import item_results, job_notices, job_progress, scores

READ_AT_ONCE = 1000  # items; results of any size are read in constant memory


def any_work(connection: sa.Connection, *, also_paused: bool = False) -> bool:
    """Whether anything is left to do: a job that is due, an input that waits, a live batch, or a
    notice that was not tried yet; one whose receiver is away may be tried for most of a day.

    What waits behind a pause is left to a person, and only counts if asked for.
    """
    return bool(connection.scalar(_ANY_WORK if also_paused else _WORK_TO_GO_ON_WITH))


_NOT_PAUSED = sa.not_(pauses.is_paused(jobs.c.judge_id))
_UNTOLD = sa.exists().where(
    notices.c.due_at.isnot(None),
    sa.or_(notices.c.attempts == 0, notices.c.lease_holder.isnot(None)),
)
_ANY_WORK = sa.select(
    sa.or_(
        sa.exists().where(jobs.c.due_at.isnot(None)),
        sa.exists().where(batches.c.due_at.isnot(None)),
        sa.exists().where(item_is_waiting),
        _UNTOLD,
    )
)
_WORK_TO_GO_ON_WITH = sa.select(
    sa.or_(
        sa.exists().where(jobs.c.due_at.isnot(None), _NOT_PAUSED),
        sa.exists().where(batches.c.due_at.isnot(None), sa.not_(pauses.is_behind_pause())),
        sa.exists().where(item_is_waiting, items.c.job_id == jobs.c.id, _NOT_PAUSED),
        _UNTOLD,
    )
)


def progress_of(connection: sa.Connection, job_id: UUID) -> sa.Row[Any]:
    """One row of `eval_job_progress`; raises `UnknownJob`."""
    row = connection.execute(
        sa.select(job_progress).where(job_progress.c.job_id == job_id)
    ).one_or_none()
    if row is None:
        raise UnknownJob(job_id)
    return row


def recent_progress(connection: sa.Connection, limit: int) -> Sequence[sa.Row[Any]]:
    """The open jobs and the latest of the others, newest first."""
    latest = sa.select(jobs.c.id).order_by(jobs.c.id.desc()).limit(limit)
    return connection.execute(
        sa.select(job_progress)
        .where(job_progress.c.job_id.in_(latest))
        .order_by(job_progress.c.job_id.desc())
    ).all()


def job_counts(connection: sa.Connection) -> dict[str, int]:
    """How many jobs there are of each status."""
    counted = connection.execute(sa.select(jobs.c.status, sa.func.count()).group_by(jobs.c.status))
    return {row[0]: row[1] for row in counted}


def batch_counts(connection: sa.Connection) -> dict[str, int]:
    """How many live batches there are of each state."""
    counted = connection.execute(
        sa.select(batches.c.state, sa.func.count())
        .where(batches.c.due_at.isnot(None))
        .group_by(batches.c.state)
    )
    return {row[0]: row[1] for row in counted}


def held_batches(connection: sa.Connection) -> Sequence[Any]:
    """Batches that wait for a person: id, judge_id, item_count, remote_batch_id, error."""
    return connection.execute(
        sa.select(
            batches.c.id,
            batches.c.judge_id,
            batches.c.item_count,
            batches.c.remote_batch_id,
            batches.c.error,
        )
        .where(batches.c.state == BatchState.HELD)
        .order_by(batches.c.id)
    ).all()


def notice_counts(connection: sa.Connection) -> dict[str, int]:
    """How many notices there are of each state."""
    counted = connection.execute(
        sa.select(notices.c.state, sa.func.count()).group_by(notices.c.state)
    )
    return {state: count for state, count in counted}  # noqa: C416 (a row is no pair to `dict`)


def failed_notices(connection: sa.Connection, limit: int) -> Sequence[sa.Row[Any]]:
    """The latest that never arrived: notice_id, job_id, attempts, error, finished_at."""
    failed = job_notices.c.state == NoticeState.FAILED
    latest = sa.select(job_notices).where(failed).order_by(job_notices.c.notice_id.desc())
    return connection.execute(latest.limit(limit)).all()


def notices_of(connection: sa.Connection, job_id: UUID) -> Sequence[sa.Row[Any]]:
    """The notices of a job, one for each time it ended."""
    return connection.execute(
        sa.select(job_notices)
        .where(job_notices.c.job_id == job_id)
        .order_by(job_notices.c.notice_id)
    ).all()


def asks_for_notices(connection: sa.Connection) -> bool:
    """Whether a job that has not ended names a URL to be told."""
    asked = sa.exists().where(jobs.c.callback_url.isnot(None), jobs.c.finished_at.is_(None))
    return bool(connection.scalar(sa.select(asked)))


def closed_gates(connection: sa.Connection) -> Sequence[Any]:
    """What waits because the API, or a judge, says no: scope, reason, opens_at, closed_at."""
    return connection.execute(
        sa.select(gates).where(gates.c.closed_at.isnot(None)).order_by(gates.c.scope)
    ).all()


@dataclass(frozen=True, slots=True)
class ItemResult:
    """An item of the results, with the scores of its evaluators."""

    item: sa.Row[Any]
    scores: Sequence[sa.Row[Any]]


def results_of(connection: sa.Connection, job_id: UUID) -> Iterator[ItemResult]:
    """The items of a job in their order, read in chunks."""
    start = 0
    while chunk := connection.execute(
        sa.select(item_results)
        .where(item_results.c.job_id == job_id, item_results.c.item_index >= start)
        .order_by(item_results.c.item_index)
        .limit(READ_AT_ONCE)
    ).all():
        last = chunk[-1].item_index
        by_item: dict[int, list[sa.Row[Any]]] = {}
        for score in connection.execute(
            sa.select(scores).where(
                scores.c.job_id == job_id, scores.c.item_index.between(start, last)
            )
        ):
            by_item.setdefault(score.item_index, []).append(score)
        for item in chunk:
            yield ItemResult(item, by_item.get(item.item_index, []))
        start = last + 1


def mean_scores(connection: sa.Connection, job_id: UUID) -> Sequence[sa.Row[Any]]:
    """Of a job, per evaluator: evaluator_name, mean, scored, unscored."""
    return connection.execute(
        sa.select(
            scores.c.evaluator_name,
            sa.func.avg(scores.c.score).label("mean"),
            sa.func.count(scores.c.score).label("scored"),
            (sa.func.count() - sa.func.count(scores.c.score)).label("unscored"),
        )
        .where(scores.c.job_id == job_id)
        .group_by(scores.c.evaluator_name)
        .order_by(scores.c.evaluator_name)
    ).all()


def failures_of(connection: sa.Connection, job_id: UUID, limit: int) -> Sequence[sa.Row[Any]]:
    """The failed items of a job, first ones first."""
    return connection.execute(
        sa.select(item_results)
        .where(item_results.c.job_id == job_id, item_results.c.status == Status.FAILED)
        .order_by(item_results.c.item_index)
        .limit(limit)
    ).all()
