"""Define every event that the worker records in `eval_events`, or counts for its metrics.

The words are stored, so they never change. `docs/database.md` shows each with its description.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self
from uuid import UUID


class Event(StrEnum):
    """A word of `eval_events.event`, the sentence that the documentation shows, and a log level."""

    description: str
    level: int

    def __new__(cls, word: str, description: str, level: int = logging.INFO) -> Self:
        member = str.__new__(cls, word)
        member._value_ = word
        member.description = description
        member.level = level
        return member

    JOB_TAKEN = "job.taken", "The gateway accepted a job."
    JOB_COMPLETED = "job.completed", "All inputs of a job ended, and at least one was evaluated."
    JOB_FAILED = (
        "job.failed",
        "All inputs of a job ended, and none was evaluated.",
        logging.WARNING,
    )
    JOB_CANCELLED = "job.cancelled", "A person cancelled a job."
    JOB_RETRY = "job.retry", "A person had inputs of a job evaluated again."
    JOB_REOPENED = "job.reopened", "Inputs were added to a job that had nothing left to plan."
    JOB_TEXTS_PRUNED = "job.texts_pruned", "The texts of an ended job were deleted."
    JOBS_TEXTS_PRUNED = "jobs.texts_pruned", "A prune of texts finished; the detail has its counts."
    JOBS_PRUNED = "jobs.pruned", "A prune of whole jobs finished; the detail has its counts."

    ITEM_RETRIED = "item.retried", "An input failed and will be sent again."
    ITEM_FAILED = "item.failed", "An input failed for good."

    BATCH_PLANNED = "batch.planned", "Inputs were put into a new batch."
    BATCH_SUBMITTING = "batch.submitting", "A batch is about to be sent to the judge API."
    BATCH_SUBMITTED = "batch.submitted", "The judge API accepted a batch, or was found to have it."
    BATCH_WAITS = "batch.waits", "A submission or a poll did not succeed and will be repeated."
    BATCH_UNKNOWN = (
        "batch.unknown",
        "No response came, so the judge API may have the batch.",
        logging.WARNING,
    )
    BATCH_SEARCHED = (
        "batch.searched",
        "The judge API was searched for a batch, without finding it.",
    )
    BATCH_REFUSED = (
        "batch.refused",
        "A batch can never be sent as it is; its inputs failed.",
        logging.WARNING,
    )
    BATCH_SPLIT = "batch.split", "A refused batch was split in two to isolate the offending input."
    BATCH_UNKNOWN_STATUS = (
        "batch.unknown_status",
        "The judge API reported an undocumented status.",
        logging.WARNING,
    )
    BATCH_FINISHED = "batch.finished", "The results of a batch were recorded."
    BATCH_LOST = (
        "batch.lost",
        "The judge API lost a batch, or took too long over it.",
        logging.WARNING,
    )
    BATCH_SURPRISED = (
        "batch.surprised",
        "An unexpected error interrupted a step of a batch.",
        logging.WARNING,
    )
    BATCH_HELD = (
        "batch.held",
        "A batch was put on hold until a person resolves it.",
        logging.ERROR,
    )
    BATCH_RESOLVED = "batch.resolved", "A person resolved a batch that was on hold."
    BATCH_SUPERSEDED = "batch.superseded", "Evaluated inputs left a batch to be evaluated again."

    GATE_CLOSED = (
        "gate.closed",
        "Requests of a scope are stopped: they fail, or a person has paused them.",
        logging.WARNING,
    )
    GATE_OPENED = "gate.opened", "Requests of a scope are sent again."
    PACE_LOWERED = "pace.lowered", "The judge API refused a batch, so fewer may run concurrently."

    NOTICE_SENT = "notice.sent", "A webhook was delivered."
    NOTICE_WAITS = "notice.waits", "A webhook could not be delivered and will be sent again."
    NOTICE_FAILED = ("notice.failed", "A webhook was given up.", logging.WARNING)


class CountedEvent(StrEnum):
    """Events that only feed the metrics: they are neither stored nor logged."""

    BATCH_POLLED = "batch.polled"
    LEASE_LOST = "lease.lost"
    LEASE_TAKEN_OVER = "lease.taken_over"
    MESSAGE_RESENT = "message.resent"


class RecordedEvent(NamedTuple):
    """One event with what it concerns; `detail` holds reasons, counts and seconds."""

    event: Event | CountedEvent
    job_id: UUID | None = None
    item_index: int | None = None
    batch_id: UUID | None = None
    detail: Mapping[str, Any] | None = None

    @property
    def level(self) -> int:
        """The level of its line in the log. A pause is a person's wish, and no trouble."""
        if isinstance(self.event, CountedEvent):
            return logging.DEBUG
        is_pause = str((self.detail or {}).get("scope", "")).startswith("pause")
        return logging.INFO if is_pause else self.event.level
