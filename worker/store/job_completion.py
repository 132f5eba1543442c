"""End items, and the jobs of which they were the last; wake jobs whose items wait again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import Status, job_status_at_end
from worker.events import Event
from worker.store import score_rollup
from worker.store.bulk import BulkUpdate
from worker.store.column_types import Id, Json
from worker.store.sql_functions import among, later, now, seconds_between, text_at
from worker.store.tables import item_is_in_flight, item_is_live, item_is_waiting, items, jobs
from worker.store.transaction import Transaction
from worker.store.webhook_deliveries import EndedJob, insert_notice

EMPTY_JOB_GRACE = 10.0  # seconds in which a producer without a transaction may add the items
MAX_JOBS = 1000  # in one statement

_OPEN = among(jobs.c.status, (Status.PENDING, Status.PROCESSING))
_OF_JOB = items.c.job_id == jobs.c.id


def end_finished_jobs(tx: Transaction, job_ids: Collection[UUID]) -> None:
    """pending, processing -> completed, failed or cancelled, where no item is left to end.

    The caller has ended its items. A due job is left to the planner, which waits for this
    transaction: its row is only locked against ending, so that its batches do not wait for one
    another. The last batches of a job check one after the other, so that the second sees what the
    first recorded.
    """
    still_due = tx.scalars(_KEEP_DUE_JOBS, {"job_ids": sorted(job_ids)}).all()
    candidates = set(job_ids) - set(still_due)
    if candidates:
        lock_jobs(tx, candidates)
        _end_jobs_without_live_items(tx, candidates)


_KEEP_DUE_JOBS = (
    sa.select(jobs.c.id)
    .where(jobs.c.id.in_(sa.bindparam("job_ids", expanding=True)), jobs.c.due_at.isnot(None), _OPEN)
    .order_by(jobs.c.id)
    .with_for_update(key_share=True, read=True)
)


def lock_jobs(tx: Transaction, job_ids: Collection[UUID]) -> None:
    """Lock the rows of these jobs, in the same order everywhere, so that there is no deadlock.

    Call it after the rows of items are written, and late: until the commit, no other batch of these
    jobs can end.
    """
    tx.execute(_LOCK_JOBS, {"job_ids": sorted(job_ids)})


_LOCK_JOBS = (
    sa.select(jobs.c.id)
    .where(jobs.c.id.in_(sa.bindparam("job_ids", expanding=True)))
    .order_by(jobs.c.id)
    .with_for_update()
)


def _end_jobs_without_live_items(tx: Transaction, job_ids: Collection[UUID]) -> None:
    """pending, processing -> ended; the caller has locked the jobs' rows."""
    ended = tx.scalars(_ALL_ENDED, {"job_ids": sorted(job_ids)}).all()
    if not ended:
        return
    counts = tx.execute(_COUNTED, {"job_ids": ended}).all()
    for row in counts:
        status = job_status_at_end(completed=row.completed, failed=row.failed)
        error = None
        if status is Status.FAILED:
            error = f"none of {row.failed} inputs could be evaluated; one reason: {row.error}"
        _end_job(tx, row.job_id, status, error, completed=row.completed, failed=row.failed)
    if scored := [row.job_id for row in counts if row.completed]:
        score_rollup.write(tx, scored)


def _count(status: Status) -> sa.ColumnElement[int]:
    return sa.func.count().filter(items.c.status == status)


# One read of the index of live items per job. The ORDER BY keeps PostgreSQL from reading the table
# instead, whose first rows are those that have ended.
_LIVE_ITEM = (
    sa.select(items.c.item_index)
    .where(_OF_JOB, item_is_live)
    .order_by(items.c.item_index)
    .limit(1)
    .scalar_subquery()
)
_ALL_ENDED = sa.select(jobs.c.id).where(
    jobs.c.id.in_(sa.bindparam("job_ids", expanding=True)), _OPEN, _LIVE_ITEM.is_(None)
)
_COUNTED = (
    sa.select(
        items.c.job_id,
        _count(Status.COMPLETED).label("completed"),
        _count(Status.FAILED).label("failed"),
        sa.func.min(items.c.error).filter(items.c.status == Status.FAILED).label("error"),
    )
    .where(items.c.job_id.in_(sa.bindparam("job_ids", expanding=True)))
    .group_by(items.c.job_id)
)


def end_job(
    tx: Transaction, job_id: UUID, status: Status, error: str | None = None, **counts: int
) -> None:
    """pending, processing -> `status`, with the sums of its scores."""
    if _end_job(tx, job_id, status, error, **counts):
        score_rollup.write(tx, [job_id])


def _end_job(
    tx: Transaction, job_id: UUID, status: Status, error: str | None = None, **counts: int
) -> bool:
    """pending, processing -> `status`, with a notice where the producer asked for one.

    The caller sums up the scores if the job ended, and if there may be any.
    """
    ended = tx.execute(_END_JOB, {"of_job": job_id, "status": status, "error": error})
    row = ended.one_or_none()
    if row is None:
        return False
    job = EndedJob(*row)
    took = None if job.seconds is None else round(job.seconds, 3)
    tx.record_event(
        _EVENT_AT_END[status], job_id=job_id, error=error, counts=counts or None, seconds=took
    )
    if job.callback_url is not None:
        insert_notice(tx, job, status)
    return True


_EVENT_AT_END = {
    Status.COMPLETED: Event.JOB_COMPLETED,
    Status.FAILED: Event.JOB_FAILED,
    Status.CANCELLED: Event.JOB_CANCELLED,
}
_END_JOB = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("of_job"), _OPEN)
    .values(due_at=None, finished_at=now())
    .returning(
        jobs.c.id,
        jobs.c.callback_url,
        jobs.c.judge_id,
        jobs.c.metadata,
        jobs.c.finished_at,
        seconds_between(jobs.c.created_at, jobs.c.finished_at).label("seconds"),
    )
)


def settle_idle_jobs(tx: Transaction, lane: str) -> None:
    """Put due jobs of a lane that have no due item to sleep until one is due, or end them.

    A job without any input fails, once its producer had a moment to add some. Jobs whose rows are
    locked by a batch that records its results are left for the next turn.
    """
    idle = tx.scalars(_IDLE, {"of_lane": lane}).all()
    if not idle:
        return
    for job in tx.execute(_STATE_OF, {"job_ids": idle}).all():
        if job.has_items:
            tx.execute(sa.update(jobs).where(jobs.c.id == job.id).values(due_at=_NEXT_DUE))
        elif job.had_time:
            _end_job(tx, job.id, Status.FAILED, "the job has no inputs")
    _end_jobs_without_live_items(tx, idle)


_NEXT_DUE = sa.select(sa.func.min(items.c.due_at)).where(_OF_JOB, item_is_waiting).scalar_subquery()
_HAS_ITEMS = sa.exists(sa.select(1).where(items.c.job_id == jobs.c.id))
_IDLE = (
    sa.select(jobs.c.id)
    .where(
        jobs.c.lane == sa.bindparam("of_lane"),
        jobs.c.due_at <= now(),
        ~sa.exists(sa.select(1).where(_OF_JOB, item_is_waiting, items.c.due_at <= now())),
    )
    .limit(MAX_JOBS)
    .with_for_update(skip_locked=True)
)
_STATE_OF = sa.select(
    jobs.c.id,
    _HAS_ITEMS.label("has_items"),
    (jobs.c.created_at < later(sa.literal(-EMPTY_JOB_GRACE))).label("had_time"),
).where(jobs.c.id.in_(sa.bindparam("job_ids", expanding=True)))


def fail_lane(tx: Transaction, lane: str, reason: str) -> None:
    """pending, processing -> failed, for all due jobs of a lane whose judge or tags are invalid."""
    job_ids = tx.scalars(
        sa.select(jobs.c.id).where(jobs.c.lane == lane, jobs.c.due_at <= now()).limit(MAX_JOBS)
    ).all()
    fail_waiting_items(tx, job_ids, reason)
    for job_id in job_ids:
        _end_job(tx, job_id, Status.FAILED, reason)
    if job_ids:
        score_rollup.write(tx, job_ids)


def fail_waiting_items(tx: Transaction, job_ids: Sequence[UUID], reason: str) -> None:
    """pending -> failed, for every waiting item of these jobs."""
    tx.execute(
        sa.update(items)
        .where(items.c.job_id.in_(job_ids), item_is_waiting)
        .values(status=Status.FAILED, error=reason, finished_at=now())
    )


def complete_items(tx: Transaction, batch_id: UUID, log_ids: Mapping[int, str]) -> int:
    """processing -> completed, for all items of a batch that are still in flight.

    `log_ids` are those of their execution logs, by index in the batch. Returns how many completed:
    those that were cancelled meanwhile stay so.
    """
    given = {"of_batch": batch_id, "log_ids": log_ids or None}
    return tx.execute(_COMPLETE_ITEMS, given).rowcount


_COMPLETE_ITEMS = (
    sa.update(items)
    .where(items.c.batch_id == sa.bindparam("of_batch"), item_is_in_flight)
    .values(
        status=Status.COMPLETED,
        attempts=items.c.attempts + 1,
        error=None,
        execution_log_id=text_at(
            sa.bindparam("log_ids", type_=Json), sa.cast(items.c.batch_index, sa.Text)
        ),
        finished_at=now(),
    )
)


class ItemFailure(NamedTuple):
    """Why an item failed, by its index in its batch."""

    of_index: int
    new_error: str
    log_id: str | None = None


def fail_items(
    tx: Transaction, batch_id: UUID, failures: Sequence[ItemFailure], *, spent: int = 1
) -> None:
    """processing -> failed, with so many attempts more."""
    _FAIL_ITEM.run(tx, [item._asdict() for item in failures], of_batch=batch_id, spent=spent)


def retry_items(
    tx: Transaction,
    batch_id: UUID,
    failed: Sequence[dict[str, Any]],
    *,
    job_ids: Collection[UUID],
    spent: int,
) -> None:
    """processing -> pending, with so many attempts more: to be sent again in a later batch.

    Keys of `failed`: of_index (in the batch), new_error, wait (seconds). The jobs are due again
    when the first of these items is.
    """
    if failed:
        _RETRY_ITEM.run(tx, failed, of_batch=batch_id, spent=spent)
        wake_jobs(tx, job_ids)


def _in_flight(given: Any) -> sa.ColumnElement[bool]:
    """Build the condition for the item at an index of the batch, if it has not ended."""
    return sa.and_(
        items.c.batch_id == given.of_batch, items.c.batch_index == given.of_index, item_is_in_flight
    )


_FAIL_ITEM = BulkUpdate(
    lambda given: (
        sa.update(items)
        .where(_in_flight(given))
        .values(
            status=Status.FAILED,
            attempts=items.c.attempts + given.spent,
            error=given.new_error,
            execution_log_id=given.log_id,
            finished_at=now(),
        )
    ),
    shared={"of_batch": Id, "spent": sa.Integer},
    of_index=sa.Integer,
    new_error=sa.Text,
    log_id=sa.Text,
)
_RETRY_ITEM = BulkUpdate(
    lambda given: (
        sa.update(items)
        .where(_in_flight(given))
        .values(
            status=Status.PENDING,
            attempts=items.c.attempts + given.spent,
            error=given.new_error,
            due_at=later(given.wait),
        )
    ),
    shared={"of_batch": Id, "spent": sa.Integer},
    of_index=sa.Integer,
    new_error=sa.Text,
    wait=sa.Double,
)


def wake_jobs(tx: Transaction, job_ids: Collection[UUID]) -> None:
    """Make these jobs due when the first of their waiting items is."""
    tx.execute(_WAKE_JOBS, {"job_ids": sorted(job_ids)})


_WAKE_JOBS = (
    sa.update(jobs)
    .where(
        jobs.c.id.in_(sa.bindparam("job_ids", expanding=True)),
        sa.or_(jobs.c.due_at.is_(None), jobs.c.due_at > now()),
    )
    .values(due_at=_NEXT_DUE)
)


def wake_stray_jobs(tx: Transaction) -> None:
    """Make jobs due whose items wait although nothing would plan them.

    A producer that does not use a transaction can add items after their job was planned, or has
    ended. Nothing that is committed may be forgotten.
    """
    for job_id in tx.scalars(_STRAYS).all():
        moved = tx.execute(
            sa.update(jobs)
            .where(jobs.c.id == job_id, jobs.c.due_at.is_(None))
            .values(
                due_at=now(),
                finished_at=None,
                error=None,
                status=sa.case((_OPEN, jobs.c.status), else_=Status.PROCESSING),
            )
        )
        if moved.rowcount:
            score_rollup.delete(tx, [job_id])
            tx.record_event(Event.JOB_REOPENED, job_id=job_id, reason="inputs were added to it")


_STRAYS = (
    sa.select(items.c.job_id)
    .distinct()
    .join_from(items, jobs, _OF_JOB)
    .where(item_is_waiting, jobs.c.due_at.is_(None))
    .limit(MAX_JOBS)
)
