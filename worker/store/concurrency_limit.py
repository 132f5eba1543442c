"""What all replicas know of the API's pace, in one row: how many batches it lets run at once, and
when its list is read next, by whoever comes first."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.domain.concurrency import LIMIT_HOLDS, LIMIT_LOWERED, in_flight_allowed
from worker.domain.lifecycle import BatchState
from worker.events import Event
from worker.store.database import Transaction
from worker.store.sql_functions import later, now
from worker.store.tables import batches, pace

API = "api"


def allowed_in_flight(tx: Transaction | sa.Connection, ceiling: int) -> int:
    """How many batches may be at the remote now: the ceiling, or less while it refuses more."""
    known = tx.execute(_LIMIT).one_or_none()
    if known is None:
        return ceiling
    since = (known.moment - known.limited_at).total_seconds()
    return in_flight_allowed(ceiling, known.in_flight_limit, since)


_LIMIT = sa.select(pace.c.in_flight_limit, pace.c.limited_at, now().label("moment")).where(
    pace.c.in_flight_limit.isnot(None)
)


def lower_limit(tx: Transaction) -> None:
    """The remote refused one more batch: as many as run now are a little too many for it.

    Refusals come in swarms that tell one thing: for a moment, the first lowers the limit, and the
    others only correct it. It came while some that the remote had taken were not on record yet.
    """
    running = int(tx.scalar(_RUNNING) or 0)
    statement = _LOWER_ON_POSTGRESQL if tx.on_postgresql else _LOWER_ON_SQLITE
    limit = max(1.0, running * LIMIT_LOWERED)
    if tx.scalar(statement, {"scope": API, "in_flight_limit": limit}):
        tx.record_event(Event.PACE_LOWERED, in_flight=round(limit))
    else:
        tx.execute(_CORRECT, {"of_scope": API, "seen_limit": limit})


_RUNNING = (
    sa.select(sa.func.count())
    .select_from(batches)
    .where(batches.c.due_at.isnot(None), batches.c.state == BatchState.SUBMITTED)
)


def _lowering(insert: postgresql.Insert | sqlite.Insert) -> sa.Executable:
    return (
        insert.values(limited_at=now())
        .on_conflict_do_update(
            index_elements=["scope"],
            set_={"in_flight_limit": insert.excluded.in_flight_limit, "limited_at": now()},
            where=sa.or_(
                pace.c.limited_at.is_(None), pace.c.limited_at < later(sa.literal(-LIMIT_HOLDS))
            ),
        )
        .returning(pace.c.scope)
    )


_LOWER_ON_POSTGRESQL = _lowering(postgresql.insert(pace))
_LOWER_ON_SQLITE = _lowering(sqlite.insert(pace))


_SEEN = sa.bindparam("seen_limit", type_=sa.Double)
_CORRECT = (
    sa.update(pace)
    .where(pace.c.scope == sa.bindparam("of_scope"), pace.c.in_flight_limit < _SEEN)
    .values(in_flight_limit=_SEEN)
)
