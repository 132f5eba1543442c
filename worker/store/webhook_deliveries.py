"""Notices that a job has ended, to the URL that its producer named.

    waiting -> sent     (the receiver answered that it has it)
       |----> failed    (it can never be sent, or was tried often enough)

A notice is written in the transaction that ends its job, with all that it says: sent again, it is
the same. It is claimed as a batch is, by a lease with an epoch; see `claims`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from worker.domain.lifecycle import NoticeState, Status
from worker.events import Event
from worker.store.database import Transaction
from worker.store.sql_functions import later, now
from worker.store.tables import items, notices

AT_ONCE = 8  # on their way, over all replicas: slow receivers must not take up the worker
NUDGE_AGAIN = 10.0  # seconds before its message counts as lost

JOB_FINISHED = "job.finished"


def write(tx: Transaction, job: sa.Row[Any], status: Status) -> None:
    """Adds the waiting notice of a job that has just ended; it has a new id each time it does."""
    counts = dict.fromkeys(("total", Status.COMPLETED, Status.FAILED, Status.CANCELLED), 0)
    for item_status, count in tx.execute(_COUNTS, {"of_job": job.id}):
        counts[item_status] = count
        counts["total"] += count
    payload = {
        "type": JOB_FINISHED,
        "timestamp": job.finished_at.astimezone(UTC).isoformat(),
        "data": {
            "job_id": str(job.id),
            "judge_id": job.judge_id,
            "status": status,
            "counts": counts,
            "metadata": job.metadata,
        },
    }
    given = {"id": uuid7(), "job_id": job.id, "url": job.callback_url, "payload": payload}
    tx.execute(_INSERT, given)


_COUNTS = (
    sa.select(items.c.status, sa.func.count())
    .where(items.c.job_id == sa.bindparam("of_job"))
    .group_by(items.c.status)
)
_INSERT = sa.insert(notices).values(state=NoticeState.WAITING, due_at=now(), created_at=now())


def due(tx: Transaction) -> Sequence[UUID]:
    """Notices that are to be sent now, as many as may be on their way; a message goes to each."""
    found = tx.scalars(_DUE).all()
    if not found:
        return ()
    free = max(0, AT_ONCE - int(tx.scalar(_ON_THEIR_WAY) or 0))
    if chosen := found[:free]:
        tx.execute(_NUDGE, {"notice_ids": chosen})
    return chosen


_lately = notices.c.nudged_at >= later(sa.literal(-NUDGE_AGAIN))
_DUE = (
    sa.select(notices.c.id)
    .where(notices.c.due_at <= now(), sa.or_(notices.c.nudged_at.is_(None), ~_lately))
    .order_by(notices.c.due_at)
    .limit(AT_ONCE)
    .with_for_update(skip_locked=True)
)
_ON_THEIR_WAY = (
    sa.select(sa.func.count()).select_from(notices).where(notices.c.due_at.isnot(None), _lately)
)
_NUDGE = (
    sa.update(notices)
    .where(notices.c.id.in_(sa.bindparam("notice_ids", expanding=True)))
    .values(nudged_at=now())
)


@dataclass(frozen=True, slots=True)
class Held:
    """What a holder knows of its notice, as of the claim."""

    id: UUID
    epoch: int
    attempts: int  # this one included
    job_id: UUID
    url: str
    payload: Any


def claim(tx: Transaction, notice_id: UUID, *, holder: str, lease: float) -> Held | None:
    """Takes a waiting notice that is due, until the lease ends; None if there is none.

    The attempt is counted at once: what kills each process that sends it comes to an end, too.
    """
    given = {"notice_id": notice_id, "holder": holder, "lease": lease}
    row = tx.execute(_CLAIM, given).one_or_none()
    return Held(**row._mapping) if row is not None else None


_CLAIM = (
    sa.update(notices)
    .where(notices.c.id == sa.bindparam("notice_id"), notices.c.due_at <= now())
    .values(
        epoch=notices.c.epoch + 1,
        attempts=notices.c.attempts + 1,
        lease_holder=sa.bindparam("holder"),
        due_at=later(sa.bindparam("lease", type_=sa.Double)),
    )
    .returning(
        notices.c.id,
        notices.c.epoch,
        notices.c.attempts,
        notices.c.job_id,
        notices.c.url,
        notices.c.payload,
    )
)


def record_sent(tx: Transaction, held: Held) -> bool:
    """waiting -> sent."""
    moved = _end(tx, held, NoticeState.SENT, None)
    if moved:
        _record_event(tx, held, Event.NOTICE_SENT)
    return moved


def record_failed(tx: Transaction, held: Held, *, reason: str) -> bool:
    """waiting -> failed, for good."""
    moved = _end(tx, held, NoticeState.FAILED, reason)
    if moved:
        _record_event(tx, held, Event.NOTICE_FAILED, reason=reason)
    return moved


def record_waiting(tx: Transaction, held: Held, *, reason: str, wait: float) -> bool:
    """waiting stays waiting: sent again, under the same id, after `wait` seconds."""
    given = {**_fence(held), "reason": reason, "wait": wait}
    moved = bool(tx.execute(_WAIT, given).rowcount)
    if moved:
        _record_event(tx, held, Event.NOTICE_WAITS, reason=reason, seconds=round(wait, 1))
    return moved


def _end(tx: Transaction, held: Held, state: NoticeState, reason: str | None) -> bool:
    given = {**_fence(held), "new_state": state, "reason": reason}
    return bool(tx.execute(_END, given).rowcount)


def _fence(held: Held) -> dict[str, Any]:
    return {"held_id": held.id, "held_epoch": held.epoch}


def _record_event(tx: Transaction, held: Held, event: Event, **detail: Any) -> None:
    tx.record_event(
        event, job_id=held.job_id, notice_id=str(held.id), attempt=held.attempts, **detail
    )


_HELD = (
    notices.c.id == sa.bindparam("held_id"),
    notices.c.epoch == sa.bindparam("held_epoch"),
    notices.c.lease_holder.isnot(None),  # run again after a lost commit: moves nothing
)
_LET_GO = {"lease_holder": sa.null(), "nudged_at": sa.null(), "error": sa.bindparam("reason")}
_END = (
    sa.update(notices)
    .where(*_HELD)
    .values(state=sa.bindparam("new_state"), due_at=sa.null(), finished_at=now(), **_LET_GO)
)
_WAIT = (
    sa.update(notices)
    .where(*_HELD)
    .values(due_at=later(sa.bindparam("wait", type_=sa.Double)), **_LET_GO)
)
