"""What must wait because the API, or one judge of it, does.

A row of `eval_gates` is a scope in trouble: the whole API ("api"), one kind of request to it
("api:submit", "api:status"), or a judge ("judge:<id>"). Until `opens_at` nobody passes; the first
who comes after it is the probe, and until `probing_until` the only one. Its success removes the row
and wakes all that waited. A row without `closed_at` holds nobody back: it counts failures in a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.schema import batches, gates, later, now

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.store.database import Transaction

API = "api"
SUBMIT = "api:submit"
STATUS = "api:status"
PROBE_SECONDS = 30.0  # how long a probe may take before the next one is let through


def of_judge(judge_id: str) -> str:
    return f"judge:{judge_id}"


@dataclass(frozen=True, slots=True)
class Closed:
    """The gate that holds the caller back, why, and for how many seconds yet."""

    scope: str
    reason: str
    wait: float


def closed(tx: Transaction, scopes: Sequence[str]) -> Closed | None:
    """The gate that is closed longest, of those in the caller's way; None if it may go on."""
    for row in tx.execute(_CLOSED, {"scopes": scopes}).all():
        wait = (row.opens_at - row.now).total_seconds()
        if wait > 0:
            return Closed(row.scope, row.reason, wait)
    return None


def pass_through(tx: Transaction, scopes: Sequence[str]) -> None:
    """The caller goes on, as the probe of gates that are still to be opened; after `closed`."""
    tx.execute(_PROBE, {"scopes": scopes, "wait": PROBE_SECONDS})


_PASSABLE_AT = sa.case(
    (gates.c.probing_until > gates.c.opens_at, gates.c.probing_until), else_=gates.c.opens_at
)
_CLOSED = (
    sa.select(gates.c.scope, gates.c.reason, _PASSABLE_AT.label("opens_at"), now().label("now"))
    .where(gates.c.scope.in_(sa.bindparam("scopes", expanding=True)), gates.c.closed_at.isnot(None))
    .order_by(_PASSABLE_AT.desc(), gates.c.scope)
    .with_for_update()
)
_IN = later(sa.bindparam("wait", type_=sa.Double))
_PROBE = (
    sa.update(gates)
    .where(gates.c.scope.in_(sa.bindparam("scopes", expanding=True)), gates.c.closed_at.isnot(None))
    .values(probing_until=_IN)
)


def any_closed(tx: Transaction, scopes: Sequence[str]) -> bool:
    """Whether somebody who is no probe has to wait."""
    return tx.execute(_CLOSED, {"scopes": scopes}).first() is not None


def count_failure(tx: Transaction, scope: str, reason: str) -> int:
    """One more failure in a row of this scope; returns how many that makes."""
    statement = _COUNT_ON_POSTGRESQL if tx.on_postgresql else _COUNT_ON_SQLITE
    return int(tx.scalar(statement, {"scope": scope, "reason": reason}) or 1)


def _counting(insert: postgresql.Insert | sqlite.Insert) -> sa.Executable:
    return (
        insert.values(opens_at=now(), failures=1)
        .on_conflict_do_update(
            index_elements=["scope"],
            set_={"failures": gates.c.failures + 1, "reason": insert.excluded.reason},
        )
        .returning(gates.c.failures)
    )


_COUNT_ON_POSTGRESQL = _counting(postgresql.insert(gates))
_COUNT_ON_SQLITE = _counting(sqlite.insert(gates))


def close(tx: Transaction, scope: str, *, wait: float) -> None:
    """Nobody passes for `wait` seconds or more; after `count_failure`, which gave the reason."""
    gate = tx.execute(_GATE, {"of_scope": scope}).one()
    tx.execute(_CLOSE, {"of_scope": scope, "wait": wait})
    if gate.closed_at is None:
        tx.happened("gate.closed", scope=scope, reason=gate.reason, seconds=round(wait, 1))


_GATE = sa.select(gates.c.closed_at, gates.c.reason).where(
    gates.c.scope == sa.bindparam("of_scope")
)
_CLOSE = (
    sa.update(gates)
    .where(gates.c.scope == sa.bindparam("of_scope"))
    .values(
        closed_at=sa.func.coalesce(gates.c.closed_at, now()),
        refused_at=now(),
        # Never sooner than others were told: of two answers, the longer wait holds.
        opens_at=sa.case((gates.c.opens_at > _IN, gates.c.opens_at), else_=_IN),
        probing_until=None,
    )
)


def open_again(tx: Transaction, scopes: Sequence[str], *, asked_at: datetime) -> None:
    """The remote answers what was `asked_at` that time: what waited behind these gates is due now.

    A gate whose like was refused since then stays closed.
    """
    for scope in tx.scalars(_OPEN_AGAIN, {"scopes": scopes, "asked_at": asked_at}).all():
        tx.execute(_WAKE, {"behind": scope})
        tx.happened("gate.opened", scope=scope)


_OPEN_AGAIN = (
    sa.delete(gates)
    .where(
        gates.c.scope.in_(sa.bindparam("scopes", expanding=True)),
        sa.or_(gates.c.closed_at.is_(None), gates.c.refused_at < sa.bindparam("asked_at")),
    )
    .returning(gates.c.scope)
)
_WAKE = (
    sa.update(batches)
    .where(batches.c.gate == sa.bindparam("behind"), batches.c.due_at > now())
    .values(due_at=now(), gate=None)
)
