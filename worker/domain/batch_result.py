"""Decide what an ended batch means for each of its items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker.domain.item_assignment import Ambiguous, Inputs, assign_items
from worker.domain.lifecycle import ENDED_AT_REMOTE, GIVEN_UP_AT_REMOTE, RUNNING_AT_REMOTE
from worker.domain.outcomes import BatchExecution, RemoteItem
from worker.domain.phrases import quantity

MAX_ODDITIES = 20  # kept per batch

_WITH_ITEMS = frozenset({"completed", "partial"})  # ends of batches that were evaluated


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
        item = self.failed.get(index)
        if item is None:
            return f"the batch ended '{self.remote_status}' without a result for this input"
        if item.error_message or item.status == "failed":
            return item.error_message or "failed at the judge, which gave no reason"
        return f"'{item.status}' at the judge, which gave no reason"

    def may_retry(self, index: int) -> bool:
        """Return whether to send a failed item again unasked: not if the remote gave it up."""
        item = self.failed.get(index)
        words = {self.remote_status, item.status if item else ""}
        return not words & GIVEN_UP_AT_REMOTE

    def execution_log_id(self, index: int) -> str | None:
        item = self.completed.get(index) or self.failed.get(index)
        return item.execution_log_id if item else None


@dataclass(frozen=True, slots=True)
class UnreadableResult:
    """The batch has ended, but whose results these are cannot be told: nothing is recorded.

    Its inputs may have been evaluated, so they are not sent again either.
    """

    reason: str


def _status_of(item: RemoteItem) -> str:
    """Return the status of an item; one that has an error instead of results has failed."""
    has_error_alone = item.error_message and not item.evaluator_results
    return "failed" if item.status == "completed" and has_error_alone else item.status


def is_running(execution: BatchExecution) -> bool:
    """Return whether to keep waiting: every status that is not a known end means that."""
    return execution.status not in ENDED_AT_REMOTE


def is_undocumented_status(execution: BatchExecution) -> bool:
    """Return whether no source describes this status; such a status is recorded once."""
    return execution.status not in ENDED_AT_REMOTE | RUNNING_AT_REMOTE


def read_batch_result(execution: BatchExecution, sent: Inputs) -> BatchResult | UnreadableResult:
    """Sort the items of an ended batch by what became of the inputs that were `sent`."""
    if not execution.items and execution.status in _WITH_ITEMS:
        shown = f"the batch ended '{execution.status}', but shows no items"
        return UnreadableResult("; ".join((shown, *execution.unreadable)))
    assignment = assign_items(execution.items, sent)
    if isinstance(assignment, Ambiguous):
        return UnreadableResult(assignment.reason)
    completed: dict[int, RemoteItem] = {}
    failed: dict[int, RemoteItem] = {}
    oddities = list(execution.oddities)
    if assignment.oddity is not None:
        oddities.append(assignment.oddity)
    oddities += [f"item {item.index} was never sent" for item in assignment.surplus]
    unreadable = list(execution.unreadable)
    for index, item in assignment.items.items():
        status = _status_of(item)
        if status == "completed":
            completed[index] = item
        elif status == "failed" or status in GIVEN_UP_AT_REMOTE:
            failed[index] = item
        elif item.status in RUNNING_AT_REMOTE:
            oddities.append(f"item {index} is '{item.status}' in an ended batch")
        else:
            unreadable.append(f"item {index} is '{item.status}', which is no known status")
    missing = frozenset(sent) - completed.keys() - failed.keys()
    if missing and unreadable:
        return UnreadableResult("; ".join(unreadable[:MAX_ODDITIES]))
    without = sum(not item.evaluator_results for item in completed.values())
    if without:
        oddities.append(f"{quantity(without, 'completed item')} without results")
    scored = sum(bool(item.evaluator_results) for item in failed.values())
    if scored:
        oddities.append(f"{quantity(scored, 'failed item')} with results, which are left out")
    if missing:
        oddities.append(f"{len(missing)} of {len(sent)} items have no result")
    return BatchResult(
        remote_status=execution.status,
        ran_judge_version_id=execution.judge_version_id,
        completed=completed,
        failed=failed,
        missing=missing,
        oddities=tuple((*oddities, *unreadable)[:MAX_ODDITIES]),
    )
