"""Every metric that this service exports: its name, its labels, and what it tells.

A metric is of one *process* (sum it over replicas), or of the *database* that all replicas share
(each of them shows the same: take the largest). Labels are bounded: words of this list, codes of
HTTP, and at most `MAX_JUDGES` judges.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

MAX_JUDGES = 50  # with the most waiting; the rest together are the judge `OTHER`
OTHER = "other"

SHORT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
LONG = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)
"""Buckets of histograms: of a request, which is bounded to 20 s; of a batch or a job."""


class Scope(StrEnum):
    PROCESS = "process"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Metric:
    """A counter's `name` ends in `_total`, that of seconds in `_seconds`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()  # of the labels: there from the start, at zero
    buckets: tuple[float, ...] = ()
    scope: Scope = Scope.PROCESS

    @property
    def documentation(self) -> str:
        """The help text, with how replicas add up."""
        how = "sum" if self.scope is Scope.PROCESS else "max"
        return f"{self.help} (Of the {self.scope}: {how} over replicas.)"


def _counter(
    name: str, text: str, label: str | None = None, values: tuple[str, ...] = ()
) -> Metric:
    labels = () if label is None else (label,)
    return Metric(name, "counter", text, labels, tuple((value,) for value in values))


def _gauge(name: str, text: str, label: str | None = None) -> Metric:
    labels = () if label is None else (label,)
    return Metric(name, "gauge", text, labels, scope=Scope.DATABASE)


# --- Of the database ----------------------------------------------------------------------------

ITEMS_WAITING = _gauge(
    "evalworker_items_waiting", "Items that wait to be put into a batch.", "judge"
)
OLDEST_WAITING = _gauge(
    "evalworker_oldest_waiting_seconds",
    "For how long the longest waiting item has been due.",
    "judge",
)
BATCHES = _gauge(
    "evalworker_batches",
    "Batches that have not ended, by state; held ones included.",
    "state",
)
OLDEST_BATCH = _gauge(
    "evalworker_oldest_batch_seconds",
    "Since the oldest batch of a state was planned.",
    "state",
)
GATES_CLOSED = _gauge(
    "evalworker_gates_closed",
    "Gates behind which work waits: the API says no, to all, one kind of request, or a judge; "
    "`pause`: a person does.",
    "scope",
)
IN_FLIGHT_LIMIT = _gauge(
    "evalworker_in_flight_limit",
    "Batches that may be at the remote now: MAX_IN_FLIGHT, or fewer since it refused more.",
)

# --- Of each process: what it recorded -----------------------------------------------------------

JOBS_TAKEN = _counter("evalworker_jobs_taken_total", "Jobs that the gateway took.")
JOBS_ENDED = _counter(
    "evalworker_jobs_ended_total",
    "Jobs that ended.",
    "outcome",
    ("completed", "failed", "cancelled"),
)
JOB_SECONDS = Metric(
    "evalworker_job_seconds",
    "histogram",
    "From enqueue to the last result of a job.",
    buckets=LONG,
)
ITEMS_ENDED = _counter(
    "evalworker_items_ended_total", "Items that ended.", "outcome", ("completed", "failed")
)
ITEMS_RETRIED = _counter(
    "evalworker_items_retried_total", "Items that failed and wait for another attempt."
)
BATCHES_PLANNED = _counter("evalworker_batches_planned_total", "Batches that were planned.")
BATCHES_SUBMITTED = _counter(
    "evalworker_batches_submitted_total",
    "Batches that the API took: by its answer, or found there after the answer was lost.",
    "how",
    ("answered", "found"),
)
BATCHES_ENDED = _counter(
    "evalworker_batches_ended_total",
    "Batches that ended: with results, refused, split in two, or lost at the remote.",
    "outcome",
    ("finished", "refused", "split", "lost"),
)
BATCH_SECONDS = Metric(
    "evalworker_batch_seconds",
    "histogram",
    "From a batch's submission to the poll that found its end.",
    buckets=LONG,
)
BATCHES_UNKNOWN = _counter(
    "evalworker_batches_unknown_total", "Submissions whose answer was lost: they are looked for."
)
BATCHES_HELD = _counter(
    "evalworker_batches_held_total", "Batches that were set aside for a person to decide."
)
BATCHES_PUT_OFF = _counter(
    "evalworker_batches_put_off_total",
    "Requests for a batch that told nothing (throttled, refused, no answer): it is tried again.",
)
REPOLLS = _counter("evalworker_repolls_total", "Polls that found the batch still running.")
LEASES_LOST = _counter(
    "evalworker_leases_lost_total",
    "Leases that ended before a record: seen by the holder, too late, or by a successor.",
    "seen_by",
    ("holder", "successor"),
)
MESSAGES_LOST = _counter(
    "evalworker_messages_lost_total", "Messages that the broker did not take; they are sent again."
)
MESSAGES_RESENT = _counter(
    "evalworker_messages_resent_total",
    "Messages that the dispatcher sent for overdue batches: after a wait, or because one was lost.",
)
SURPRISES = _counter("evalworker_surprises_total", "Steps that raised what nobody expected.")
PACE_LOWERED = _counter(
    "evalworker_pace_lowered_total",
    "Times that fewer batches were kept at the remote because it refused more.",
)
NOTICES_ENDED = _counter(
    "evalworker_notices_ended_total",
    "Notices of ended jobs that their receivers have, or that were given up.",
    "outcome",
    ("sent", "failed"),
)
NOTICES_PUT_OFF = _counter(
    "evalworker_notices_put_off_total", "Notices that did not arrive: each is sent again."
)
GATES_SHUT = _counter(
    "evalworker_gate_closures_total",
    "Times that a gate closed because the API said no.",
    "scope",
    ("api", "api:submit", "api:status", "judge"),
)

# --- Of each process: what it asked and was asked -----------------------------------------------

REQUESTS = Metric(
    "evalworker_requests_total",
    "counter",
    "Requests to the judge API, by the status code of the answer; `none` where there was none.",
    ("endpoint", "status"),
)
REQUEST_SECONDS = Metric(
    "evalworker_request_seconds",
    "histogram",
    "How long requests to the judge API took, answered or not.",
    ("endpoint",),
    (("submit",), ("status",), ("list",)),
    SHORT,
)
GATEWAY_REQUESTS = Metric(
    "evalworker_gateway_requests_total",
    "counter",
    "Requests to the gateway, by the status code of its answer.",
    ("endpoint", "status"),
)
GATEWAY_SECONDS = Metric(
    "evalworker_gateway_request_seconds",
    "histogram",
    "How long the gateway took to answer.",
    ("endpoint",),
    (("submit",), ("status",), ("list",)),
    SHORT,
)

# --- Of each process: how it is ----------------------------------------------------------------

BUILD = Metric("evalworker_build_info", "gauge", "1; the label says which version.", ("version",))
TURN_AGE = Metric(
    "evalworker_dispatcher_turn_age_seconds",
    "gauge",
    "Time since the dispatcher last looked at the tables; near 0 where it is well.",
)
DATABASE_UP = Metric(
    "evalworker_database_up",
    "gauge",
    "1 where the tables answered at this scrape; else 0, and all of the database is missing here.",
)
POOL = Metric(
    "evalworker_database_connections",
    "gauge",
    "Connections of the pool to the database.",
    ("state",),
)
POOL_LIMIT = Metric(
    "evalworker_database_connections_limit", "gauge", "Connections that the pool may have at most."
)

METRICS = tuple(value for value in tuple(globals().values()) if isinstance(value, Metric))
