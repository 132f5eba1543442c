"""Close and open gates: a circuit breaker for each part of the API (Nygard, "Release It!", 2007).

A row of `eval_gates` is a scope in trouble: the whole API ("api"), one kind of request to it
("api:submit", "api:status"), or a judge ("judge:<id>"). Nobody passes until `opens_at`. The first
request after it is the probe, and the only one until `probing_until`. Its success deletes the row
and makes everything due that waited behind it. A row without `closed_at` stops nobody: it counts
failures in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from worker.events import Event
from worker.store.sql_functions import later, now
from worker.store.tables import batch_is_unclaimed, batches, gates
from worker.store.transaction import Transaction

API = "api"
SUBMIT = "api:submit"
STATUS = "api:status"
PROBE_SECONDS = 30.0  # that a probe may take before the next one is let through


def of_judge(judge_id: str) -> str:
    """Return the scope of one judge."""
    return f"judge:{judge_id}"


@dataclass(frozen=True, slots=True)
class ClosedGate:
    """A gate in the caller's way, why it is closed, and for how many seconds yet."""

    scope: str
    reason: str
    wait: float


def find_closed(tx: Transaction, scopes: Sequence[str]) -> ClosedGate | None:
    """Return the gate that stays closed longest of these scopes; None if the caller may go on.

    It locks the rows, so that of several callers one becomes the probe.
    """
    row = tx.execute(_CLOSED, {"scopes": scopes}).first()
    if row is None:
        return None
    wait = (row.opens_at - row.now).total_seconds()
    return ClosedGate(row.scope, row.reason, wait) if wait > 0 else None


def start_probe(tx: Transaction, scopes: Sequence[str]) -> bool:
    """Make the caller the probe of closed gates whose time has come; False if there are none."""
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


def release_probe(tx: Transaction, scope: str) -> None:
    """Let another request be the probe of a closed gate: this one could tell nothing."""
    tx.execute(_RELEASE, {"of_scope": scope})


_RELEASE = (
    sa.update(gates)
    .where(gates.c.scope == sa.bindparam("of_scope"), gates.c.closed_at.isnot(None))
    .values(probing_until=None)
)


def probe_now(tx: Transaction) -> None:
    """Let the next request pass each gate of the whole API or of a judge, whenever it was to open.

    For a process with other settings than those that closed it. Throttles last for their time.
    """
    scopes = tx.scalars(_PROBE_NOW).all()
    if scopes:
        tx.execute(_MAKE_DUE, {"scopes": scopes})


_PROBE_NOW = (
    sa.update(gates)
    .where(gates.c.scope.not_in([SUBMIT, STATUS]), gates.c.closed_at.isnot(None))
    .values(opens_at=now(), probing_until=None)
    .returning(gates.c.scope)
)
_MAKE_DUE = (
    sa.update(batches)
    .where(
        batches.c.gate.in_(sa.bindparam("scopes", expanding=True)),
        batch_is_unclaimed,
        batches.c.due_at > now(),
    )
    .values(due_at=now(), nudged_at=None)
)


def is_any_closed(tx: Transaction, scopes: Sequence[str]) -> bool:
    """Return whether any of these gates is closed to callers that are not its probe."""
    return tx.execute(_CLOSED, {"scopes": scopes}).first() is not None


def count_failure(tx: Transaction, scope: str, reason: str, *, sent_at: datetime) -> int:
    """Count one more failure in a row of this scope, and return how many that makes.

    A request that was sent before the last refusal belongs to the same swarm and is not counted.
    """
    new = {"scope": scope, "reason": reason, "opens_at": now(), "failures": 1}
    more = sa.case((gates.c.refused_at >= sent_at, 0), else_=1)
    statement = (
        tx.insert(gates)
        .values(new)
        .on_conflict_do_update(
            index_elements=["scope"], set_={"failures": gates.c.failures + more, "reason": reason}
        )
    )
    return int(tx.scalar(statement.returning(gates.c.failures)) or 1)


def close(tx: Transaction, scope: str, *, wait: float) -> None:
    """Close a gate for at least `wait` seconds; `count_failure` recorded the reason before."""
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
        # Of two responses the longer wait holds: others wait for it already.
        opens_at=sa.case((gates.c.opens_at > _IN, gates.c.opens_at), else_=_IN),
        probing_until=None,
    )
)


def open_gates(tx: Transaction, scopes: Sequence[str], *, sent_at: datetime) -> None:
    """Open the gates that a successful request, `sent_at` that time, passed.

    What waited behind them is due now. A gate that was refused again since then stays closed.
    """
    for scope in tx.scalars(_OPEN, {"scopes": scopes, "sent_at": sent_at}).all():
        tx.execute(_WAKE, {"behind": scope})
        tx.record_event(Event.GATE_OPENED, scope=scope)


_OPEN = (
    sa.delete(gates)
    .where(
        gates.c.scope.in_(sa.bindparam("scopes", expanding=True)),
        sa.or_(gates.c.closed_at.is_(None), gates.c.refused_at < sa.bindparam("sent_at")),
    )
    .returning(gates.c.scope)
)
_WAKE = (
    sa.update(batches)
    .where(batches.c.gate == sa.bindparam("behind"), batch_is_unclaimed, batches.c.due_at > now())
    .values(due_at=now(), gate=None)
)
