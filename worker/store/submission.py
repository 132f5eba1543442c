"""Record a batch on its way to the remote: planned, submitting, unknown -> submitted or refused.

`submitting` is committed before the POST leaves. Whoever finds such a row after a crash knows that
a batch may exist at the remote.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from worker.domain.doubt import Doubt
from worker.domain.lifecycle import BatchState
from worker.events import Event
from worker.store import job_completion
from worker.store.batch_items import BatchItem, OpenItem, items_to_submit, open_items
from worker.store.bulk import BulkUpdate
from worker.store.column_types import Id
from worker.store.job_completion import ItemFailure
from worker.store.leases import Claim, build_claim, claim_batch, move, record_waiting
from worker.store.planning import build_doubt_counts, insert_planned
from worker.store.sql_functions import among, now, text_at
from worker.store.tables import batch_is_live, batches, events, item_is_in_flight, items
from worker.store.transaction import Transaction
from worker.validation import offences_of

SUBMITTING_LOCK = 0x65766C02  # an advisory lock of PostgreSQL; SQLite has one writer anyway
LATEST_BATCHES = 1000  # the newest, searched for one that the judge has accepted
REFUSALS = 3  # of a batch in a row, with 403, before one of its inputs is blamed for them
_AT_REMOTE = (BatchState.SUBMITTING, BatchState.UNKNOWN, BatchState.SUBMITTED)


def claim_submission(
    tx: Transaction, batch_id: UUID, *, holder: str, lease: float, own_tag: str | None
) -> Claim | None:
    """planned -> submitting; None if the batch is not planned, or not due.

    The tag that the submission will carry is stored with it: the process that later searches for
    the batch may run with other settings.
    """
    return claim_batch(tx, _SUBMIT, batch_id, holder=holder, lease=lease, new_tag=own_tag)


_SUBMIT = build_claim(
    BatchState.PLANNED,
    becomes=BatchState.SUBMITTING,
    submissions=batches.c.submissions + 1,
    submitting_at=now(),
    own_tag=sa.bindparam("new_tag"),
    server_error=None,
)


def claim_search(tx: Transaction, batch_id: UUID, *, holder: str, lease: float) -> Claim | None:
    """unknown, or left submitting by a dead holder -> unknown; None if the batch is neither."""
    return claim_batch(tx, _SEARCH, batch_id, holder=holder, lease=lease)


_SEARCH = build_claim(BatchState.UNKNOWN, BatchState.SUBMITTING, becomes=BatchState.UNKNOWN)


def prepare_inputs(tx: Transaction, claim: Claim) -> list[dict[str, Any]]:
    """Return the inputs of a batch just claimed, by index. Without any: submitting -> refused.

    Inputs that no submission could carry, as plain SQL can write them, fail here. The indices of
    the others close the gaps, as the index in the batch is an input's only identity at the remote.
    """
    sendable: list[BatchItem] = []
    cancelled: list[BatchItem] = []
    unsendable: list[tuple[BatchItem, str]] = []
    for item in items_to_submit(tx, claim.id, claim.item_count):
        if item.is_cancelled:
            cancelled.append(item)
            continue
        offences = offences_of(item.input)
        if offences:
            unsendable.append((item, "; ".join(offences)))
        else:
            sendable.append(item)
    _fail_items(tx, claim.id, unsendable)
    _close_gaps(tx, sendable)
    if len(sendable) != claim.item_count:
        _shrink_batch(tx, claim.id, cancelled, len(sendable))
    if not sendable:
        _refuse(tx, claim, "none of its inputs can be sent")
    return [item.input for item in sendable]


def _close_gaps(tx: Transaction, sendable: Sequence[BatchItem]) -> None:
    moved = [
        {"of_job": item.job_id, "of_item": item.item_index, "index": index}
        for index, item in enumerate(sendable)
        if item.batch_index != index
    ]
    _SET_BATCH_INDEX.run(tx, moved)


_SET_BATCH_INDEX = BulkUpdate(
    lambda given: (
        sa.update(items)
        .where(items.c.job_id == given.of_job, items.c.item_index == given.of_item)
        .values(batch_index=given.index)
    ),
    of_job=Id,
    of_item=sa.Integer,
    index=sa.Integer,
)


def _shrink_batch(
    tx: Transaction, batch_id: UUID, cancelled: Sequence[BatchItem], item_count: int
) -> None:
    """Take cancelled items out of a batch that was never submitted with them.

    Not those that were cancelled since they were read, which are sent.
    """
    taken_out = [
        {"of_job": item.job_id, "of_item": item.item_index, "index": None} for item in cancelled
    ]
    _SET_BATCH_INDEX.run(tx, taken_out)
    tx.execute(sa.update(batches).where(batches.c.id == batch_id).values(item_count=item_count))


def _fail_items(
    tx: Transaction,
    batch_id: UUID,
    failed: Sequence[tuple[BatchItem | OpenItem, str]],
    *,
    spent: int = 1,
) -> None:
    """processing -> failed for good, and end the jobs of which these were the last."""
    if not failed:
        return
    failures = [ItemFailure(item.batch_index, error) for item, error in failed]
    job_completion.fail_items(tx, batch_id, failures, spent=spent)
    for item, error in failed:
        tx.record_event(
            Event.ITEM_FAILED,
            batch_id=batch_id,
            job_id=item.job_id,
            item_index=item.item_index,
            error=error,
        )
    job_completion.end_finished_jobs(tx, {item.job_id for item, _ in failed})


def record_accepted(
    tx: Transaction, claim: Claim, *, remote_batch_id: str, status_url: str | None, wait: float
) -> bool:
    """submitting, unknown -> submitted: the remote has the batch under this id."""
    found = True if claim.state is BatchState.UNKNOWN else None
    return move(
        tx,
        claim,
        BatchState.SUBMITTED,
        due_in=wait,
        event=Event.BATCH_SUBMITTED,
        detail={"remote_batch_id": remote_batch_id, "found": found},
        remote_batch_id=remote_batch_id,
        status_url=status_url,
        failures=0,
        error=None,
    )


def record_not_started(
    tx: Transaction, claim: Claim, *, reason: str, wait: float, gate: str | None = None
) -> bool:
    """submitting -> planned: the remote has nothing of it; sent again after `wait`."""
    again = {"submitting_at": None, "looks": 0}
    return record_waiting(
        tx, claim, BatchState.PLANNED, reason=reason, wait=wait, gate=gate, **again
    )


def record_resubmission(tx: Transaction, claim: Claim, *, reason: str) -> bool:
    """unknown -> planned: the remote shows nothing of it; sent again now, and counted."""
    again = {"submitting_at": None, "looks": 0, "doubts": claim.doubts + 1}
    return record_waiting(
        tx, claim, BatchState.PLANNED, reason=reason, wait=0.0, gate=None, **again
    )


def record_unknown(
    tx: Transaction, claim: Claim, *, reason: str, wait: float, is_server_error: bool = False
) -> bool:
    """submitting -> unknown: no usable response came; the remote is searched after `wait`."""
    noted: dict[str, Any] = {}
    if is_server_error:
        first = claim.server_error_at or claim.submitting_at
        noted = {"server_error": reason, "server_error_at": first}
    return move(
        tx,
        claim,
        BatchState.UNKNOWN,
        due_in=wait,
        event=Event.BATCH_UNKNOWN,
        detail={"reason": reason},
        looks=0,
        error=reason,
        **noted,
    )


def record_search(
    tx: Transaction,
    claim: Claim,
    *,
    wait: float,
    reason: str,
    was_whole: bool,
    gate: str | None = None,
) -> bool:
    """unknown stays unknown; `was_whole` if the whole list was read and the batch is not in it."""
    searches = claim.looks + was_whole
    return move(
        tx,
        claim,
        BatchState.UNKNOWN,
        due_in=wait,
        event=Event.BATCH_SEARCHED,
        detail={"looks": searches, "reason": reason},
        looks=searches,
        failures=claim.failures + (not was_whole),
        gate=gate,
        error=reason,
    )


def known_remote_ids(tx: Transaction, remote_ids: Collection[str]) -> set[str]:
    """Return which of these ids of the remote belong to a batch of ours already."""
    return set(tx.scalars(_KNOWN, {"remote_ids": sorted(remote_ids)}))


_KNOWN = sa.select(batches.c.remote_batch_id).where(
    batches.c.remote_batch_id.in_(sa.bindparam("remote_ids", expanding=True))
)


def record_refused(tx: Transaction, claim: Claim, *, reason: str, doubts: int = 0) -> bool:
    """submitting, unknown -> refused: the API will never take these inputs.

    They fail with its words. Of its submissions, `doubts` may have been evaluated all the same.
    """
    doubts = max(doubts, claim.doubts)
    if not _refuse(tx, claim, reason, doubts=doubts):
        return False
    failed = [(item, reason) for item in open_items(tx, claim.id)]
    _fail_items(tx, claim.id, failed, spent=max(doubts, 1))
    return True


def _refuse(tx: Transaction, claim: Claim, reason: str, **values: Any) -> bool:
    """submitting, unknown -> refused."""
    return move(
        tx,
        claim,
        BatchState.REFUSED,
        event=Event.BATCH_REFUSED,
        detail={"reason": reason},
        error=reason,
        **values,
    )


def record_split(tx: Transaction, claim: Claim, *, reason: str, doubts: int) -> Sequence[UUID]:
    """submitting, unknown -> refused, its items in two planned halves.

    One of them has the input that the remote will not take. They inherit the `doubts`.
    """
    if not move(tx, claim, BatchState.REFUSED, error=f"split in two: {reason}"):
        return ()
    rows = open_items(tx, claim.id)
    middle = (len(rows) + 1) // 2
    halves = [half for half in (rows[:middle], rows[middle:]) if half]
    # An event for each job: once its items have left the batch, nothing else ties it to them.
    job_ids: list[UUID | None] = [*sorted({row.job_id for row in rows})]
    for job_id in job_ids or [None]:
        tx.record_event(
            Event.BATCH_SPLIT, batch_id=claim.id, job_id=job_id, reason=reason, halves=len(halves)
        )
    return [_insert_half(tx, claim, half, doubts) for half in halves]


def _insert_half(tx: Transaction, claim: Claim, rows: Sequence[OpenItem], doubts: int) -> UUID:
    [batch_id] = insert_planned(tx, claim, item_counts=[len(rows)])
    if doubts or claim.server_error:
        # A half inherits the suspicion: only batches that pass from now on count against it.
        suspected_at = now() if claim.server_error else None
        tx.execute(
            sa.update(batches)
            .where(batches.c.id == batch_id)
            .values(doubts=doubts, server_error_at=suspected_at)
        )
    first, last = rows[0].batch_index, rows[-1].batch_index
    tx.execute(
        sa.update(items)
        .where(
            items.c.batch_id == claim.id,
            items.c.batch_index.between(first, last),
            item_is_in_flight,
        )
        .values(batch_id=batch_id, batch_index=items.c.batch_index - first)
    )
    return batch_id


def read_doubt(tx: Transaction, claim: Claim, *, has_list: bool) -> Doubt:
    """Return what is known of a batch that was submitted and is nowhere to be found."""
    attempts = tx.scalar(_MOST_ATTEMPTS, {"of_batch": claim.id}) or 0
    others_pass, is_alone = False, False
    is_repeated = claim.server_error is not None and claim.server_error_at != claim.submitting_at
    if is_repeated:
        judge = {"batch_id": claim.id, "judge_id": claim.judge_id}
        others_pass = bool(tx.scalar(_OTHERS_PASS, {**judge, "since": claim.server_error_at}))
        is_alone = not tx.scalar(_OTHERS_LIVE, judge)
    return Doubt(
        item_count=claim.item_count,
        attempts=attempts + claim.doubts + 1,
        has_list=has_list,
        is_repeated_error=is_repeated,
        others_pass=others_pass,
        is_alone=is_alone,
    )


_MOST_ATTEMPTS = sa.select(sa.func.max(items.c.attempts)).where(
    items.c.batch_id == sa.bindparam("of_batch"), item_is_in_flight
)
_ANOTHER = (
    batches.c.id != sa.bindparam("batch_id"),
    batches.c.judge_id == sa.bindparam("judge_id"),
)
_OTHERS_LIVE = sa.select(1).where(*_ANOTHER, batch_is_live).limit(1)
_LATEST = (
    sa.select(batches.c.id, batches.c.judge_id, batches.c.submitted_at)
    .order_by(batches.c.id.desc())
    .limit(LATEST_BATCHES)
    .subquery("latest")
)
_OTHERS_PASS = (
    sa.select(1)
    .where(
        _LATEST.c.id != sa.bindparam("batch_id"),
        _LATEST.c.judge_id == sa.bindparam("judge_id"),
        _LATEST.c.submitted_at > sa.bindparam("since"),
    )
    .limit(1)
)
_OTHERS_PASSED_BEFORE = _OTHERS_PASS.where(_LATEST.c.submitted_at < sa.bindparam("until"))


def is_refused_alone(tx: Transaction, claim: Claim, *, item_count: int) -> bool:
    """Return whether a 403 concerns the inputs of this batch, and no other batch of its judge.

    It was refused so several times in a row, and the judge took another batch between the last time
    and this attempt. A batch of several inputs may also be the only one left.
    """
    waits = tx.execute(_LATEST_WAITS, {"batch_id": claim.id}).all()
    if len(waits) < REFUSALS or not all(row.reason.startswith("403") for row in waits):
        return False
    judge = {"batch_id": claim.id, "judge_id": claim.judge_id}
    since = {"since": waits[0].at, "until": claim.claimed_at}
    if tx.scalar(_OTHERS_PASSED_BEFORE, {**judge, **since}):
        return True
    return item_count > 1 and not tx.scalar(_OTHERS_LIVE, judge)


_LATEST_WAITS = (
    sa.select(events.c.at, text_at(events.c.detail, "reason").label("reason"))
    .where(events.c.batch_id == sa.bindparam("batch_id"), events.c.event == Event.BATCH_WAITS)
    .order_by(events.c.id.desc())
    .limit(REFUSALS)
)


def count_taken_slots(tx: Transaction) -> tuple[int, int]:
    """Count the batches that are at the remote, or on their way, and those in doubt.

    The counts are exact until the transaction ends. They are needed only where there are more live
    batches than slots: batches were split, or the limit was lowered.
    """
    if tx.on_postgresql:
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(SUBMITTING_LOCK)))
    taken, in_doubt = tx.execute(_TAKEN_SLOTS).one()
    return int(taken), int(in_doubt)


_TAKEN_SLOTS = build_doubt_counts(among(batches.c.state, _AT_REMOTE))
