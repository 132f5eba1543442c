"""What an ended batch means for each of its items; pure.

The remote knows an item only by its place in what was sent. An answer is believed place by place:
what is contradictory or missing counts as not answered for, never as somebody else's result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker.domain.lifecycle import ENDED_AT_REMOTE, RUNNING_AT_REMOTE
from worker.domain.outcomes import BatchExecution, RemoteItem

MAX_ODDITIES = 20  # kept per batch


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of the items of an ended batch, by their place in it."""

    remote_status: str
    ran_judge_version_id: str | None
    completed: Mapping[int, RemoteItem]
    failed: Mapping[int, RemoteItem]
    missing: frozenset[int]  # places that the remote does not account for
    oddities: tuple[str, ...]

    def reason(self, place: int) -> str:
        """Why this place has no result, in the API's words where it has some."""
        if place in self.failed:
            return self.failed[place].error_message or "failed at the judge, which gave no reason"
        return f"the batch ended '{self.remote_status}' without an answer for this input"

    def execution_log_id(self, place: int) -> str | None:
        item = self.completed.get(place) or self.failed.get(place)
        return item.execution_log_id if item else None


def is_running(execution: BatchExecution) -> bool:
    """Whether to keep waiting: any status that is not known to be an end means that."""
    return execution.status not in ENDED_AT_REMOTE


def is_new_word(execution: BatchExecution) -> bool:
    """Whether the status is one that no source describes; worth telling, once."""
    return execution.status not in ENDED_AT_REMOTE | RUNNING_AT_REMOTE


def read_answer(execution: BatchExecution, item_count: int) -> Answer:
    """Sorts the items of an ended batch of `item_count` inputs by what became of them."""
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
    return Answer(
        remote_status=execution.status,
        ran_judge_version_id=execution.judge_version_id,
        completed=completed,
        failed=failed,
        missing=missing,
        oddities=tuple(oddities[:MAX_ODDITIES]),
    )
