"""Count what is in the database right now, for the metrics.

Scrapes are frequent, so each query reads a partial index of live rows only, never ended ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from worker.store.sql_functions import now, seconds_between
from worker.store.tables import (
    batch_is_held,
    batch_is_live,
    batches,
    gates,
    item_is_in_flight,
    item_is_live,
    items,
    jobs,
)


def limit_duration(connection: sa.Connection, *, seconds: float) -> None:
    """Cancel statements of this transaction that take longer; not on SQLite, which has no limit."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SET LOCAL statement_timeout = {int(seconds * 1000)}"))


def waiting_by_judge(connection: sa.Connection) -> dict[str, int]:
    """Return the number of waiting items of each judge that has live items."""
    in_flight = dict(tuple(row) for row in connection.execute(_IN_FLIGHT))
    live = connection.execute(_LIVE)
    return {judge: max(0, int(n) - in_flight.get(judge, 0)) for judge, n in live}


# The index of live items does not distinguish waiting items from those in flight, and the table
# is too large to read. So the few items in flight are counted apart, and subtracted.
_LIVE_OF_JOB = (
    sa.select(items.c.job_id, sa.func.count().label("number"))
    .where(item_is_live)
    .group_by(items.c.job_id)
    .subquery("live")
)
_LIVE = (
    sa.select(jobs.c.judge_id, sa.func.sum(_LIVE_OF_JOB.c.number))
    .join_from(_LIVE_OF_JOB, jobs, jobs.c.id == _LIVE_OF_JOB.c.job_id)
    .group_by(jobs.c.judge_id)
)
_IN_FLIGHT = (
    sa.select(batches.c.judge_id, sa.func.count())
    .join_from(batches, items, items.c.batch_id == batches.c.id)
    .where(sa.or_(batch_is_live, batch_is_held), item_is_in_flight)
    .group_by(batches.c.judge_id)
)


def due_by_judge(connection: sa.Connection) -> dict[str, float]:
    """Return for how many seconds the job of each judge that waits longest has been due."""
    return dict(tuple(row) for row in connection.execute(_DUE))


_DUE = (
    sa.select(
        jobs.c.judge_id, sa.func.coalesce(sa.func.max(seconds_between(jobs.c.due_at, now())), 0.0)
    )
    .where(jobs.c.due_at.isnot(None))
    .group_by(jobs.c.judge_id)
)


def closed_scopes(connection: sa.Connection) -> Sequence[str]:
    """Return the scopes of the closed gates."""
    return connection.scalars(sa.select(gates.c.scope).where(gates.c.closed_at.isnot(None))).all()
