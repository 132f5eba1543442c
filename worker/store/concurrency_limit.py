"""Limit the batches in flight over all replicas; the limit is lowered when the API throttles."""

from __future__ import annotations

import sqlalchemy as sa

from worker.domain.concurrency import DECREASE_FACTOR, DECREASE_INTERVAL, in_flight_allowed
from worker.domain.lifecycle import BatchState
from worker.events import Event
from worker.store.sql_functions import later, now
from worker.store.tables import batches, pace
from worker.store.transaction import Transaction

SCOPE = "api"  # of the row of `eval_pace`


def allowed_in_flight(tx: Transaction | sa.Connection, ceiling: int) -> int:
    """Return how many batches may be at the remote now: `ceiling`, or less after a throttle."""
    row = tx.execute(_LIMIT).one_or_none()
    if row is None:
        return ceiling
    since = (row.now - row.limited_at).total_seconds()
    return in_flight_allowed(ceiling, row.in_flight_limit, since)


_LIMIT = sa.select(pace.c.in_flight_limit, pace.c.limited_at, now().label("now")).where(
    pace.c.in_flight_limit.isnot(None)
)


def lower_limit(tx: Transaction) -> None:
    """Lower the limit below the batches that are running: the remote refused one more.

    Refusals come in swarms that mean one thing. The first lowers the limit, and for a moment the
    others only correct it upwards, as it came while accepted batches were not recorded yet.
    """
    running = int(tx.scalar(_RUNNING) or 0)
    limit = max(1.0, running * DECREASE_FACTOR)
    lowered = {"in_flight_limit": limit, "limited_at": now()}
    is_first = sa.or_(
        pace.c.limited_at.is_(None), pace.c.limited_at < later(sa.literal(-DECREASE_INTERVAL))
    )
    statement = (
        tx.insert(pace)
        .values(scope=SCOPE, **lowered)
        .on_conflict_do_update(index_elements=["scope"], set_=lowered, where=is_first)
    )
    if tx.scalar(statement.returning(pace.c.scope)):
        tx.record_event(Event.PACE_LOWERED, in_flight=round(limit))
    else:
        tx.execute(
            sa.update(pace)
            .where(pace.c.scope == SCOPE, pace.c.in_flight_limit < limit)
            .values(in_flight_limit=limit)
        )


_RUNNING = (
    sa.select(sa.func.count())
    .select_from(batches)
    .where(batches.c.due_at.isnot(None), batches.c.state == BatchState.SUBMITTED)
)
