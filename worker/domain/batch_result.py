"""Decide what an ended batch means for each of its items.

The remote identifies an item only by its index in the submitted batch. Each index is judged by
itself: what is contradictory or missing counts as unanswered, never as another item's result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker.domain.lifecycle import ENDED_AT_REMOTE, RUNNING_AT_REMOTE
from worker.domain.outcomes import BatchExecution, RemoteItem

MAX_ODDITIES = 20  # kept per batch


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What becomes of the items of an ended batch, by their index in it."""

    remote_status: str
    ran_judge_version_id: str | None
    completed: Mapping[int, RemoteItem]
    failed: Mapping[int, RemoteItem]
    missing: frozenset[int]  # indices that the remote does not account for
    oddities: tuple[str, ...]  # where the response contradicts itself

    def reason(self, index: int) -> str:
        """Return why this item has no result, in the API's words where it gave some."""
        if index in self.failed:
            return self.failed[index].error_message or "failed at the judge, which gave no reason"
        return f"the batch ended '{self.remote_status}' without an answer for this input"

    def execution_log_id(self, index: int) -> str | None:
        item = self.completed.get(index) or self.failed.get(index)
        return item.execution_log_id if item else None


def is_running(execution: BatchExecution) -> bool:
    """Return whether to keep waiting: every status that is not a known end means that."""
    return execution.status not in ENDED_AT_REMOTE


def is_undocumented_status(execution: BatchExecution) -> bool:
    """Return whether no source describes this status; such a status is recorded once."""
    return execution.status not in ENDED_AT_REMOTE | RUNNING_AT_REMOTE


def read_batch_result(execution: BatchExecution, item_count: int) -> BatchResult:
    """Sort the items of an ended batch of `item_count` inputs by what became of them."""
    completed: dict[int, RemoteItem] = {}
    failed: dict[int, RemoteItem] = {}
    oddities = list(execution.oddities)
    for item in execution.items:
        if item.index >= item_count:
            oddities.append(f"item {item.index} was never sent")
        elif item.status == "completed":
            completed[item.index] = item
        elif item.status == "failed":
            failed[item.index] = item
        else:
            oddities.append(f"item {item.index} is '{item.status}' in an ended batch")
    missing = frozenset(range(item_count)) - completed.keys() - failed.keys()
    if missing:
        oddities.append(f"{len(missing)} of {item_count} items are not answered for")
    return BatchResult(
        remote_status=execution.status,
        ran_judge_version_id=execution.judge_version_id,
        completed=completed,
        failed=failed,
        missing=missing,
        oddities=tuple(oddities[:MAX_ODDITIES]),
    )
