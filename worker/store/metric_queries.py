"""How much there is right now, for whoever watches: read often, so each is a look into an index.

The partial indexes hold live rows alone: what is looked through is what waits, never what was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from worker.domain.lifecycle import BatchState
from worker.store.sql_functions import now, seconds_between
from worker.store.tables import batches, gates, item_is_in_flight, item_is_live, items, jobs


def bound(connection: sa.Connection, *, seconds: float) -> None:
    """Ends what takes longer; on SQLite, where nobody else is held up, nothing does."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SET LOCAL statement_timeout = {int(seconds * 1000)}"))


def waiting_by_judge(connection: sa.Connection) -> dict[str, int]:
    """How many items wait for each judge that has live ones."""
    in_flight = dict(tuple(row) for row in connection.execute(_IN_FLIGHT))
    live = connection.execute(_LIVE)
    return {judge: max(0, int(n) - in_flight.get(judge, 0)) for judge, n in live}


_HELD = batches.c.state == sa.literal_column(f"'{BatchState.HELD}'")

# The index of live items does not tell those that wait from those in flight, and the table with
# its texts is not to be read for it: the few in flight are counted apart, and taken off.
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
    .where(sa.or_(batches.c.due_at.isnot(None), _HELD), item_is_in_flight)
    .group_by(batches.c.judge_id)
)


def due_by_judge(connection: sa.Connection) -> dict[str, float]:
    """For how many seconds the longest waiting job of each judge has been due."""
    return dict(tuple(row) for row in connection.execute(_DUE))


_DUE = (
    sa.select(
        jobs.c.judge_id,
        sa.func.coalesce(sa.func.max(seconds_between(jobs.c.due_at, now())), 0.0),
    )
    .where(jobs.c.due_at.isnot(None))
    .group_by(jobs.c.judge_id)
)


def batches_by_state(connection: sa.Connection) -> Sequence[sa.Row[Any]]:
    """Of each state that has not ended: state, batches, oldest (seconds since it was planned)."""
    return connection.execute(_BATCHES).all()


def _counted(*which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    age = seconds_between(batches.c.created_at, now())
    return (
        sa.select(
            batches.c.state, sa.func.count().label("batches"), sa.func.max(age).label("oldest")
        )
        .where(*which)
        .group_by(batches.c.state)
    )


_BATCHES = _counted(batches.c.due_at.isnot(None)).union_all(_counted(_HELD))


def closed_scopes(connection: sa.Connection) -> Sequence[str]:
    """The scopes of `eval_gates` behind which work waits."""
    return connection.scalars(sa.select(gates.c.scope).where(gates.c.closed_at.isnot(None))).all()
