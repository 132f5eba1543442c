"""A batch at the remote: submitted -> finished with all its results, or lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from worker.domain.batch_result import Answer
from worker.domain.lifecycle import BatchState, Status
from worker.domain.outcomes import EvaluatorResult, RemoteItem
from worker.events import CountedEvent, Event
from worker.store import job_completion
from worker.store.bulk import insert_rows
from worker.store.database import Transaction
from worker.store.leases import Claim, batch_places, claim, claiming, move
from worker.store.tables import batches, evaluator_results


def claim_poll(tx: Transaction, batch_id: UUID, *, holder: str, lease: float) -> Claim | None:
    """A submitted batch that is due; None if there is nothing to do."""
    return claim(tx, _TO_POLL, batch_id, holder=holder, lease=lease)


_TO_POLL = claiming(BatchState.SUBMITTED, polls=batches.c.polls + 1)


def record_running(
    tx: Transaction, held: Claim, *, remote_status: str, wait: float, new_word: bool
) -> bool:
    """submitted stays submitted: the remote is still at it.

    A `new_word` for that is told once; the ordinary ones are not history.
    """
    moved = move(
        tx,
        held,
        BatchState.SUBMITTED,
        remote_status=remote_status,
        due_in=wait,
        failures=0,
        error=None,
    )
    if moved:
        tx.count(CountedEvent.BATCH_POLLED)
    if moved and new_word:
        tx.record_event(Event.BATCH_UNKNOWN_STATUS, batch_id=held.id, remote_status=remote_status)
    return moved


def record_poll_failed(
    tx: Transaction, held: Claim, *, reason: str, wait: float, gate: str | None = None
) -> bool:
    """submitted stays submitted: the poll told nothing; asked again after `wait`."""
    moved = move(
        tx,
        held,
        BatchState.SUBMITTED,
        due_in=wait,
        failures=held.failures + 1,
        gate=gate,
        error=reason,
    )
    if moved:
        tx.record_event(Event.BATCH_WAITS, batch_id=held.id, reason=reason, seconds=round(wait, 1))
    return moved


def record_results(
    tx: Transaction,
    held: Claim,
    answer: Answer,
    *,
    max_attempts: int,
    retry_wait: Callable[[int], float],
) -> bool:
    """submitted -> finished, with every result, in this transaction, once.

    Failed items wait again unless their attempts are used up; `retry_wait` gives the seconds
    before the next attempt from the number of those made.
    """
    moved = move(
        tx,
        held,
        BatchState.FINISHED,
        remote_status=answer.remote_status,
        ran_judge_version_id=answer.ran_judge_version_id,
        completed_count=len(answer.completed),
        failed_count=held.item_count - len(answer.completed),
        error="; ".join(answer.oddities) or None,
    )
    if not moved:
        return False
    rows = batch_places(tx, held.id)
    completed = [row for row in rows if row.batch_index in answer.completed]
    _insert_results(tx, [(row, answer.completed[row.batch_index]) for row in completed])
    job_completion.end_items(
        tx, held.id, [_end(row, Status.COMPLETED, error=None, answer=answer) for row in completed]
    )
    failures = [
        (row, answer.reason(row.batch_index))
        for row in rows
        if row.batch_index not in answer.completed
    ]
    _fail_or_retry(tx, held, failures, answer, max_attempts=max_attempts, retry_wait=retry_wait)
    tx.record_event(
        Event.BATCH_FINISHED,
        batch_id=held.id,
        remote_status=answer.remote_status,
        completed=len(completed),
        failed=len(failures),
        seconds=_rounded(held.seconds_submitted),
        dropped=held.item_count - len(rows) or None,
        oddities=list(answer.oddities) or None,
    )
    job_completion.end_finished_jobs(tx, {row.job_id for row in rows})
    return True


def record_lost(
    tx: Transaction,
    held: Claim,
    *,
    reason: str,
    max_attempts: int,
    retry_wait: Callable[[int], float],
) -> bool:
    """submitted -> lost: nothing more is expected; its items wait again, one attempt poorer."""
    if not move(tx, held, BatchState.LOST, error=reason):
        return False
    tx.record_event(Event.BATCH_LOST, batch_id=held.id, reason=reason)
    rows = batch_places(tx, held.id)
    failures = [(row, reason) for row in rows]
    _fail_or_retry(tx, held, failures, None, max_attempts=max_attempts, retry_wait=retry_wait)
    job_completion.end_finished_jobs(tx, {row.job_id for row in rows})
    return True


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _end(
    row: sa.Row[Any], status: Status, *, error: str | None, answer: Answer | None
) -> dict[str, Any]:
    return {
        "place": row.batch_index,
        "new_status": status,
        "new_error": error,
        "log_id": answer.execution_log_id(row.batch_index) if answer else None,
    }


def _fail_or_retry(
    tx: Transaction,
    held: Claim,
    failures: Sequence[tuple[sa.Row[Any], str]],
    answer: Answer | None,
    *,
    max_attempts: int,
    retry_wait: Callable[[int], float],
) -> None:
    """processing -> pending while attempts are left, else -> failed with the last reason."""
    ended, retried, to_wake = [], [], set()
    for row, reason in failures:
        last = row.attempts + 1 >= max_attempts
        tx.record_event(
            Event.ITEM_FAILED if last else Event.ITEM_RETRIED,
            job_id=row.job_id,
            item_index=row.item_index,
            batch_id=held.id,
            error=reason,
            attempt=row.attempts + 1,
        )
        if last:
            ended.append(_end(row, Status.FAILED, error=reason, answer=answer))
        else:
            retried.append(
                {
                    "place": row.batch_index,
                    "new_error": reason,
                    "wait": retry_wait(row.attempts + 1),
                }
            )
            to_wake.add(row.job_id)
    job_completion.end_items(tx, held.id, ended)
    job_completion.retry_items(tx, held.id, retried, job_ids=to_wake)


def _insert_results(tx: Transaction, answers: Sequence[tuple[sa.Row[Any], RemoteItem]]) -> None:
    """One row per item and evaluator; those of an earlier run of the item are replaced."""
    again = [row for row, _ in answers if row.attempts]
    if again:
        tx.execute(
            sa.delete(evaluator_results).where(
                evaluator_results.c.job_id == sa.bindparam("of_job"),
                evaluator_results.c.item_index == sa.bindparam("at_index"),
            ),
            [{"of_job": row.job_id, "at_index": row.item_index} for row in again],
        )
    rows = [
        _result_row(row, position, result)
        for row, item in answers
        for position, result in enumerate(item.evaluator_results)
    ]
    if rows:
        insert_rows(tx.connection, evaluator_results, _RESULT_COLUMNS, rows)


_RESULT_COLUMNS = (
    *("job_id", "item_index", "position", "evaluator_name", "score", "justification"),
    *("evaluator_id", "evaluator_version_id", "confidence", "extra"),
)


def _result_row(row: sa.Row[Any], position: int, result: EvaluatorResult) -> tuple[object, ...]:
    return (
        str(row.job_id),
        row.item_index,
        position,
        result.evaluator_name,
        result.score,
        result.justification,
        result.evaluator_id,
        result.evaluator_version_id,
        result.confidence,
        json.dumps(dict(result.extra), ensure_ascii=False) if result.extra else None,
    )
