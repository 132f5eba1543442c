"""Claim a batch for a while, and record what its holder did.

A claim is a lease with an epoch. The epoch is a fencing token (Kleppmann, "How to do distributed
locking", 2016): it counts the claims of a batch, and its holder records only under its own epoch. A
claimed batch is due again when its lease ends, so that a dead holder's work is taken up by another
process; a holder that slept too long finds another epoch, and its statement moves no row.

Statements are module constants, as building one costs several times as much as running it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import LIVE_STATES, TRANSITIONS, BatchState
from worker.events import CountedEvent, Event
from worker.store.sql_functions import among, later, now
from worker.store.tables import batches, gates, pace, pauses
from worker.store.transaction import Transaction

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningUpdate

NUDGE_AFTER = 2.0  # seconds that a batch may be overdue before its message counts as lost
NUDGE_AGAIN = 10.0  # seconds before yet another message for the same batch


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch as its holder claimed it."""

    id: UUID
    epoch: int
    lease_holder: str  # the process that has this claim
    claims: int  # consecutive ones that recorded nothing, this one included
    state: BatchState
    judge_id: str
    judge_version_id: str | None
    tags: tuple[str, ...]
    item_count: int
    failures: int
    submissions: int
    looks: int
    polls: int
    doubts: int
    server_error: str | None
    server_error_at: datetime | None
    gate: str | None
    own_tag: str | None  # the tag of its own that its latest submission carried
    remote_batch_id: str | None
    remote_status: str | None
    status_url: str | None
    submitting_at: datetime | None
    submitted_at: datetime | None
    claimed_at: datetime
    live_batches: int  # of all holders, this one included
    trouble: bool  # whether there is any gate or pause that the holder has to check
    is_limited: bool  # whether fewer batches than configured may be at the remote

    @property
    def seconds_submitted(self) -> float | None:
        """Return the seconds between acceptance by the remote and this claim."""
        if self.submitted_at is None:
            return None
        return (self.claimed_at - self.submitted_at).total_seconds()


_other = batches.alias("other")
_LIVE_BATCHES = sa.select(sa.func.count()).where(_other.c.due_at.isnot(None)).scalar_subquery()
_TROUBLE = sa.or_(*(sa.exists(sa.select(1).select_from(table)) for table in (gates, pauses)))
_CLAIMED = (
    *(batches.c[field.name] for field in fields(Claim) if field.name in batches.c),
    now().label("claimed_at"),
    # Read with the claim, to save another statement.
    _LIVE_BATCHES.label("live_batches"),
    _TROUBLE.label("trouble"),
    sa.exists(sa.select(1).where(pace.c.in_flight_limit.isnot(None))).label("is_limited"),
)


def build_claim(
    *states: BatchState, becomes: BatchState | None = None, **values: Any
) -> ReturningUpdate[Any]:
    """Build the statement for `claim_batch` that takes a due batch in one of these states."""
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


def claim_batch(
    tx: Transaction,
    statement: ReturningUpdate[Any],
    batch_id: UUID,
    *,
    holder: str,
    lease: float,
    **values: Any,
) -> Claim | None:
    """Claim a batch by a statement of `build_claim` until the lease ends; None if it is not due."""
    given = {"batch_id": batch_id, "holder": holder, "lease": lease, **values}
    moved = tx.execute(statement, given).one_or_none()
    if moved is None:
        return None
    if moved.claims > 1:
        tx.count(CountedEvent.LEASE_TAKEN_OVER)
    typed = {"state": BatchState(moved.state), "tags": tuple(moved.tags)}
    return Claim(**{**moved._asdict(), **typed})


def move(
    tx: Transaction,
    claim: Claim,
    to: BatchState,
    *,
    due_in: float | None = None,
    event: Event | None = None,
    detail: Mapping[str, Any] = MappingProxyType({}),
    **values: Any,
) -> bool:
    """End a claim and move its batch to another state; False where the holder has lost the claim.

    A live batch is due again in `due_in` seconds; `values` are columns. The `event` is recorded
    with its `detail` if the batch moved.
    """
    if to is not claim.state and to not in TRANSITIONS[claim.state]:
        raise ValueError(f"a batch never goes from {claim.state} to {to}")
    if (to in LIVE_STATES) is not (due_in is not None):
        raise ValueError(f"a batch that becomes {to} is due again, or is not live")
    values = {
        "state": to,
        "lease_holder": None,
        "nudged_at": None,
        "claims": 0,
        "gate": None,
        **values,
    }
    statement = _build_move(
        tuple(values),
        live=due_in is not None,
        ended=not TRANSITIONS[to],
        sent=to is BatchState.SUBMITTED and claim.state is not to,
    )
    given = {**_identity(claim), **{f"new_{name}": value for name, value in values.items()}}
    if due_in is not None:
        given["due_in"] = due_in
    if event is None:
        rows = tx.execute(statement, given).all()
    else:
        rows = tx.execute_recording(statement, given, event, batch_id=claim.id, **detail)
    if not rows:
        tx.count(CountedEvent.LEASE_LOST)
    return bool(rows)


@cache
def _build_move(
    columns: tuple[str, ...], *, live: bool, ended: bool, sent: bool
) -> ReturningUpdate[Any]:
    """Build the update, which sets each of the `columns` to the parameter "new_" plus its name."""
    values: dict[str, Any] = {
        name: sa.bindparam(f"new_{name}", type_=batches.c[name].type) for name in columns
    }
    values["due_at"] = later(sa.bindparam("due_in", type_=sa.Double)) if live else sa.null()
    if ended:
        values["finished_at"] = now()
    if sent:
        values["submitted_at"] = now()
    conditions = (*_IS_CLAIMED, _IS_NEW_AT_REMOTE) if sent else _IS_CLAIMED
    return sa.update(batches).where(*conditions).values(**values).returning(batches.c.id)


def keep_for_first_poll(
    tx: Transaction, claim: Claim, *, remote_batch_id: str, status_url: str | None, lease: float
) -> Claim | None:
    """submitting -> submitted, under the same claim, which goes on for the first poll.

    None where the holder has lost the claim, or another batch has this id at the remote.
    """
    given = {"new_remote_batch_id": remote_batch_id, "new_status_url": status_url, "lease": lease}
    rows = tx.execute_recording(
        _KEEP_FOR_FIRST_POLL,
        {**_identity(claim), **given},
        Event.BATCH_SUBMITTED,
        batch_id=claim.id,
        remote_batch_id=remote_batch_id,
    )
    if not rows:
        tx.count(CountedEvent.LEASE_LOST)
        return None
    return replace(
        claim,
        state=BatchState.SUBMITTED,
        polls=claim.polls + 1,
        remote_batch_id=remote_batch_id,
        status_url=status_url,
        failures=0,
        gate=None,
        **rows[0]._asdict(),
    )


def _identity(claim: Claim) -> dict[str, Any]:
    """Return the values of `_IS_CLAIMED`."""
    return {"claim_id": claim.id, "claim_epoch": claim.epoch, "claim_state": claim.state}


_IS_CLAIMED = (
    batches.c.id == sa.bindparam("claim_id"),
    batches.c.epoch == sa.bindparam("claim_epoch"),
    batches.c.state == sa.bindparam("claim_state"),
    # A second run, after a commit whose response was lost, moves nothing.
    batches.c.claims > 0,
)
# A batch of the remote belongs to one batch of ours.
_IS_NEW_AT_REMOTE = ~sa.exists(
    sa.select(1).where(_other.c.remote_batch_id == sa.bindparam("new_remote_batch_id"))
)
_KEEP_FOR_FIRST_POLL = (
    sa.update(batches)
    .where(*_IS_CLAIMED, _IS_NEW_AT_REMOTE)
    .values(
        state=BatchState.SUBMITTED,
        remote_batch_id=sa.bindparam("new_remote_batch_id"),
        status_url=sa.bindparam("new_status_url"),
        submitted_at=now(),
        polls=batches.c.polls + 1,
        due_at=later(sa.bindparam("lease", type_=sa.Double)),
        failures=0,
        error=None,
        gate=None,
        nudged_at=None,
    )
    .returning(batches.c.submitted_at, now().label("claimed_at"), _TROUBLE.label("trouble"))
)


def record_waiting(
    tx: Transaction,
    claim: Claim,
    state: BatchState,
    *,
    reason: str,
    wait: float,
    gate: str | None,
    **values: Any,
) -> bool:
    """End a claim whose call failed: the batch is due again after `wait`, with one failure more."""
    return move(
        tx,
        claim,
        state,
        due_in=wait,
        event=Event.BATCH_WAITS,
        detail={"reason": reason, "seconds": round(wait, 1)},
        failures=claim.failures + 1,
        gate=gate,
        error=reason,
        **values,
    )


def defer(tx: Transaction, claim: Claim, *, wait: float, gate: str | None, reason: str) -> None:
    """Give back a claim of which nothing was sent: submitting -> planned; others keep their state.

    The batch is due again after `wait` seconds, or when its `gate` opens.
    """
    state = BatchState.PLANNED if claim.state is BatchState.SUBMITTING else claim.state
    move(tx, claim, state, due_in=wait, gate=gate, error=reason)


def put_on_hold(tx: Transaction, claim: Claim, *, reason: str) -> bool:
    """planned, submitting, unknown, submitted -> held: on hold until a person resolves it."""
    return move(
        tx, claim, BatchState.HELD, event=Event.BATCH_HELD, detail={"reason": reason}, error=reason
    )


def note_surprise(
    tx: Transaction, batch_id: UUID, *, holder: str, reason: str, counts: bool
) -> None:
    """Record that a step of this holder raised; the claim stays until its lease ends.

    `counts` is False where the batch is not to blame: it is never put on hold for such errors.
    """
    noted = tx.execute(
        sa.update(batches)
        .where(batches.c.id == batch_id, batches.c.lease_holder == holder, batches.c.claims > 0)
        .values(
            error=reason,
            failures=batches.c.failures + 1,
            # Never 0 while a claim lasts: what it brings would not be recorded.
            claims=batches.c.claims
            if counts
            else sa.case((batches.c.claims > 1, batches.c.claims - 1), else_=1),
        )
    )
    if noted.rowcount and counts:
        tx.record_event(Event.BATCH_SURPRISED, batch_id=batch_id, reason=reason)


def is_due(tx: Transaction, batch_id: UUID) -> bool:
    """Return whether a batch can be claimed now."""
    return tx.execute(_IS_DUE, {"batch_id": batch_id}).first() is not None


_IS_DUE = sa.select(1).where(batches.c.id == sa.bindparam("batch_id"), batches.c.due_at <= now())


def nudge_overdue(tx: Transaction) -> list[tuple[UUID, BatchState]]:
    """Return, and mark, live batches whose message must have been lost: it is sent again."""
    found = [(batch_id, BatchState(state)) for batch_id, state in tx.execute(_NUDGE)]
    for _ in found:
        tx.count(CountedEvent.MESSAGE_RESENT)
    return found


_NUDGE = (
    sa.update(batches)
    .where(
        batches.c.due_at < later(sa.literal(-NUDGE_AFTER)),
        sa.or_(
            batches.c.nudged_at.is_(None), batches.c.nudged_at < later(sa.literal(-NUDGE_AGAIN))
        ),
    )
    .values(nudged_at=now())
    .returning(batches.c.id, batches.c.state)
)
