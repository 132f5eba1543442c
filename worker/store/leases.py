"""Claims: a lease on a batch, with an epoch that fences every write of its holder.

A claimed batch is due again when its lease ends, so a dead holder's work comes up by itself. A
holder that was asleep for too long finds another epoch in the row, and its writes move nothing.

Statements stand ready-made: building one costs several times as much as running it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import LIVE_STATES, TRANSITIONS, BatchState
from worker.events import CountedEvent, Event
from worker.store.database import Transaction
from worker.store.sql_functions import among, later, now
from worker.store.tables import batches, gates, item_is_in_batch, item_is_in_flight, items

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningUpdate

NUDGE_AFTER = 2.0  # seconds a batch may be overdue before its message counts as lost
NUDGE_AGAIN = 10.0  # seconds before yet another message for the same batch


@dataclass(frozen=True, slots=True)
class Claim:
    """What a holder knows of its batch, as of the claim."""

    id: UUID
    epoch: int
    claims: int  # in a row without a record, this one included
    state: BatchState
    judge_id: str
    judge_version_id: str | None
    tags: tuple[str, ...]
    item_count: int
    failures: int
    submissions: int
    looks: int
    polls: int
    gate: str | None
    own_tag: str | None  # that its latest submission carried
    remote_batch_id: str | None
    remote_status: str | None
    status_url: str | None
    submitting_at: datetime | None
    claimed_at: datetime
    seconds_submitted: float | None  # since the remote took it
    live_batches: int  # of all holders, this one included
    trouble: bool  # whether the API, or a judge, has said no lately: see `gates`


_other = batches.alias("other")
_CLAIMED = (
    batches.c.id,
    batches.c.epoch,
    batches.c.claims,
    batches.c.state,
    batches.c.judge_id,
    batches.c.judge_version_id,
    batches.c.tags,
    batches.c.item_count,
    batches.c.failures,
    batches.c.submissions,
    batches.c.looks,
    batches.c.polls,
    batches.c.gate,
    batches.c.own_tag,
    batches.c.remote_batch_id,
    batches.c.remote_status,
    batches.c.status_url,
    batches.c.submitting_at,
    batches.c.submitted_at,
    now().label("claimed_at"),
    # What every step asks first, in the same round trip.
    sa.select(sa.func.count())
    .where(_other.c.due_at.isnot(None))
    .scalar_subquery()
    .label("live_batches"),
    sa.exists(sa.select(1).select_from(gates)).label("trouble"),
)


def claiming(
    *states: BatchState, becomes: BatchState | None = None, **values: Any
) -> ReturningUpdate[Any]:
    """The statement that takes a due batch in one of these states; for `claim`."""
    return (
        sa.update(batches)
        .where(
            batches.c.id == sa.bindparam("batch_id"),
            among(batches.c.state, states),
            batches.c.due_at <= now(),
        )
        .values(
            state=becomes or batches.c.state,
            epoch=batches.c.epoch + 1,
            claims=batches.c.claims + 1,
            lease_holder=sa.bindparam("holder"),
            due_at=later(sa.bindparam("lease", type_=sa.Double)),
            **values,
        )
        .returning(*_CLAIMED)
    )


def claim(
    tx: Transaction,
    statement: ReturningUpdate[Any],
    batch_id: UUID,
    *,
    holder: str,
    lease: float,
    **values: Any,
) -> Claim | None:
    """Takes a batch by a statement of `claiming`, until the lease ends; None if there is none."""
    given = {"batch_id": batch_id, "holder": holder, "lease": lease, **values}
    moved = tx.execute(statement, given).one_or_none()
    if moved is None:
        return None
    if moved.claims > 1:
        tx.count(CountedEvent.LEASE_TAKEN_OVER)
    return _read_claim(moved)


def _read_claim(row: sa.Row[Any]) -> Claim:
    fields = dict(row._mapping)
    moment, submitted_at = fields["claimed_at"], fields.pop("submitted_at")
    fields["state"] = BatchState(fields["state"])
    fields["tags"] = tuple(fields["tags"])
    elapsed = (moment - submitted_at).total_seconds() if submitted_at else None
    return Claim(**fields, seconds_submitted=elapsed)


def move(
    tx: Transaction, held: Claim, to: BatchState, *, due_in: float | None = None, **values: Any
) -> bool:
    """The end of a claim: its state -> `to`, unless the holder has lost it (then False).

    A live batch is due again in `due_in` seconds; `values` are columns.
    """
    if to is not held.state and to not in TRANSITIONS[held.state]:
        raise ValueError(f"a batch never goes from {held.state} to {to}")
    if (to in LIVE_STATES) is not (due_in is not None):
        raise ValueError(f"a batch that becomes {to} is due again, or is not live")
    given = {
        "held_id": held.id,
        "held_epoch": held.epoch,
        "held_state": held.state,
        "state": to,
        "lease_holder": None,
        "nudged_at": None,
        "claims": 0,
        "gate": None,
        **values,
    }
    if due_in is not None:
        given["due_in"] = due_in
    newly_submitted = to is BatchState.SUBMITTED and held.state is not to
    if newly_submitted:
        given["new_remote_id"] = values["remote_batch_id"]
    statement = _moving(live=due_in is not None, ended=not TRANSITIONS[to], sent=newly_submitted)
    moved = bool(tx.execute(statement, given).rowcount)
    if not moved:
        tx.count(CountedEvent.LEASE_LOST)
    return moved


@cache
def _moving(*, live: bool, ended: bool, sent: bool) -> sa.Update:
    """What else is written are columns named by the parameters."""
    values: dict[str, Any] = {"due_at": later(sa.bindparam("due_in", type_=sa.Double))}
    if not live:
        values["due_at"] = sa.null()
    if ended:
        values["finished_at"] = now()
    if sent:
        values["submitted_at"] = now()
    moving = (
        sa.update(batches)
        .where(
            batches.c.id == sa.bindparam("held_id"),
            batches.c.epoch == sa.bindparam("held_epoch"),
            batches.c.state == sa.bindparam("held_state"),
            batches.c.claims > 0,  # run again after a commit whose answer was lost: moves nothing
        )
        .values(**values)
    )
    if sent:  # one batch of the remote is the answer to one batch of ours
        taken = sa.select(1).where(_other.c.remote_batch_id == sa.bindparam("new_remote_id"))
        moving = moving.where(~sa.exists(taken))
    return moving


def hold(tx: Transaction, held: Claim, *, reason: str) -> bool:
    """planned, submitting, unknown, submitted -> held: set aside until a person resolves it."""
    moved = move(tx, held, BatchState.HELD, error=reason)
    if moved:
        tx.record_event(Event.BATCH_HELD, batch_id=held.id, reason=reason)
    return moved


def resolve(tx: Transaction, batch_id: UUID, *, resubmit: bool) -> BatchState | None:
    """held -> submitted, if the remote has it; else -> unknown, or -> planned to `resubmit`.

    None if there is no such held batch.
    """
    found = tx.execute(
        sa.select(batches.c.remote_batch_id)
        .where(batches.c.id == batch_id, batches.c.state == BatchState.HELD)
        .with_for_update()
    ).one_or_none()
    if found is None:
        return None
    after = BatchState.PLANNED if resubmit else BatchState.UNKNOWN
    if found.remote_batch_id is not None:
        after = BatchState.SUBMITTED
    tx.execute(
        sa.update(batches)
        .where(batches.c.id == batch_id)
        .values(state=after, due_at=now(), nudged_at=None, looks=0, failures=0)
    )
    tx.record_event(Event.BATCH_RESOLVED, batch_id=batch_id, becomes=after)
    return after


def note_surprise(
    tx: Transaction, batch_id: UUID, *, holder: str, reason: str, counts: bool
) -> None:
    """A step of this holder raised; the claim stands, so that the lease's end brings it up.

    Unless it `counts`, the batch is not to blame, and is not set aside for it however often.
    """
    noted = tx.execute(
        sa.update(batches)
        .where(batches.c.id == batch_id, batches.c.lease_holder == holder, batches.c.claims > 0)
        .values(
            error=reason,
            failures=batches.c.failures + 1,
            claims=batches.c.claims if counts else batches.c.claims - 1,
        )
    )
    if noted.rowcount and counts:
        tx.record_event(Event.BATCH_SURPRISED, batch_id=batch_id, reason=reason)


def overdue(tx: Transaction) -> list[tuple[UUID, BatchState]]:
    """Live batches whose message must have been lost: it is sent again, to whoever listens."""
    found = [(batch_id, BatchState(state)) for batch_id, state in tx.execute(_NUDGE)]
    for _ in found:
        tx.count(CountedEvent.MESSAGE_RESENT)
    return found


_NUDGE = (
    sa.update(batches)
    .where(
        batches.c.due_at < later(sa.literal(-NUDGE_AFTER)),
        sa.or_(
            batches.c.nudged_at.is_(None),
            batches.c.nudged_at < later(sa.literal(-NUDGE_AGAIN)),
        ),
    )
    .values(nudged_at=now())
    .returning(batches.c.id, batches.c.state)
)


def batch_items(tx: Transaction, batch_id: UUID) -> Sequence[Any]:
    """What a batch consists of, in the order of sending; items cancelled meanwhile included."""
    return tx.execute(_ITEMS, {"of_batch": batch_id}).all()


_ITEMS = (
    sa.select(items)
    .where(
        items.c.batch_id == sa.bindparam("of_batch"),
        item_is_in_batch,
        items.c.batch_index.isnot(None),
    )
    .order_by(items.c.batch_index)
)


def batch_places(tx: Transaction, batch_id: UUID) -> Sequence[Any]:
    """The items of a batch that still await their end, without their texts."""
    return tx.execute(_PLACES, {"of_batch": batch_id}).all()


_PLACES = (
    sa.select(
        items.c.job_id,
        items.c.item_index,
        items.c.batch_id,
        items.c.batch_index,
        items.c.attempts,
    )
    .where(items.c.batch_id == sa.bindparam("of_batch"), item_is_in_flight)
    .order_by(items.c.batch_index)
)
