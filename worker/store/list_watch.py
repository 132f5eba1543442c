"""Store what the list watcher needs: batches at the remote, and when the list is read next.

What is written to a batch here is a hint: when it is to be read itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import BatchState
from worker.store.bulk import BulkUpdate
from worker.store.column_types import Id
from worker.store.rows import read_rows, select_rows
from worker.store.sql_functions import later, now, seconds_between
from worker.store.tables import batch_is_unclaimed, batches, pace
from worker.store.transaction import Transaction

MAX_DURATIONS = 2000  # batches that durations are read from
SCOPE = "api"  # of the row of `eval_pace`


class BatchAtRemote(NamedTuple):
    """A submitted batch."""

    id: UUID
    judge_id: str
    remote_batch_id: str
    submitting_at: datetime
    submitted_at: datetime
    due_at: datetime
    now: datetime  # when it was read

    @property
    def age(self) -> float:
        """Seconds since the remote took it."""
        return (self.now - self.submitted_at).total_seconds()

    @property
    def due_in(self) -> float:
        """Seconds until it is polled."""
        return (self.due_at - self.now).total_seconds()


def batches_at_remote(tx: Transaction) -> list[BatchAtRemote]:
    """Return every submitted batch, except those that somebody is reading now."""
    return read_rows(tx.connection, BatchAtRemote, _AT_REMOTE)


_UNCLAIMED = sa.and_(
    batches.c.due_at.isnot(None), batches.c.state == BatchState.SUBMITTED, batch_is_unclaimed
)
_AT_REMOTE = select_rows(BatchAtRemote, batches, now=now()).where(_UNCLAIMED)


def latest_durations(tx: Transaction) -> Sequence[tuple[str, float]]:
    """Return judge and seconds from submission to end of the latest batches, the last one last."""
    return [(row.judge_id, row.seconds) for row in tx.execute(_DURATIONS)]


_LATEST = sa.select(batches.c.id).order_by(batches.c.id.desc()).limit(MAX_DURATIONS)
_DURATIONS = (
    sa.select(
        batches.c.judge_id,
        seconds_between(batches.c.submitted_at, batches.c.finished_at).label("seconds"),
    )
    .where(batches.c.id.in_(_LATEST.scalar_subquery()), batches.c.state == BatchState.FINISHED)
    .order_by(batches.c.finished_at)
)


def record_snapshot(
    tx: Transaction, *, ended: Collection[UUID], running: Mapping[UUID, float], within: float
) -> Sequence[UUID]:
    """submitted stays submitted: by the list, ended batches are due now and running ones later.

    A poll that is due `within` so many seconds would find nothing new, and is deferred by the
    seconds given for its batch in `running`. Returns the batches that are due now.
    """
    waits = [{"batch_id": batch_id, "wait": wait} for batch_id, wait in sorted(running.items())]
    _DEFER_POLL.run(tx, waits, within=within)
    return tx.scalars(_MAKE_DUE, {"batch_ids": sorted(ended)}).all() if ended else ()


_IDLE = sa.and_(_UNCLAIMED, batches.c.gate.is_(None))  # and not deferred by a gate
_MAKE_DUE = (
    sa.update(batches)
    .where(
        batches.c.id.in_(sa.bindparam("batch_ids", expanding=True)), _IDLE, batches.c.due_at > now()
    )
    .values(due_at=now(), nudged_at=None)
    .returning(batches.c.id)
)
_DEFER_POLL = BulkUpdate(
    lambda given: (
        sa.update(batches)
        .where(batches.c.id == given.batch_id, _IDLE, batches.c.due_at < later(given.within))
        .values(due_at=later(given.wait))
    ),
    shared={"within": sa.Double},
    batch_id=Id,
    wait=sa.Double,
)


def claim_read(tx: Transaction, *, lease: float, immediately: bool = False) -> bool:
    """Claim the next read of the list until the lease ends; False where it is not due.

    `immediately` takes it from the process that has it, which may be gone.
    """
    due_at = {"watch_due_at": later(sa.literal(lease))}
    is_due = sa.or_(pace.c.watch_due_at.is_(None), pace.c.watch_due_at <= now())
    statement = (
        tx.insert(pace)
        .values(scope=SCOPE, **due_at)
        .on_conflict_do_update(
            index_elements=["scope"], set_=due_at, where=None if immediately else is_due
        )
    )
    return tx.scalar(statement.returning(pace.c.scope)) is not None


def schedule_read(tx: Transaction, *, wait: float) -> None:
    """Make the next read of the list due after `wait` seconds."""
    due_at = later(sa.literal(wait))
    tx.execute(sa.update(pace).where(pace.c.scope == SCOPE).values(watch_due_at=due_at))
