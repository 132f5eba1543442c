"""Record what a poll found: submitted -> finished with every result, or lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.domain.batch_result import BatchResult
from worker.domain.lifecycle import BatchState
from worker.domain.outcomes import EvaluatorResult, RemoteItem
from worker.events import CountedEvent, Event
from worker.store import job_completion
from worker.store.batch_items import BatchItem, OpenItem, open_items
from worker.store.bulk import insert_rows
from worker.store.job_completion import ItemFailure
from worker.store.leases import Claim, build_claim, claim_batch, move, record_waiting
from worker.store.tables import batches, evaluator_results, item_is_in_batch, items
from worker.store.transaction import Transaction

# From the attempts made at an item to the seconds before the next one; None if those were enough.
RetryWait = Callable[[int], float | None]


def claim_poll(tx: Transaction, batch_id: UUID, *, holder: str, lease: float) -> Claim | None:
    """Claim a submitted batch; None if it is not submitted, or not due."""
    return claim_batch(tx, _POLL, batch_id, holder=holder, lease=lease)


_POLL = build_claim(BatchState.SUBMITTED, polls=batches.c.polls + 1)


def record_running(
    tx: Transaction, claim: Claim, *, remote_status: str, wait: float, undocumented: bool
) -> bool:
    """submitted stays submitted: the batch is not finished at the remote.

    A new `undocumented` status becomes an event; the ordinary ones do not.
    """
    moved = move(
        tx,
        claim,
        BatchState.SUBMITTED,
        due_in=wait,
        event=Event.BATCH_UNKNOWN_STATUS if undocumented else None,
        detail={"remote_status": remote_status},
        remote_status=remote_status,
        failures=0,
        error=None,
    )
    if moved:
        tx.count(CountedEvent.BATCH_POLLED)
    return moved


def record_poll_failed(
    tx: Transaction, claim: Claim, *, reason: str, wait: float, gate: str | None = None
) -> bool:
    """submitted stays submitted: the poll had no usable response; polled again after `wait`."""
    return record_waiting(tx, claim, BatchState.SUBMITTED, reason=reason, wait=wait, gate=gate)


class FailedItem(NamedTuple):
    """An item without a result, and whether it may be sent again unasked."""

    row: OpenItem | BatchItem
    error: str
    log_id: str | None = None
    may_retry: bool = True


def record_results(
    tx: Transaction,
    claim: Claim,
    rows: Sequence[BatchItem],
    result: BatchResult,
    *,
    retry_wait: RetryWait,
) -> bool:
    """submitted -> finished, with every result, in this transaction, once.

    `rows` are the items of the batch as this transaction read them.
    """
    open_rows = [row for row in rows if not row.is_cancelled]
    completed: list[tuple[BatchItem, RemoteItem]] = []
    failed: list[FailedItem] = []
    for row in open_rows:
        index = row.batch_index
        if index in result.completed:
            completed.append((row, result.completed[index]))
        else:
            reason, log_id = result.reason(index), result.execution_log_id(index)
            failed.append(FailedItem(row, reason, log_id, result.may_retry(index)))
    moved = move(
        tx,
        claim,
        BatchState.FINISHED,
        event=Event.BATCH_FINISHED,
        detail={
            "remote_status": result.remote_status,
            "completed": len(completed),
            "failed": len(failed),
            "seconds": claim.seconds_submitted and round(claim.seconds_submitted, 3),
            "dropped": claim.item_count - len(open_rows) or None,
            "oddities": list(result.oddities) or None,
        },
        remote_status=result.remote_status,
        ran_judge_version_id=result.ran_judge_version_id,
        completed_count=len(result.completed),
        failed_count=claim.item_count - len(result.completed),
        error="; ".join(result.oddities) or None,
    )
    if not moved:
        return False
    _insert_results(tx, completed)
    _fail_or_retry(tx, claim, failed, retry_wait)
    log_ids = {
        row.batch_index: item.execution_log_id for row, item in completed if item.execution_log_id
    }
    if completed and job_completion.complete_items(tx, claim.id, log_ids) < len(completed):
        tx.execute(_DELETE_RESULTS_OF_CANCELLED, {"of_batch": claim.id})
    job_completion.end_finished_jobs(tx, {row.job_id for row in open_rows})
    return True


def record_lost(tx: Transaction, claim: Claim, *, reason: str, retry_wait: RetryWait) -> bool:
    """submitted -> lost: nothing more is expected; its items wait again, one attempt used up."""
    detail = {"reason": reason}
    if not move(tx, claim, BatchState.LOST, event=Event.BATCH_LOST, detail=detail, error=reason):
        return False
    rows = open_items(tx, claim.id)
    _fail_or_retry(tx, claim, [FailedItem(row, reason) for row in rows], retry_wait)
    job_completion.end_finished_jobs(tx, {row.job_id for row in rows})
    return True


def _fail_or_retry(
    tx: Transaction, claim: Claim, failures: Sequence[FailedItem], retry_wait: RetryWait
) -> None:
    """processing -> pending while attempts are left, else -> failed with the last reason.

    Submissions of this batch that remained in doubt count as attempts, too.
    """
    failed: list[ItemFailure] = []
    retried: list[dict[str, Any]] = []
    retried_jobs: set[UUID] = set()
    for row, error, log_id, may_retry in failures:
        attempt = row.attempts + claim.doubts + 1
        wait = retry_wait(attempt) if may_retry else None
        tx.record_event(
            Event.ITEM_FAILED if wait is None else Event.ITEM_RETRIED,
            job_id=row.job_id,
            item_index=row.item_index,
            batch_id=claim.id,
            error=error,
            attempt=attempt,
        )
        if wait is None:
            failed.append(ItemFailure(row.batch_index, error, log_id))
        else:
            retried.append({"of_index": row.batch_index, "new_error": error, "wait": wait})
            retried_jobs.add(row.job_id)
    job_completion.fail_items(tx, claim.id, failed, spent=claim.doubts + 1)
    job_completion.retry_items(tx, claim.id, retried, job_ids=retried_jobs, spent=claim.doubts + 1)


def _insert_results(tx: Transaction, completed: Sequence[tuple[BatchItem, RemoteItem]]) -> None:
    """Insert one row per item and evaluator; those of an earlier run of the item are replaced."""
    repeated = [row for row, _ in completed if row.attempts]
    if repeated:
        tx.execute(
            _DELETE_RESULTS, [{"of_job": row.job_id, "of_item": row.item_index} for row in repeated]
        )
    rows = [result_row for row, item in completed for result_row in _result_rows(row, item)]
    if rows:
        insert_rows(tx.connection, evaluator_results, _RESULT_COLUMNS, rows)


_DELETE_RESULTS = sa.delete(evaluator_results).where(
    evaluator_results.c.job_id == sa.bindparam("of_job"),
    evaluator_results.c.item_index == sa.bindparam("of_item"),
)
# On PostgreSQL, a job may be cancelled after its items were read here.
_DELETE_RESULTS_OF_CANCELLED = sa.delete(evaluator_results).where(
    sa.tuple_(evaluator_results.c.job_id, evaluator_results.c.item_index).in_(
        sa.select(items.c.job_id, items.c.item_index).where(
            items.c.batch_id == sa.bindparam("of_batch"),
            item_is_in_batch,
            items.c.status == sa.literal_column("'cancelled'"),
        )
    )
)
_RESULT_COLUMNS = ("job_id", "item_index", "position", *EvaluatorResult._fields)


def _result_rows(row: BatchItem, item: RemoteItem) -> Iterator[tuple[object, ...]]:
    job_id = str(row.job_id)
    for position, result in enumerate(item.evaluator_results):
        extra = json.dumps(dict(result.extra), ensure_ascii=False) if result.extra else None
        yield job_id, row.item_index, position, *result[:-1], extra
