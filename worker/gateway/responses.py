"""Render a job in the API's form of a batch execution.

The API has no word for cancelled: a cancelled item is shown as failed, with the reason, and its
job as partial, or as failed if nothing was evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import cast

from worker.domain.lifecycle import Status
from worker.store.gateway_queries import ItemRow, JobDetail, JobRow, JobSummary, ResultRow
from worker.wire.inputs import COLUMN_FIELDS
from worker.wire.schemas import (
    EvaluatorResult,
    Execution,
    ExecutionStatus,
    Head,
    Item,
    ItemStatus,
    Judge,
    format_time,
    input_body,
)

CANCELLED = "Cancelled before it was evaluated."
_REQUIRED_FIELDS = ("evaluator_name", "score", "justification")
_OPTIONAL_FIELDS = ("evaluator_id", "evaluator_version_id", "confidence")


def execution_body(detail: JobDetail) -> Execution:
    by_index = groupby(detail.results, lambda result: result.item_index)
    results = {index: list(group) for index, group in by_index}
    items = [_item(row, results.get(row.item_index, [])) for row in detail.items]
    versions = [row.ran_judge_version_id for row in detail.items if row.ran_judge_version_id]
    completed = sum(item["status"] == "completed" for item in items)
    failed = sum(item["status"] == "failed" for item in items)
    summary = _summary(detail.job, len(items), completed, failed, max(versions, default=None))
    return Execution(**summary, items=items)


def execution_summary(row: JobSummary) -> Head:
    failed = row.failed + row.cancelled
    return _summary(row.job, row.total, row.completed, failed, row.ran_judge_version_id)


def _summary(job: JobRow, total: int, completed: int, failed: int, version: str | None) -> Head:
    return Head(
        batch_execution_id=str(job.id),
        status=_execution_status(job.status, completed),
        total_count=total,
        completed_count=completed,
        failed_count=failed,
        created_at=_moment(job.created_at),
        started_at=_moment(job.started_at),
        completed_at=_moment(job.finished_at),
        # The API's clients require strings here; the outbox does not know the judge's name.
        judge=Judge(
            id=job.judge_id, name=job.judge_id, version_id=version or job.judge_version_id or ""
        ),
        tags=job.tags,
    )


def _execution_status(status: str, completed: int) -> ExecutionStatus:
    if status == Status.CANCELLED:
        return "partial" if completed else "failed"
    return cast("ExecutionStatus", status)


def _item(row: ItemRow, results: Sequence[ResultRow]) -> Item:
    is_cancelled = row.status == Status.CANCELLED
    has_ended = row.finished_at is not None
    given = {name: getattr(row, name) for name in COLUMN_FIELDS if getattr(row, name) is not None}
    return Item(
        index=row.item_index,
        status="failed" if is_cancelled else cast("ItemStatus", row.status),
        input=input_body({**given, **(row.extra or {})}),
        evaluator_results=(
            [_result(result) for result in results] if row.status == Status.COMPLETED else None
        ),
        # An item that waits for another attempt has a reason, but no error yet.
        error_message=CANCELLED if is_cancelled else (has_ended and row.error) or "",
        execution_log_id=row.execution_log_id if has_ended else None,
        started_at=None if row.status == Status.PENDING else _moment(row.submitted_at),
        completed_at=_moment(row.finished_at),
    )


def _result(row: ResultRow) -> EvaluatorResult:
    """Include the fields of newer servers, and those that this version does not know."""
    fields = {name: getattr(row, name) for name in _REQUIRED_FIELDS}
    for name in _OPTIONAL_FIELDS:
        if getattr(row, name) is not None:
            fields[name] = getattr(row, name)
    known = _REQUIRED_FIELDS + _OPTIONAL_FIELDS
    extra = {name: part for name, part in (row.extra or {}).items() if name not in known}
    return cast("EvaluatorResult", {**fields, **extra})


def _moment(at: datetime | None) -> str | None:
    return None if at is None else format_time(at)
