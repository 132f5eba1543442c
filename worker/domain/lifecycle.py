"""The states of a batch, what may follow what, and what a call to the judge API can come to.

    planned -> submitting -> submitted -> finished
                   |             |-> lost      (gone or stuck at the remote: its items wait again)
                   |-> unknown                 (the answer was lost: look before sending again)
                   |-> refused                 (the remote will not take it)

    and from each of the first four -> held    (set aside for a person, who says how it goes on)

`TRANSITIONS` is the whole truth about that drawing; the store's guarded statements and the
CHECK constraints of the schema are tested against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class BatchState(StrEnum):
    PLANNED = "planned"  # by the dispatcher: items are assigned, nothing has been sent
    SUBMITTING = "submitting"  # by submit, before its POST: a batch may exist at the remote
    UNKNOWN = "unknown"  # by submit: no answer came back, so the remote is searched first
    SUBMITTED = "submitted"  # by submit: the remote gave an id; it is polled
    FINISHED = "finished"  # by poll: results are recorded
    REFUSED = "refused"  # by submit: the remote will not take it; split, or its one item failed
    LOST = "lost"  # by poll: gone or stuck at the remote; its items wait again
    HELD = "held"  # by submit or poll: its holders keep dying, or only a person can decide


TRANSITIONS: Mapping[BatchState, frozenset[BatchState]] = {
    BatchState.PLANNED: frozenset({BatchState.SUBMITTING, BatchState.REFUSED, BatchState.HELD}),
    BatchState.SUBMITTING: frozenset(
        {
            BatchState.PLANNED,
            BatchState.SUBMITTED,
            BatchState.UNKNOWN,
            BatchState.REFUSED,
            BatchState.HELD,
        }
    ),
    BatchState.UNKNOWN: frozenset({BatchState.PLANNED, BatchState.SUBMITTED, BatchState.HELD}),
    BatchState.SUBMITTED: frozenset({BatchState.FINISHED, BatchState.LOST, BatchState.HELD}),
    BatchState.HELD: frozenset({BatchState.PLANNED, BatchState.UNKNOWN, BatchState.SUBMITTED}),
    BatchState.FINISHED: frozenset(),
    BatchState.REFUSED: frozenset(),
    BatchState.LOST: frozenset(),
}

LIVE_STATES = frozenset(TRANSITIONS) - {
    BatchState.HELD,
    BatchState.FINISHED,
    BatchState.REFUSED,
    BatchState.LOST,
}
"""States with something for the worker to do: such a batch is due at some time, and has a place."""


class Status(StrEnum):
    """Of a job or an item, in the API's words and one of our own (`cancelled`)."""

    PENDING = "pending"  # waits to be put into a batch
    PROCESSING = "processing"  # an item: in a live batch; a job: at least one item has been planned
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"  # by `cancel`, before a result was there


ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class NoticeState(StrEnum):
    """Of a notice that a job has ended, to the URL that its producer named."""

    WAITING = "waiting"  # to be sent, or sent again
    SENT = "sent"  # its receiver answered that it has it
    FAILED = "failed"  # by notify: it can never be sent, or was tried often enough


# What the remote says of a batch. Statuses that are not in this set mean "keep waiting", known
# or not: a new word must never end a batch.
ENDED_AT_REMOTE = frozenset({"completed", "partial", "failed"})
RUNNING_AT_REMOTE = frozenset({"pending", "processing"})


def job_status_at_end(*, completed: int, failed: int) -> Status:
    """The status of a job whose items have all ended: failed only if nothing was evaluated."""
    if completed:
        return Status.COMPLETED
    return Status.FAILED if failed else Status.CANCELLED


# --- What the remote says, as frozen values --------------------------------------------------


# --- Outcomes of a call -----------------------------------------------------------------------
