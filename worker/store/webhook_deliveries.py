"""Store notices that a job has ended, for the URL that its producer named.

    waiting -> sent     (the receiver confirmed it)
       |----> failed    (it can never be sent, or its attempts are used up)

A notice is written, with its whole payload, in the transaction that ends its job: sent again, it is
the same. It is claimed like a batch, by a lease with an epoch; see `leases`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from worker.domain.lifecycle import NoticeState, Status
from worker.events import Event
from worker.store.sql_functions import later, now
from worker.store.tables import items, notices
from worker.store.transaction import Transaction

MAX_IN_DELIVERY = 8  # over all replicas: slow receivers must not occupy the worker
NUDGE_AGAIN = 10.0  # seconds before its message counts as lost

JOB_FINISHED = "job.finished"


class EndedJob(NamedTuple):
    """A job that has just ended."""

    id: UUID
    callback_url: str | None
    judge_id: str
    metadata: Any
    finished_at: datetime
    seconds: float | None  # since it was enqueued


def insert_notice(tx: Transaction, job: EndedJob, status: Status) -> None:
    """Insert the waiting notice of a job that has just ended; each end gets a notice of its own."""
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


def nudge_due(tx: Transaction) -> Sequence[UUID]:
    """Return, and mark, notices that are to be sent now, as many as may be in delivery."""
    found = tx.scalars(_DUE).all()
    if not found:
        return ()
    free = max(0, MAX_IN_DELIVERY - int(tx.scalar(_IN_DELIVERY) or 0))
    if chosen := found[:free]:
        tx.execute(_NUDGE, {"notice_ids": chosen})
    return chosen


_nudged_lately = notices.c.nudged_at >= later(sa.literal(-NUDGE_AGAIN))
_DUE = (
    sa.select(notices.c.id)
    .where(notices.c.due_at <= now(), sa.or_(notices.c.nudged_at.is_(None), ~_nudged_lately))
    .order_by(notices.c.due_at)
    .limit(MAX_IN_DELIVERY)
    .with_for_update(skip_locked=True)
)
_IN_DELIVERY = (
    sa.select(sa.func.count())
    .select_from(notices)
    .where(notices.c.due_at.isnot(None), _nudged_lately)
)
_NUDGE = (
    sa.update(notices)
    .where(notices.c.id.in_(sa.bindparam("notice_ids", expanding=True)))
    .values(nudged_at=now())
)


@dataclass(frozen=True, slots=True)
class NoticeClaim:
    """A notice as its holder claimed it."""

    id: UUID
    epoch: int
    attempts: int  # this one included
    job_id: UUID
    url: str
    payload: Any


def claim_notice(
    tx: Transaction, notice_id: UUID, *, holder: str, lease: float
) -> NoticeClaim | None:
    """Claim a waiting notice until the lease ends; None if it is not due.

    The attempt is counted with the claim, so that a notice that kills its senders ends as well.
    """
    given = {"notice_id": notice_id, "holder": holder, "lease": lease}
    row = tx.execute(_CLAIM, given).one_or_none()
    return NoticeClaim(**row._asdict()) if row is not None else None


_CLAIM = (
    sa.update(notices)
    .where(notices.c.id == sa.bindparam("notice_id"), notices.c.due_at <= now())
    .values(
        epoch=notices.c.epoch + 1,
        attempts=notices.c.attempts + 1,
        lease_holder=sa.bindparam("holder"),
        due_at=later(sa.bindparam("lease", type_=sa.Double)),
    )
    .returning(*(notices.c[field.name] for field in fields(NoticeClaim)))
)


def record_sent(tx: Transaction, claim: NoticeClaim) -> bool:
    """waiting -> sent."""
    return _record(tx, claim, _END, Event.NOTICE_SENT, new_state=NoticeState.SENT)


def record_failed(tx: Transaction, claim: NoticeClaim, *, reason: str) -> bool:
    """waiting -> failed, for good."""
    state = NoticeState.FAILED
    return _record(tx, claim, _END, Event.NOTICE_FAILED, reason=reason, new_state=state)


def record_waiting(tx: Transaction, claim: NoticeClaim, *, reason: str, wait: float) -> bool:
    """waiting stays waiting: sent again, with the same id, after `wait` seconds."""
    return _record(tx, claim, _WAIT, Event.NOTICE_WAITS, reason=reason, wait=wait)


def _record(
    tx: Transaction,
    claim: NoticeClaim,
    statement: sa.Update,
    event: Event,
    *,
    reason: str | None = None,
    **given: Any,
) -> bool:
    """End a claim by one of the statements below; False where the holder has lost it."""
    given |= {"claim_id": claim.id, "claim_epoch": claim.epoch, "reason": reason}
    moved = bool(tx.execute(statement, given).rowcount)
    if moved:
        tx.record_event(
            event,
            job_id=claim.job_id,
            notice_id=str(claim.id),
            attempt=claim.attempts,
            reason=reason,
            seconds=round(given["wait"], 1) if "wait" in given else None,
        )
    return moved


_CLAIMED = (
    notices.c.id == sa.bindparam("claim_id"),
    notices.c.epoch == sa.bindparam("claim_epoch"),
    # A second run, after a commit whose response was lost, moves nothing.
    notices.c.lease_holder.isnot(None),
)
_RELEASE = {"lease_holder": sa.null(), "nudged_at": sa.null(), "error": sa.bindparam("reason")}
_END = (
    sa.update(notices)
    .where(*_CLAIMED)
    .values(state=sa.bindparam("new_state"), due_at=sa.null(), finished_at=now(), **_RELEASE)
)
_WAIT = (
    sa.update(notices)
    .where(*_CLAIMED)
    .values(due_at=later(sa.bindparam("wait", type_=sa.Double)), **_RELEASE)
)
