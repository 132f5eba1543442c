"""Change jobs at a person's command: cancel and retry."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import ENDED, BatchState, Status
from worker.errors import NotPossible, UnknownJob
from worker.events import Event
from worker.store import expired_rows, job_completion, planning, score_rollup
from worker.store.sql_functions import now
from worker.store.tables import batches, evaluator_results, events, item_is_live, items, jobs
from worker.store.transaction import Transaction


def cancel(tx: Transaction, job_id: UUID) -> int:
    """pending, processing -> cancelled, for the job and all of its items that have not ended.

    Batches that are at the remote cannot be stopped; the results of cancelled items are dropped.
    Returns the number of cancelled items; raises `UnknownJob`.
    """
    _lock_planning(tx, job_id)
    moved = tx.execute(
        sa.update(items)
        .where(items.c.job_id == job_id, item_is_live)
        .values(status=Status.CANCELLED, finished_at=now())
    )
    job_completion.lock_jobs(tx, [job_id])
    job_completion.end_job(tx, job_id, Status.CANCELLED, items=moved.rowcount)
    return moved.rowcount


def count_dropped(tx: Transaction, job_id: UUID) -> int:
    """Count the cancelled inputs that the remote evaluates, or may evaluate, all the same."""
    return _count_in_open_batches(tx, job_id, batches.c.state != BatchState.PLANNED)


def _count_in_open_batches(
    tx: Transaction, job_id: UUID, *conditions: sa.ColumnElement[bool]
) -> int:
    """Count the cancelled inputs in batches that have not ended."""
    counted = (
        sa.select(sa.func.count())
        .join_from(items, batches, batches.c.id == items.c.batch_id)
        .where(
            items.c.job_id == job_id,
            items.c.status == Status.CANCELLED,
            items.c.batch_index.isnot(None),
            batches.c.finished_at.is_(None),
            *conditions,
        )
    )
    return int(tx.scalar(counted) or 0)


def retry(
    tx: Transaction,
    job_id: UUID,
    *,
    everything: bool = False,
    item_index: int | None = None,
    error: str | None = None,
) -> int:
    """failed -> pending, for every failed item of a job; its attempts are counted from 0 again.

    With `everything`, this includes all items that have ended; with `item_index`, only that one;
    with `error`, only items that failed for this reason.
    Their earlier results are deleted. Returns the number of items; raises `UnknownJob` or
    `NotPossible`.
    """
    _lock_planning(tx, job_id)
    chosen = [items.c.job_id == job_id, items.c.status == Status.FAILED]
    if everything or item_index is not None:
        chosen[1] = items.c.status.in_(sorted(ENDED))
    if item_index is not None:
        chosen.append(items.c.item_index == item_index)
    if error is not None:
        chosen.append(items.c.error == error)
    _check_retry(tx, job_id, everything=everything, item_index=item_index)
    _record_superseded_batches(tx, chosen)
    moved = tx.execute(
        sa.update(items)
        .where(*chosen)
        .values(status=Status.PENDING, attempts=0, due_at=now(), **_UNDONE)
    )
    if moved.rowcount:
        if everything or item_index is not None:
            _delete_results_of_waiting(tx, job_id)
        _reopen(tx, job_id)
        tx.record_event(
            Event.JOB_RETRY,
            job_id=job_id,
            item_index=item_index,
            items=moved.rowcount,
            reason=error,
        )
    return moved.rowcount


_UNDONE = dict.fromkeys(
    ("error", "finished_at", "execution_log_id", "batch_id", "batch_index"), sa.null()
)


def _check_retry(
    tx: Transaction, job_id: UUID, *, everything: bool, item_index: int | None
) -> None:
    if expired_rows.have_lost_texts(tx, job_id):
        raise NotPossible(f"the texts of job {job_id} were pruned: it cannot be sent again")
    which = [items.c.item_index == item_index] if item_index is not None else []
    if everything or item_index is not None:
        under_way = _count_in_open_batches(tx, job_id, *which)
        if under_way:  # a search may yet have to identify the batch by these inputs
            raise NotPossible(
                f"{under_way} cancelled input{'s' * (under_way != 1)} of job {job_id} still "
                "belong to a batch that has not ended: retry when it has "
                f"(`evalworker batches --job {job_id}`)"
            )
    if item_index is None:
        return
    status = tx.scalar(sa.select(items.c.status).where(items.c.job_id == job_id, *which))
    if status is None:
        raise NotPossible(f"job {job_id} has no input {item_index}")
    if status not in ENDED:
        raise NotPossible(f"input {item_index} of job {job_id} has not ended: it is {status}")


def _record_superseded_batches(tx: Transaction, chosen: Sequence[sa.ColumnElement[bool]]) -> None:
    """Keep batches in the job's history from which evaluated items are about to be removed."""
    left = sa.select(items.c.job_id, items.c.batch_id).distinct()
    left = left.where(*chosen, items.c.status != Status.FAILED, items.c.batch_id.isnot(None))
    of = left.subquery()
    rows = sa.select(now(), sa.literal(Event.BATCH_SUPERSEDED, sa.Text), of.c.job_id, of.c.batch_id)
    tx.execute(sa.insert(events).from_select(["at", "event", "job_id", "batch_id"], rows))


def _delete_results_of_waiting(tx: Transaction, job_id: UUID) -> None:
    """Delete the results of items that have just become pending.

    Call it after their rows are locked, so that no other transaction can end them.
    """
    waiting = sa.select(items.c.item_index).where(
        items.c.job_id == job_id, items.c.status == Status.PENDING
    )
    tx.execute(
        sa.delete(evaluator_results).where(
            evaluator_results.c.job_id == job_id, evaluator_results.c.item_index.in_(waiting)
        )
    )


def _reopen(tx: Transaction, job_id: UUID) -> None:
    """completed, failed, cancelled -> processing; due now."""
    tx.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            status=sa.case(
                (jobs.c.status.in_(sorted(ENDED)), Status.PROCESSING), else_=jobs.c.status
            ),
            due_at=now(),
            finished_at=None,
            error=None,
        )
    )
    score_rollup.delete(tx, [job_id])  # late: whoever is just writing them has the lock


def _lock_planning(tx: Transaction, job_id: UUID) -> None:
    """Keep the planner waiting until this transaction ends; raises `UnknownJob`."""
    planning.lock_planning(tx, wait=True)
    if tx.scalar(sa.select(jobs.c.id).where(jobs.c.id == job_id)) is None:
        raise UnknownJob(job_id)
