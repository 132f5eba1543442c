"""Ended jobs are deleted, with all that only they referred to; or their texts alone are.

A function is what one small transaction does. It looks again whether a job may go: nothing open is
touched, nor anything of a batch that has not ended. What was interrupted goes on with the next run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import ENDED
from worker.events import Event
from worker.store import job_completion
from worker.store.database import Transaction
from worker.store.tables import (
    batches,
    events,
    item_is_in_batch,
    item_is_live,
    items,
    jobs,
    notices,
)

AT_ONCE = 1000  # rows of a kind in one transaction

_TEXTS = ("request", "response", "contexts", "functions", "expected_output", "extra")
_HAS_TEXT = sa.or_(*(items.c[name].isnot(None) for name in _TEXTS))


def _may_go(before: datetime) -> sa.ColumnElement[bool]:
    """Of a job: it ended before that time, and everything of it did."""
    of_job = items.c.job_id == jobs.c.id
    live = sa.exists().where(of_job, item_is_live)
    # Cancelled inputs are still what a batch on its way is known by.
    under_way = jobs.c.id.in_(
        sa.select(items.c.job_id)
        .join_from(batches, items, items.c.batch_id == batches.c.id)
        .where(batches.c.finished_at.is_(None), item_is_in_batch)
    )
    untold = sa.exists().where(notices.c.job_id == jobs.c.id, notices.c.due_at.isnot(None))
    ended = sa.and_(jobs.c.status.in_(sorted(ENDED)), jobs.c.finished_at < before)
    return sa.and_(ended, sa.not_(sa.or_(live, under_way, untold)))


def _with_texts() -> sa.ColumnElement[bool]:
    return sa.exists().where(items.c.job_id == jobs.c.id, _HAS_TEXT)


def ended_jobs(
    connection: sa.Connection,
    before: datetime,
    *,
    texts_only: bool,
    after: UUID | None = None,
    limit: int | None = None,
) -> Sequence[Any]:
    """Jobs that may go, from the next `after` one on: id, inputs."""
    inputs = sa.select(sa.func.count()).where(items.c.job_id == jobs.c.id)
    chosen = sa.select(jobs.c.id, inputs.scalar_subquery().label("inputs")).where(_may_go(before))
    if texts_only:
        chosen = chosen.where(_with_texts())
    if after is not None:
        chosen = chosen.where(jobs.c.id > after)
    return connection.execute(chosen.order_by(jobs.c.id).limit(limit)).all()


@dataclass(frozen=True, slots=True)
class Deleted:
    """What one transaction came to; `done` when nothing of these jobs is left."""

    jobs: int
    inputs: int
    events: int
    done: bool


def delete_jobs(tx: Transaction, job_ids: Sequence[UUID], before: datetime) -> Deleted:
    """Some of the rows of these jobs go; the jobs themselves with the last of their rows."""
    going = _still_going(tx, job_ids, before)
    gone_events = _delete_events(tx, events.c.job_id.in_(going))
    gone_items = tx.execute(_some(sa.delete(items), items.c.job_id.in_(going))).rowcount
    done = gone_events < AT_ONCE and gone_items < AT_ONCE
    gone = tx.execute(sa.delete(jobs).where(jobs.c.id.in_(going))).rowcount if done else 0
    return Deleted(gone, gone_items, gone_events, done)


def delete_texts(tx: Transaction, job_ids: Sequence[UUID], before: datetime) -> Deleted:
    """Some of the texts of these jobs go; scores, justifications and reasons stay."""
    going = _still_going(tx, job_ids, before)
    emptying = sa.update(items).values(dict.fromkeys(_TEXTS, sa.null()))
    emptied = tx.execute(_some(emptying, sa.and_(items.c.job_id.in_(going), _HAS_TEXT))).rowcount
    done = emptied < AT_ONCE
    if done:
        for job_id in going:
            tx.record_event(Event.JOB_TEXTS_PRUNED, job_id=job_id)
    return Deleted(len(going) if done else 0, emptied, 0, done)


def _still_going(tx: Transaction, job_ids: Sequence[UUID], before: datetime) -> Sequence[UUID]:
    """First the rows, so that no input can be added meanwhile; then the look."""
    job_completion.lock_jobs(tx, job_ids)
    chosen = sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids), _may_go(before))
    return tx.scalars(chosen.order_by(jobs.c.id)).all()


def _some(change: sa.Delete | sa.Update, which: sa.ColumnElement[bool]) -> Any:
    """The change, of so many items at most."""
    key = (items.c.job_id, items.c.item_index)
    # From the end: what is left of a job that is interrupted here still begins at its beginning.
    last = sa.select(*key).where(which).order_by(*(c.desc() for c in key)).limit(AT_ONCE)
    return change.where(sa.tuple_(*key).in_(last))


def _delete_events(tx: Transaction, which: sa.ColumnElement[bool]) -> int:
    some = sa.select(events.c.id).where(which).limit(AT_ONCE)
    return tx.execute(sa.delete(events).where(events.c.id.in_(some))).rowcount


def unreferenced_batches(connection: sa.Connection, before: datetime) -> Sequence[UUID]:
    """Batches that ended before that time, and that no job refers to by an input or its history.

    Nothing can refer to them again: inputs join a batch when it is made.
    """
    told = sa.exists().where(events.c.batch_id == batches.c.id, events.c.job_id.isnot(None))
    ended = sa.select(batches.c.id).where(batches.c.finished_at < before, sa.not_(told))
    return connection.scalars(
        # As sets: one pass over the inputs, which have no index for this.
        ended.except_(sa.select(items.c.batch_id).where(items.c.batch_id.isnot(None)))
    ).all()


def delete_batches(tx: Transaction, batch_ids: Sequence[UUID]) -> tuple[int, int]:
    """Unreferenced batches go, with their events; returns how many of each."""
    gone_events = tx.execute(sa.delete(events).where(events.c.batch_id.in_(batch_ids))).rowcount
    ended = batches.c.finished_at.isnot(None)
    gone = tx.execute(sa.delete(batches).where(batches.c.id.in_(batch_ids), ended)).rowcount
    return gone, gone_events


def have_lost_texts(tx: Transaction, job_id: UUID) -> bool:
    """Whether the texts of a job were pruned: it cannot be sent again."""
    pruned = sa.select(1).where(events.c.job_id == job_id, events.c.event == Event.JOB_TEXTS_PRUNED)
    return tx.scalar(pruned.limit(1)) is not None


def note(tx: Transaction, before: datetime, *, jobs: int, inputs: int, texts_only: bool) -> None:
    """One line of history for all that is gone."""
    event = Event.JOBS_TEXTS_PRUNED if texts_only else Event.JOBS_PRUNED
    tx.record_event(event, before=before.isoformat(timespec="seconds"), jobs=jobs, inputs=inputs)
