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

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


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


@dataclass(frozen=True, slots=True)
class EvaluatorResult:
    """One evaluator's verdict on one item."""

    evaluator_name: str
    score: float | None  # None: the evaluator gave none, or not a finite number (see `extra`)
    justification: str | None
    evaluator_id: str | None = None
    evaluator_version_id: str | None = None
    confidence: float | None = None
    extra: Mapping[str, Any] | None = None  # as received: what the fields above cannot hold


@dataclass(frozen=True, slots=True)
class RemoteItem:
    """One item of a batch execution; `index` is its place in what was sent."""

    index: int
    status: str
    evaluator_results: tuple[EvaluatorResult, ...] = ()
    error_message: str = ""
    execution_log_id: str | None = None
    input: Mapping[str, Any] | None = None  # what the remote says it was sent


@dataclass(frozen=True, slots=True)
class BatchExecution:
    """A batch as the remote shows it: whole from its status path, without items from the list."""

    batch_execution_id: str
    status: str
    total_count: int | None = None
    created_at: datetime | None = None
    seconds: float | None = None  # that an ended one took, by the remote's own clock
    judge_version_id: str | None = None  # the version that really ran
    tags: tuple[str, ...] | None = None  # None: this server does not show tags
    items: tuple[RemoteItem, ...] = ()
    oddities: tuple[str, ...] = field(default=())  # where the answer contradicted itself


# --- Outcomes of a call -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted:
    """The remote took the batch and gave it an id."""

    batch_execution_id: str
    status_url: str | None = None  # only when it is on the API's own origin


@dataclass(frozen=True, slots=True)
class Found:
    """The status path answered with the batch."""

    execution: BatchExecution


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of the list; `next_cursor` is None on the last."""

    executions: tuple[BatchExecution, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Invalid:
    """400 or 422: at least one input is not acceptable; nothing was started."""

    reason: str


@dataclass(frozen=True, slots=True)
class TooLarge:
    """413: fewer inputs might pass; nothing was started."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """404: no such judge, no such batch (yet, or any more), or no such endpoint."""

    reason: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """429: come back later; `retry_after` in seconds where the remote says when."""

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """401, 403, or an answer that only a person can mend (a redirect, 405, …); nothing started.

    `judge_only` where it concerns this judge (403), not everything that the key does.
    """

    reason: str
    judge_only: bool = False


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The remote did not answer in a usable way.

    `sent` is False only where it is proved that the request did not reach the API (refused
    connection, name not resolved, TLS handshake failed). A POST with `sent` True may have
    started a batch.
    """

    reason: str
    sent: bool = True


SubmitOutcome = Accepted | Invalid | TooLarge | NotFound | Throttled | Denied | Unavailable
StatusOutcome = Found | NotFound | Throttled | Denied | Unavailable
ListOutcome = Listed | NotFound | Throttled | Denied | Unavailable
