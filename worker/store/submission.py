"""A batch on its way to the remote: planned, submitting, unknown -> submitted, or back, or refused.

`submitting` is committed before the POST leaves: who finds it after a crash knows that a batch may
exist at the remote.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from worker.domain.lifecycle import BatchState, Status
from worker.events import Event
from worker.store import job_completion
from worker.store.database import Transaction
from worker.store.leases import Claim, batch_items, batch_places, claim, claiming, move
from worker.store.planning import insert_planned
from worker.store.sql_functions import among, now
from worker.store.tables import batches, item_is_in_batch, item_is_in_flight, items
from worker.validation import offences_of
from worker.wire.inputs import COLUMN_FIELDS

SUBMITTING_LOCK = 0x65766C02  # an advisory lock of PostgreSQL; SQLite has one writer anyway
_AT_REMOTE = (BatchState.SUBMITTING, BatchState.UNKNOWN, BatchState.SUBMITTED)


def claim_submission(
    tx: Transaction, batch_id: UUID, *, holder: str, lease: float, own_tag: str | None
) -> Claim | None:
    """planned -> submitting; None if there is nothing to do.

    The tag that the submission will carry is part of the intent: who looks for the batch later
    may run with other settings.
    """
    return claim(tx, _TO_SUBMIT, batch_id, holder=holder, lease=lease, new_tag=own_tag)


_TO_SUBMIT = claiming(
    BatchState.PLANNED,
    becomes=BatchState.SUBMITTING,
    submissions=batches.c.submissions + 1,
    submitting_at=now(),
    own_tag=sa.bindparam("new_tag"),
)


def hold_back(tx: Transaction, held: Claim, *, wait: float, gate: str | None, why: str) -> None:
    """The claim is given back before anything was sent: submitting -> planned, due later."""
    before = BatchState.PLANNED if held.state is BatchState.SUBMITTING else held.state
    move(tx, held, before, due_in=wait, gate=gate, error=why)


def inputs_to_send(tx: Transaction, held: Claim) -> list[dict[str, Any]]:
    """The inputs of a batch just claimed, in order; none: submitting -> refused.

    Inputs that no submission could carry (written by plain SQL) fail here, and the others close
    ranks: an input's place in the batch is its only identity at the remote.
    """
    inputs = _close_ranks(tx, held)
    if inputs:
        tx.record_event(Event.BATCH_SUBMITTING, batch_id=held.id, items=len(inputs))
    else:
        move(tx, held, BatchState.REFUSED, error="none of its inputs can be sent")
        tx.record_event(
            Event.BATCH_REFUSED, batch_id=held.id, reason="none of its inputs can be sent"
        )
    return inputs


def _close_ranks(tx: Transaction, held: Claim) -> list[dict[str, Any]]:
    sendable: list[dict[str, Any]] = []
    failed: list[tuple[sa.Row[Any], str]] = []
    moved: list[dict[str, Any]] = []
    for row in batch_items(tx, held.id):
        if row.status == Status.CANCELLED:
            continue
        value = input_of(row)
        offences = offences_of(value)
        if offences:
            failed.append((row, "; ".join(offences)))
            continue
        if row.batch_index != len(sendable):
            moved.append({"of_job": row.job_id, "at_index": row.item_index, "place": len(sendable)})
        sendable.append(value)
    _end_failed(tx, held.id, failed)
    if moved:
        tx.execute(
            sa.update(items)
            .where(
                items.c.job_id == sa.bindparam("of_job"),
                items.c.item_index == sa.bindparam("at_index"),
            )
            .values(batch_index=sa.bindparam("place")),
            moved,
        )
    if len(sendable) != held.item_count:
        # Cancelled items leave the batch that never took them along.
        tx.execute(
            sa.update(items)
            .where(
                items.c.batch_id == held.id, item_is_in_batch, items.c.status == Status.CANCELLED
            )
            .values(batch_index=None)
        )
        tx.execute(
            sa.update(batches).where(batches.c.id == held.id).values(item_count=len(sendable))
        )
    return sendable


def input_of(row: sa.Row[Any]) -> Any:
    """An item's row in the API's shape; absent is absent, not null."""
    fields = row._mapping
    value = {name: fields[name] for name in COLUMN_FIELDS if fields[name] is not None}
    extra = fields["extra"]
    if extra is None:
        return value
    return {**extra, **value} if isinstance(extra, dict) else extra


def _end_failed(tx: Transaction, batch_id: UUID, failed: Sequence[tuple[sa.Row[Any], str]]) -> None:
    """processing -> failed for good, and their jobs ended where these were the last."""
    if not failed:
        return
    ended = [
        {
            "place": row.batch_index,
            "new_status": Status.FAILED,
            "new_error": reason,
            "log_id": None,
        }
        for row, reason in failed
    ]
    job_completion.end_items(tx, batch_id, ended)
    for row, reason in failed:
        tx.record_event(
            Event.ITEM_FAILED,
            batch_id=batch_id,
            job_id=row.job_id,
            item_index=row.item_index,
            error=reason,
        )
    job_completion.end_finished_jobs(tx, {row.job_id for row, _ in failed})


def record_accepted(
    tx: Transaction, held: Claim, *, remote_batch_id: str, status_url: str | None, wait: float
) -> bool:
    """submitting, unknown -> submitted: the remote has it, under this id."""
    moved = move(
        tx,
        held,
        BatchState.SUBMITTED,
        remote_batch_id=remote_batch_id,
        status_url=status_url,
        due_in=wait,
        failures=0,
        error=None,
    )
    if moved:
        tx.record_event(
            Event.BATCH_SUBMITTED,
            batch_id=held.id,
            remote_batch_id=remote_batch_id,
            found=True if held.state is BatchState.UNKNOWN else None,
        )
    return moved


def record_not_started(
    tx: Transaction, held: Claim, *, reason: str, wait: float, gate: str | None = None
) -> bool:
    """submitting, unknown -> planned: the remote has nothing of it; sent again after `wait`."""
    moved = move(
        tx,
        held,
        BatchState.PLANNED,
        due_in=wait,
        failures=held.failures + 1,
        submitting_at=None,
        looks=0,
        gate=gate,
        error=reason,
    )
    if moved:
        tx.record_event(Event.BATCH_WAITS, batch_id=held.id, reason=reason, seconds=round(wait, 1))
    return moved


def record_unknown(tx: Transaction, held: Claim, *, reason: str, wait: float) -> bool:
    """submitting -> unknown: no answer; the remote is searched after `wait`."""
    moved = move(
        tx,
        held,
        BatchState.UNKNOWN,
        due_in=wait,
        looks=0,
        error=reason,
    )
    if moved:
        tx.record_event(Event.BATCH_UNKNOWN, batch_id=held.id, reason=reason)
    return moved


def claim_search(
    tx: Transaction, batch_id: UUID, *, holder: str, lease: float
) -> tuple[Claim, list[dict[str, Any]]] | None:
    """unknown, or left submitting by a dead holder: claimed, with what may have been sent."""
    held = claim(tx, _TO_SEARCH, batch_id, holder=holder, lease=lease)
    if held is None:
        return None
    return held, [input_of(row) for row in batch_items(tx, held.id)]


_TO_SEARCH = claiming(BatchState.UNKNOWN, BatchState.SUBMITTING, becomes=BatchState.UNKNOWN)


def record_search(
    tx: Transaction,
    held: Claim,
    *,
    wait: float,
    reason: str,
    looked: bool,
    gate: str | None = None,
) -> bool:
    """unknown stays unknown; `looked` if the list was read and the batch was not in it."""
    moved = move(
        tx,
        held,
        BatchState.UNKNOWN,
        due_in=wait,
        looks=held.looks + looked,
        failures=held.failures + (not looked),
        gate=gate,
        error=reason,
    )
    if moved:
        tx.record_event(
            Event.BATCH_SEARCHED, batch_id=held.id, looks=held.looks + looked, reason=reason
        )
    return moved


def known_remote_ids(tx: Transaction, remote_ids: Collection[str]) -> set[str]:
    """Which of these ids of the remote already belong to a batch of ours."""
    return set(tx.scalars(_KNOWN, {"remote_ids": sorted(remote_ids)}))


_KNOWN = sa.select(batches.c.remote_batch_id).where(
    batches.c.remote_batch_id.in_(sa.bindparam("remote_ids", expanding=True))
)


def record_refused(tx: Transaction, held: Claim, *, reason: str) -> bool:
    """submitting -> refused: the API will never take these inputs; they fail with its words."""
    if not move(tx, held, BatchState.REFUSED, error=reason):
        return False
    tx.record_event(Event.BATCH_REFUSED, batch_id=held.id, reason=reason)
    rows = batch_places(tx, held.id)
    _end_failed(tx, held.id, [(row, reason) for row in rows])
    return True


def record_split(tx: Transaction, held: Claim, *, reason: str) -> Sequence[UUID]:
    """submitting -> refused, its items in two planned halves: the offender is in one of them."""
    if not move(tx, held, BatchState.REFUSED, error=f"split in two: {reason}"):
        return ()
    rows = batch_places(tx, held.id)
    middle = (len(rows) + 1) // 2
    halves = [half for half in (rows[:middle], rows[middle:]) if half]
    # Told of each of its jobs: nothing else ties them to a batch that none of their items is in.
    for job_id in sorted({row.job_id for row in rows}) or [None]:
        tx.record_event(
            Event.BATCH_SPLIT, batch_id=held.id, job_id=job_id, reason=reason, halves=len(halves)
        )
    return [_insert_half(tx, held, half) for half in halves]


def _insert_half(tx: Transaction, held: Claim, rows: Sequence[sa.Row[Any]]) -> UUID:
    batch_id = uuid7()
    insert_planned(
        tx,
        batch_id,
        item_count=len(rows),
        judge_id=held.judge_id,
        judge_version_id=held.judge_version_id,
        tags=list(held.tags),
    )
    tx.execute(
        sa.update(items)
        .where(
            items.c.batch_id == held.id,
            items.c.batch_index >= rows[0].batch_index,
            items.c.batch_index <= rows[-1].batch_index,
            item_is_in_flight,
        )
        .values(batch_id=batch_id, batch_index=items.c.batch_index - rows[0].batch_index)
    )
    return batch_id


def places_taken(tx: Transaction) -> int:
    """Batches that are, or may be, at the remote; exact until the end of the transaction.

    Asked only where splitting has made more live batches than there are places.
    """
    if tx.on_postgresql:
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(SUBMITTING_LOCK)))
    return int(tx.scalar(_PLACES_TAKEN) or 0)


_PLACES_TAKEN = (
    sa.select(sa.func.count())
    .select_from(batches)
    .where(batches.c.due_at.isnot(None), among(batches.c.state, _AT_REMOTE))
)
