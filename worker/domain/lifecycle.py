"""Define the states of a batch, and which state may follow which.

    planned -> submitting -> submitted -> finished
                   |             |-> lost      (gone or stuck at the remote: its items wait again)
                   |-> unknown                 (no usable response: search before sending again)
                   |      |-> submitted        (found at the remote)
                   |------|-> planned          (the remote has nothing of it: sent again)
                   |------|-> refused          (the remote will not take it)

A live batch can also be put on hold (`held`) until a person resolves it, which leads to `planned`,
`unknown`, `submitted` or `lost`. The guarded statements of the store and the CHECK constraints of
the schema are tested against `TRANSITIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class BatchState(StrEnum):
    """The state of a batch, with who sets it and when."""

    PLANNED = "planned"  # by the planner: its items are assigned, nothing has been sent
    SUBMITTING = "submitting"  # by submit, before its POST: a batch may exist at the remote
    UNKNOWN = "unknown"  # by submit: no response came back, so the remote is searched first
    SUBMITTED = "submitted"  # by submit: the remote gave an id, which is polled
    FINISHED = "finished"  # by poll: its results are recorded
    REFUSED = "refused"  # by submit or recover: the remote will not take it; split, or failed
    LOST = "lost"  # by poll, or a person: gone or stuck at the remote; its items wait again
    HELD = "held"  # by any step: its holders keep dying, or a person must decide


TRANSITIONS: Mapping[BatchState, frozenset[BatchState]] = {
    BatchState(state): frozenset(map(BatchState, after.split()))
    for state, after in {
        "planned": "submitting refused held",
        "submitting": "planned submitted unknown refused held",
        "unknown": "planned submitted refused held",
        "submitted": "finished lost held",
        "held": "planned unknown submitted lost",
        "finished": "",
        "refused": "",
        "lost": "",
    }.items()
}

LIVE_STATES = frozenset(map(BatchState, ("planned", "submitting", "unknown", "submitted")))
"""States in which the worker has something to do: such a batch has a due time and takes a slot."""


class Status(StrEnum):
    """The status of a job or an item: the API's words, and `cancelled`."""

    PENDING = "pending"  # waits to be put into a batch
    PROCESSING = "processing"  # an item: in a live batch; a job: at least one item has been planned
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"  # by `cancel`, before a result was there


ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class NoticeState(StrEnum):
    """The state of a notice that a job has ended, to the URL that its producer named."""

    WAITING = "waiting"  # to be sent, or sent again
    SENT = "sent"  # its receiver confirmed it
    FAILED = "failed"  # by notify: it can never be sent, or its attempts are used up


# The remote's statuses of a batch, and of an item, in lower case. Every status outside
# ENDED_AT_REMOTE means "keep waiting", known or not: a new word must never end a batch.
GIVEN_UP_AT_REMOTE = frozenset(
    {"cancelled", "canceled", "expired", "aborted", "terminated", "timed_out", "timeout"}
)
"""Undocumented ends that somebody or something decided: nothing is sent again unasked."""

ENDED_AT_REMOTE = frozenset({"completed", "partial", "failed"}) | GIVEN_UP_AT_REMOTE
RUNNING_AT_REMOTE = frozenset({"pending", "processing"})


def job_status_at_end(*, completed: int, failed: int) -> Status:
    """Return the status of a job whose items have all ended: failed only if none was evaluated."""
    if completed:
        return Status.COMPLETED
    return Status.FAILED if failed else Status.CANCELLED
