"""A job as the API shows a batch execution; pure.

The API has no word for what was cancelled: such an item is shown as failed, with the reason, and
such a job as partial, or as failed where nothing of it was evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, cast

from worker.domain.lifecycle import Status
from worker.wire.inputs import COLUMN_FIELDS
from worker.wire.schemas import (
    EvaluatorResult,
    Execution,
    ExecutionStatus,
    Head,
    Item,
    ItemStatus,
    Judge,
    moment,
    shown_input,
)

CANCELLED = "Cancelled before it was evaluated."
_ALWAYS = ("evaluator_name", "score", "justification")
_NEWER = ("evaluator_id", "evaluator_version_id", "confidence")


def execution(rows: Sequence[Any], results: Iterable[Any]) -> Execution:
    """From a row for each item, each with its job (`store.executions.rows_of`), and results."""
    by_item = {index: list(group) for index, group in groupby(results, lambda r: r.item_index)}
    items = [_item(row, by_item.get(row.item_index, [])) for row in rows]
    ran = [row.ran_judge_version_id for row in rows if row.ran_judge_version_id]
    completed = sum(item["status"] == "completed" for item in items)
    failed = sum(item["status"] == "failed" for item in items)
    shown = _head(rows[0], len(items), completed, failed, max(ran, default=None))
    return Execution(**shown, items=items)


def head(row: Any) -> Head:
    """From a row with counts (`store.executions.heads`)."""
    failed = row.failed + row.cancelled
    return _head(row, row.total, row.completed, failed, row.ran_judge_version_id)


def _head(job: Any, total: int, completed: int, failed: int, ran: str | None) -> Head:
    return Head(
        batch_execution_id=str(job.id),
        status=_status(job.status, completed),
        total_count=total,
        completed_count=completed,
        failed_count=failed,
        created_at=_moment(job.created_at),
        started_at=_moment(job.started_at),
        completed_at=_moment(job.finished_at),
        # The API's clients want texts here; the judge's name is not known to the outbox.
        judge=Judge(
            id=job.judge_id, name=job.judge_id, version_id=ran or job.judge_version_id or ""
        ),
        tags=job.tags,
    )


def _status(status: str, completed: int) -> ExecutionStatus:
    if status == Status.CANCELLED:
        return "partial" if completed else "failed"
    return cast("ExecutionStatus", status)


def _item(row: Any, results: Sequence[Any]) -> Item:
    status = row.item_status
    cancelled = status == Status.CANCELLED
    ended = row.item_finished_at is not None
    given = {name: getattr(row, name) for name in COLUMN_FIELDS if getattr(row, name) is not None}
    return Item(
        index=row.item_index,
        status="failed" if cancelled else cast("ItemStatus", status),
        input=shown_input({**given, **(row.extra or {})}),
        evaluator_results=[_result(r) for r in results] if status == Status.COMPLETED else None,
        # An item that waits to be tried again has a reason, but no error yet.
        error_message=CANCELLED if cancelled else (ended and row.error) or "",
        execution_log_id=row.execution_log_id if ended else None,
        started_at=None if status == Status.PENDING else _moment(row.submitted_at),
        completed_at=_moment(row.item_finished_at),
    )


def _result(row: Any) -> EvaluatorResult:
    """With whatever else the judge said of it."""
    more = {name: getattr(row, name) for name in _NEWER if getattr(row, name) is not None}
    extra = {name: part for name, part in (row.extra or {}).items() if name not in _ALWAYS + _NEWER}
    always = {name: getattr(row, name) for name in _ALWAYS}
    return cast("EvaluatorResult", {**always, **more, **extra})


def _moment(at: datetime | None) -> str | None:
    return None if at is None else moment(at)
