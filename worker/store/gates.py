"""What must wait because the API, or one judge of it, does.

A row of `eval_gates` is a scope in trouble: the whole API ("api"), one kind of request to it
("api:submit", "api:status"), or a judge ("judge:<id>"). Until `opens_at` nobody passes; the first
who comes after it is the probe, and until `probing_until` the only one. Its success removes the row
and wakes all that waited. A row without `closed_at` holds nobody back: it counts failures in a row.

A pause is a gate that only a person closes and opens ("pause", or "pause:<judge id>"): nothing new
is submitted behind it, nor planned, and what is planned already takes no place. What is at the
remote goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.domain.lifecycle import BatchState
from worker.events import Event
from worker.store.database import Transaction
from worker.store.sql_functions import later, now
from worker.store.tables import batches, gates

API = "api"
SUBMIT = "api:submit"
STATUS = "api:status"
PAUSE = "pause"
PROBE_SECONDS = 30.0  # how long a probe may take before the next one is let through
PAUSED_SECONDS = 60.0  # before what waits behind a pause looks again; who ends it wakes it
NEVER = datetime(9000, 1, 1, tzinfo=UTC)  # when a pause opens by itself


def of_judge(judge_id: str) -> str:
    return f"judge:{judge_id}"


def pause_of(judge_id: str | None) -> str:
    """The pause of one judge; None: of everything."""
    return PAUSE if judge_id is None else f"{PAUSE}:{judge_id}"


def paused(judge_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether the judge of a row, or everything, is paused."""
    its_own = sa.literal_column(f"'{PAUSE}:'", sa.Text()).concat(judge_id)
    scope = gates.c.scope
    return sa.exists().where(sa.or_(scope == sa.literal_column(f"'{PAUSE}'"), scope == its_own))


def behind_pause() -> sa.ColumnElement[bool]:
    """Of a batch: it goes nowhere until a person ends a pause."""
    return sa.and_(batches.c.state == BatchState.PLANNED, paused(batches.c.judge_id))


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
        if row.opens_at == NEVER:
            return Closed(row.scope, f"paused: {row.reason}", PAUSED_SECONDS)
        if wait > 0:
            return Closed(row.scope, row.reason, wait)
    return None


def pass_through(tx: Transaction, scopes: Sequence[str]) -> bool:
    """The caller goes on, after `closed`: True if as the probe of gates still to be opened."""
    return bool(tx.execute(_PROBE, {"scopes": scopes, "wait": PROBE_SECONDS}).rowcount)


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


def count_failure(tx: Transaction, scope: str, reason: str, *, asked_at: datetime) -> int:
    """One more failure in a row of this scope; returns how many that makes.

    What was asked before the last refusal is of the same swarm, and tells nothing more.
    """
    statement = _COUNT_ON_POSTGRESQL if tx.on_postgresql else _COUNT_ON_SQLITE
    given = {"scope": scope, "reason": reason, "asked_at": asked_at}
    return int(tx.scalar(statement, given) or 1)


_ASKED_AT = sa.bindparam("asked_at", type_=gates.c.refused_at.type)
_ASKED_BEFORE = gates.c.refused_at >= _ASKED_AT


def _counting(insert: postgresql.Insert | sqlite.Insert) -> sa.Executable:
    return (
        insert.values(opens_at=now(), failures=1)
        .on_conflict_do_update(
            index_elements=["scope"],
            set_={
                "failures": gates.c.failures + sa.case((_ASKED_BEFORE, 0), else_=1),
                "reason": insert.excluded.reason,
            },
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
        tx.record_event(Event.GATE_CLOSED, scope=scope, reason=gate.reason, seconds=round(wait, 1))


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
        tx.record_event(Event.GATE_OPENED, scope=scope)


_OPEN_AGAIN = (
    sa.delete(gates)
    .where(
        gates.c.scope.in_(sa.bindparam("scopes", expanding=True)),
        sa.or_(gates.c.closed_at.is_(None), gates.c.refused_at < _ASKED_AT),
    )
    .returning(gates.c.scope)
)
_WAKE = (
    sa.update(batches)
    .where(batches.c.gate == sa.bindparam("behind"), batches.c.due_at > now())
    .values(due_at=now(), gate=None)
)


def pause(tx: Transaction, judge_id: str | None, reason: str) -> bool:
    """Nothing more is submitted to this judge, or at all, until `resume`.

    False where it was paused already; the reason is then the new one.
    """
    insert = postgresql.insert(gates) if tx.on_postgresql else sqlite.insert(gates)
    scope = pause_of(judge_id)
    given = {"scope": scope, "opens_at": NEVER, "failures": 0, "reason": reason}
    closing = insert.values(closed_at=now(), **given).on_conflict_do_nothing()
    if tx.scalar(closing.returning(gates.c.scope)) is not None:
        tx.record_event(Event.GATE_CLOSED, scope=scope, reason=reason)
        return True
    tx.execute(sa.update(gates).where(gates.c.scope == scope).values(reason=reason))
    return False


def resume(tx: Transaction, judge_id: str | None) -> bool:
    """The end of a pause: what waited behind it is due now. False if there was none."""
    scope = pause_of(judge_id)
    if not tx.execute(sa.delete(gates).where(gates.c.scope == scope)).rowcount:
        return False
    tx.execute(_WAKE, {"behind": scope})
    tx.record_event(Event.GATE_OPENED, scope=scope)
    return True


def pauses(connection: sa.Connection) -> Sequence[Any]:
    """What waits because a person says so: judge_id (None: everything), reason, since."""
    judge_id = sa.case(
        (gates.c.scope != PAUSE, sa.func.substr(gates.c.scope, len(PAUSE) + 2)), else_=None
    )
    return connection.execute(
        sa.select(judge_id.label("judge_id"), gates.c.reason, gates.c.closed_at.label("since"))
        .where(gates.c.opens_at == NEVER)
        .order_by(gates.c.scope)
    ).all()
