"""Change batches at a person's command: let one on hold go on."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import BatchState, Status
from worker.events import Event
from worker.store import job_completion, submission
from worker.store.batch_items import open_items
from worker.store.sql_functions import now
from worker.store.tables import batches, item_is_in_flight, items
from worker.store.transaction import Transaction


def resolve(tx: Transaction, batch_id: UUID, *, resubmit: bool) -> BatchState | None:
    """Let a batch on hold go on; None if no such batch is on hold.

    held -> submitted, if the remote has it: its results are read again. Else -> unknown, to be
    searched for. To `resubmit`: -> planned, or -> lost if the remote has it, and its items wait
    again; -> refused, in two halves, if the remote has responded to it with 5xx again and again.
    """
    found = tx.execute(
        sa.select(
            batches.c.remote_batch_id, batches.c.doubts, _FAILS_AS_A_WHOLE.label("fails_as_a_whole")
        )
        .where(batches.c.id == batch_id, batches.c.state == BatchState.HELD)
        .with_for_update()
    ).one_or_none()
    if found is None:
        return None
    if found.remote_batch_id is not None:
        after = BatchState.LOST if resubmit else BatchState.SUBMITTED
    elif not resubmit:
        after = BatchState.UNKNOWN
    else:
        after = BatchState.REFUSED if found.fails_as_a_whole else BatchState.PLANNED
    tx.record_event(Event.BATCH_RESOLVED, batch_id=batch_id, becomes=after)
    match after:
        case BatchState.LOST:
            _end(tx, batch_id)
            _wait_again(tx, batch_id, spent=found.doubts + 1)
        case BatchState.REFUSED:
            _split(tx, batch_id)
        case _:
            _go_on(tx, batch_id, after)
    return after


# Its latest submission got a 5xx, and an earlier one, too.
_FAILS_AS_A_WHOLE = sa.and_(
    batches.c.item_count > 1,
    batches.c.server_error.isnot(None),
    batches.c.server_error_at != batches.c.submitting_at,
)


def _split(tx: Transaction, batch_id: UUID) -> None:
    """Claim the batch as a search does, and split it as that would: held -> unknown -> refused."""
    _go_on(tx, batch_id, BatchState.UNKNOWN)
    claim = submission.claim_search(tx, batch_id, holder="resolve", lease=0.0)
    if claim is not None:
        reason = claim.server_error or "its submissions failed"
        submission.record_split(tx, claim, reason=reason, doubts=claim.doubts)


def _go_on(tx: Transaction, batch_id: UUID, state: BatchState) -> None:
    tx.execute(
        sa.update(batches)
        .where(batches.c.id == batch_id)
        .values(state=state, due_at=now(), nudged_at=None, looks=0, failures=0)
    )


def _end(tx: Transaction, batch_id: UUID) -> None:
    tx.execute(
        sa.update(batches)
        .where(batches.c.id == batch_id)
        .values(state=BatchState.LOST, finished_at=now())
    )


def _wait_again(tx: Transaction, batch_id: UUID, *, spent: int) -> None:
    """processing -> pending, whatever attempts were made: a person has decided it."""
    rows = open_items(tx, batch_id)
    tx.execute(
        sa.update(items)
        .where(items.c.batch_id == batch_id, item_is_in_flight)
        .values(status=Status.PENDING, attempts=items.c.attempts + spent, due_at=now())
    )
    if rows:
        job_completion.wake_jobs(tx, {row.job_id for row in rows})
