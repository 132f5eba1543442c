"""Delete jobs that ended long ago with all that only they refer to, or only their texts.

Each function that deletes is one small transaction. It checks again that a job has expired, so that
neither open jobs nor batches that have not ended are touched. An interrupted run can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import ENDED
from worker.events import Event
from worker.store import job_completion, score_rollup
from worker.store.rows import read_rows
from worker.store.tables import (
    batches,
    events,
    item_is_in_batch,
    item_is_live,
    items,
    jobs,
    notices,
)
from worker.store.transaction import Transaction

MAX_ROWS = 1000  # of each table in one transaction

_TEXTS = ("request", "response", "contexts", "functions", "expected_output", "extra")
_HAS_TEXT = sa.or_(*(items.c[name].isnot(None) for name in _TEXTS))


class ExpiredJob(NamedTuple):
    id: UUID
    inputs: int  # how many it has


class Deletion(NamedTuple):
    """What one transaction deleted; `done` if nothing of these jobs is left."""

    jobs: int
    inputs: int
    events: int
    done: bool


def _is_expired(before: datetime) -> sa.ColumnElement[bool]:
    """Build the condition that a job and everything that belongs to it ended before that time."""
    live = sa.exists().where(items.c.job_id == jobs.c.id, item_is_live)
    # A search identifies a batch by its inputs, cancelled ones included.
    in_open_batch = jobs.c.id.in_(
        sa.select(items.c.job_id)
        .join_from(batches, items, items.c.batch_id == batches.c.id)
        .where(batches.c.finished_at.is_(None), item_is_in_batch)
    )
    unsent_notice = sa.exists().where(notices.c.job_id == jobs.c.id, notices.c.due_at.isnot(None))
    ended = sa.and_(jobs.c.status.in_(sorted(ENDED)), jobs.c.finished_at < before)
    return sa.and_(ended, sa.not_(sa.or_(live, in_open_batch, unsent_notice)))


def expired_jobs(
    connection: sa.Connection,
    before: datetime,
    *,
    texts_only: bool,
    after: UUID | None = None,
    limit: int | None = None,
) -> list[ExpiredJob]:
    """Return the jobs that ended before that time, by id, from the first one after `after`."""
    inputs = sa.select(sa.func.count()).where(items.c.job_id == jobs.c.id)
    chosen = sa.select(jobs.c.id, inputs.scalar_subquery().label("inputs")).where(
        _is_expired(before)
    )
    if texts_only:
        chosen = chosen.where(sa.exists().where(items.c.job_id == jobs.c.id, _HAS_TEXT))
    if after is not None:
        chosen = chosen.where(jobs.c.id > after)
    return read_rows(connection, ExpiredJob, chosen.order_by(jobs.c.id).limit(limit))


def delete_jobs(tx: Transaction, job_ids: Sequence[UUID], before: datetime) -> Deletion:
    """Delete up to `MAX_ROWS` inputs and events of these jobs, and at last the jobs."""
    expired = _lock_expired(tx, job_ids, before)
    score_rollup.delete(tx, expired)
    deleted_events = _delete_events(tx, events.c.job_id.in_(expired))
    deleted_items = tx.execute(_last_items(sa.delete(items), items.c.job_id.in_(expired))).rowcount
    done = deleted_events < MAX_ROWS and deleted_items < MAX_ROWS
    if not done:
        return Deletion(0, deleted_items, deleted_events, done)
    deleted_jobs = tx.execute(sa.delete(jobs).where(jobs.c.id.in_(expired))).rowcount
    return Deletion(deleted_jobs, deleted_items, deleted_events, done)


def delete_texts(tx: Transaction, job_ids: Sequence[UUID], before: datetime) -> Deletion:
    """Delete the texts of up to `MAX_ROWS` inputs; scores, justifications and errors stay."""
    expired = _lock_expired(tx, job_ids, before)
    update = sa.update(items).values(dict.fromkeys(_TEXTS, sa.null()))
    emptied = tx.execute(
        _last_items(update, sa.and_(items.c.job_id.in_(expired), _HAS_TEXT))
    ).rowcount
    done = emptied < MAX_ROWS
    if done:
        for job_id in expired:
            tx.record_event(Event.JOB_TEXTS_PRUNED, job_id=job_id)
    return Deletion(len(expired) if done else 0, emptied, 0, done)


def _lock_expired(tx: Transaction, job_ids: Sequence[UUID], before: datetime) -> Sequence[UUID]:
    """Lock these jobs, so that no input can be added, and return those that have expired."""
    job_completion.lock_jobs(tx, job_ids)
    chosen = sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids), _is_expired(before))
    return tx.scalars(chosen.order_by(jobs.c.id)).all()


def _last_items(change: sa.Delete | sa.Update, condition: sa.ColumnElement[bool]) -> Any:
    """Restrict a change to `MAX_ROWS` of the items that meet the condition."""
    key = (items.c.job_id, items.c.item_index)
    # From the end, so that the first inputs of a job are left if this is interrupted.
    last = sa.select(*key).where(condition).order_by(*(c.desc() for c in key)).limit(MAX_ROWS)
    return change.where(sa.tuple_(*key).in_(last))


def _delete_events(tx: Transaction, condition: sa.ColumnElement[bool]) -> int:
    chosen = sa.select(events.c.id).where(condition).limit(MAX_ROWS)
    return tx.execute(sa.delete(events).where(events.c.id.in_(chosen))).rowcount


def unreferenced_batches(connection: sa.Connection, before: datetime) -> Sequence[UUID]:
    """Return batches that ended before that time, and that no input and no job's history names.

    None can name them later, because inputs join a batch only when it is created.
    """
    in_history = sa.exists().where(events.c.batch_id == batches.c.id, events.c.job_id.isnot(None))
    ended = sa.select(batches.c.id).where(batches.c.finished_at < before, sa.not_(in_history))
    return connection.scalars(
        # As a difference of sets: one pass over the inputs, which have no index for this.
        ended.except_(sa.select(items.c.batch_id).where(items.c.batch_id.isnot(None)))
    ).all()


def delete_batches(tx: Transaction, batch_ids: Sequence[UUID]) -> tuple[int, int]:
    """Delete unreferenced batches with their events; return how many of each."""
    deleted_events = tx.execute(sa.delete(events).where(events.c.batch_id.in_(batch_ids))).rowcount
    ended = batches.c.finished_at.isnot(None)
    deleted = tx.execute(sa.delete(batches).where(batches.c.id.in_(batch_ids), ended)).rowcount
    return deleted, deleted_events


def have_lost_texts(tx: Transaction, job_id: UUID) -> bool:
    """Return whether the texts of a job were pruned, so that it cannot be sent again."""
    pruned = sa.select(1).where(events.c.job_id == job_id, events.c.event == Event.JOB_TEXTS_PRUNED)
    return tx.scalar(pruned.limit(1)) is not None


def record_prune(
    tx: Transaction, before: datetime, *, jobs: int, inputs: int, texts_only: bool
) -> None:
    """Record one event about everything that a prune deleted."""
    event = Event.JOBS_TEXTS_PRUNED if texts_only else Event.JOBS_PRUNED
    tx.record_event(event, before=before.isoformat(timespec="seconds"), jobs=jobs, inputs=inputs)
