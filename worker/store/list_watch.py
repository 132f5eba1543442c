"""Batches at the remote, all at once, as its list shows them. What is written here is a hint: when
somebody reads the batch itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.domain.lifecycle import BatchState
from worker.store.bulk import UpdateEach
from worker.store.column_types import Id
from worker.store.database import Transaction
from worker.store.sql_functions import later, now, seconds_between
from worker.store.tables import batches, pace

LATEST = 2000  # batches that durations are learnt from


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


def latest_durations(tx: Transaction) -> Sequence[tuple[str, float]]:
    """Judges and seconds until their end was seen, of the latest batches, the last of them last."""
    return [(row.judge_id, row.seconds) for row in tx.execute(_DURATIONS)]


_LATEST = sa.select(batches.c.id).order_by(batches.c.id.desc()).limit(LATEST)
_DURATIONS = (
    sa.select(
        batches.c.judge_id,
        seconds_between(batches.c.submitted_at, batches.c.finished_at).label("seconds"),
    )
    .where(batches.c.id.in_(_LATEST.scalar_subquery()), batches.c.state == BatchState.FINISHED)
    .order_by(batches.c.finished_at)
)

# Nobody reads it at the moment, and it waits for nothing but its time.
_IDLE = sa.and_(_SUBMITTED, batches.c.lease_holder.is_(None), batches.c.gate.is_(None))


def record_seen(
    tx: Transaction,
    *,
    ended: Collection[UUID],
    running: Mapping[UUID, float],
    within: float,
) -> Sequence[UUID]:
    """submitted stays submitted: what has ended by the list is due now, what runs on later.

    Polls that are due `within` so many seconds would tell nothing else, and are put off; each of
    `running` by seconds of its own. Returns the batches that are to be read now.
    """
    waits = [{"batch_id": batch_id, "wait": wait} for batch_id, wait in sorted(running.items())]
    _PUT_OFF.run(tx, waits, within=within)
    return tx.scalars(_MAKE_DUE, {"batch_ids": sorted(ended)}).all() if ended else ()


_MAKE_DUE = (
    sa.update(batches)
    .where(
        batches.c.id.in_(sa.bindparam("batch_ids", expanding=True)),
        _IDLE,
        batches.c.due_at > now(),
    )
    .values(due_at=now(), nudged_at=None)
    .returning(batches.c.id)
)
_PUT_OFF = UpdateEach(
    lambda given: (
        sa.update(batches)
        .where(batches.c.id == given.batch_id, _IDLE, batches.c.due_at < later(given.within))
        .values(due_at=later(given.wait))
    ),
    shared={"within": sa.Double},
    batch_id=Id,
    wait=sa.Double,
)


API = "api"
_IN = later(sa.bindparam("wait", type_=sa.Double))


def claim_watch(tx: Transaction, *, lease: float, at_once: bool = False) -> bool:
    """Takes the next read of the list, until the lease ends; False where it is not due.

    At once: from whoever has it, who may be gone.
    """
    statement = _CLAIM_ON_POSTGRESQL if tx.on_postgresql else _CLAIM_ON_SQLITE
    return tx.scalar(statement, {"scope": API, "wait": lease, "at_once": at_once}) is not None


def _claiming(insert: postgresql.Insert | sqlite.Insert) -> sa.Executable:
    return (
        insert.values(watch_due_at=_IN)
        .on_conflict_do_update(
            index_elements=["scope"],
            set_={"watch_due_at": _IN},
            where=sa.or_(
                pace.c.watch_due_at.is_(None),
                pace.c.watch_due_at <= now(),
                sa.bindparam("at_once", type_=sa.Boolean),
            ),
        )
        .returning(pace.c.scope)
    )


_CLAIM_ON_POSTGRESQL = _claiming(postgresql.insert(pace))


_CLAIM_ON_SQLITE = _claiming(sqlite.insert(pace))


def watch_again(tx: Transaction, *, wait: float) -> None:
    """The list is read again in so many seconds."""
    tx.execute(_WATCH_AGAIN, {"of_scope": API, "wait": wait})


_WATCH_AGAIN = (
    sa.update(pace).where(pace.c.scope == sa.bindparam("of_scope")).values(watch_due_at=_IN)
)
