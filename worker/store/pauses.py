"""Pause and resume: nothing new is planned for, or submitted to, a paused judge.

A row of `eval_pauses` is a pause. What is at the remote already goes on, and a planned batch behind
a pause takes no slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from worker.domain.lifecycle import BatchState
from worker.events import Event
from worker.store.sql_functions import now
from worker.store.tables import batch_is_unclaimed, batches, pauses
from worker.store.transaction import Transaction

NO_REASON = "no reason given"
EVERY_JUDGE = ""  # as the judge id of a pause
RECHECK_SECONDS = 60.0  # before a deferred batch asks again; resuming makes it due immediately


class Pause(NamedTuple):
    """A pause, as people are shown it."""

    judge_id: str | None  # None: of every judge
    reason: str
    since: datetime


def scope_of(judge_id: str | None) -> str:
    """Return the name of a pause, as events and `eval_batches.gate` have it."""
    return f"pause:{judge_id}" if judge_id else "pause"


def is_paused(judge_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Build the condition that the judge of a row, or every judge, is paused."""
    every_judge = sa.literal_column("''", sa.Text())
    return sa.exists().where(pauses.c.judge_id.in_([every_judge, judge_id]))


def is_behind_pause() -> sa.ColumnElement[bool]:
    """Build the condition that a batch goes nowhere until a person ends a pause."""
    return sa.and_(batches.c.state == BatchState.PLANNED, is_paused(batches.c.judge_id))


def find(tx: Transaction, judge_id: str) -> Pause | None:
    """Return the pause in the way of submissions to a judge, and lock it.

    The lock keeps `resume` waiting until the caller has recorded that its batch is deferred.
    """
    row = tx.execute(_FIND, {"of_judge": judge_id}).first()
    return None if row is None else Pause(row.judge_id or None, row.reason, row.paused_at)


_FIND = (
    sa.select(pauses.c.judge_id, pauses.c.reason, pauses.c.paused_at)
    .where(pauses.c.judge_id.in_([EVERY_JUDGE, sa.bindparam("of_judge")]))
    .order_by(pauses.c.judge_id)
    .with_for_update()
)


def pause(tx: Transaction, judge_id: str | None, reason: str | None) -> bool:
    """Begin a pause of one judge, or of every judge (None).

    Returns False where it was paused already; a given reason then replaces the old one.
    """
    key = judge_id or EVERY_JUDGE
    first_reason = reason or NO_REASON
    new = tx.insert(pauses).values(judge_id=key, reason=first_reason, paused_at=now())
    if tx.scalar(new.on_conflict_do_nothing().returning(pauses.c.judge_id)) is not None:
        tx.record_event(Event.GATE_CLOSED, scope=scope_of(judge_id), reason=first_reason)
        return True
    if reason:
        other = sa.and_(pauses.c.judge_id == key, pauses.c.reason != reason)
        if tx.execute(sa.update(pauses).where(other).values(reason=reason)).rowcount:
            tx.record_event(Event.GATE_CLOSED, scope=scope_of(judge_id), reason=reason)
    return False


def resume(tx: Transaction, judge_id: str | None) -> bool:
    """End a pause: what waited behind it is due now. Returns False if there was none."""
    same = pauses.c.judge_id == (judge_id or EVERY_JUDGE)
    if not tx.execute(sa.delete(pauses).where(same)).rowcount:
        return False
    scope = scope_of(judge_id)
    tx.execute(
        sa.update(batches)
        .where(batches.c.gate == scope, batch_is_unclaimed, batches.c.due_at > now())
        .values(due_at=now(), gate=None)
    )
    tx.record_event(Event.GATE_OPENED, scope=scope)
    return True


def list_pauses(connection: sa.Connection) -> Sequence[Pause]:
    """Return every pause, that of every judge first."""
    rows = connection.execute(sa.select(pauses).order_by(pauses.c.judge_id))
    return [Pause(row.judge_id or None, row.reason, row.paused_at) for row in rows]
