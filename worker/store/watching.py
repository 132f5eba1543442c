"""Batches at the remote, all at once, as its list shows them. What is written here is a hint: when
somebody reads the batch itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from worker.lifecycle import BatchState
from worker.schema import batches, later, now

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from worker.store.database import Transaction


def at_remote(tx: Transaction) -> Sequence[Any]:
    """Submitted batches: id, judge_id, remote_batch_id, submitting_at, submitted_at, moment."""
    return tx.execute(_AT_REMOTE).all()


_SUBMITTED = sa.and_(batches.c.due_at.isnot(None), batches.c.state == BatchState.SUBMITTED)
_AT_REMOTE = sa.select(
    batches.c.id,
    batches.c.judge_id,
    batches.c.remote_batch_id,
    batches.c.submitting_at,
    batches.c.submitted_at,
    now().label("moment"),
).where(_SUBMITTED)

# Nobody reads it at the moment, and it waits for nothing but its time.
_IDLE = sa.and_(
    _SUBMITTED,
    batches.c.id.in_(sa.bindparam("batch_ids", expanding=True)),
    batches.c.lease_holder.is_(None),
    batches.c.gate.is_(None),
)


def record_seen(
    tx: Transaction,
    *,
    ended: Collection[UUID],
    running: Collection[UUID],
    put_off_by: float,
    within: float,
) -> Sequence[UUID]:
    """submitted stays submitted: what has ended by the list is due now, what runs on later.

    Polls that are due `within` so many seconds would tell nothing else, and are put off. Returns
    the batches that are to be read now.
    """
    if running:
        given = {"batch_ids": sorted(running), "wait": put_off_by, "within": within}
        tx.execute(_PUT_OFF, given)
    return tx.scalars(_MAKE_DUE, {"batch_ids": sorted(ended)}).all() if ended else ()


_MAKE_DUE = (
    sa.update(batches)
    .where(_IDLE, batches.c.due_at > now())
    .values(due_at=now(), nudged_at=None)
    .returning(batches.c.id)
)
_PUT_OFF = (
    sa.update(batches)
    .where(_IDLE, batches.c.due_at < later(sa.bindparam("within", type_=sa.Double)))
    .values(due_at=later(sa.bindparam("wait", type_=sa.Double)))
)
