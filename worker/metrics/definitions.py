"""Define every metric of this service: its name, its labels and its help text.

A metric is either of one *process* (sum it over replicas) or of the *database* that all replicas
share (each reports the same, so take the maximum). Labels are bounded: the values listed here, HTTP
status codes, and at most `MAX_JUDGES` judges.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

MAX_JUDGES = 50  # those with the most waiting items; all others together are the judge `OTHER`
OTHER = "other"

REQUEST_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
"""In seconds. No request takes longer than 20."""
BATCH_BUCKETS = (
    *(0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
    *(1800.0, 3600.0, 14400.0, 86400.0),
)
"""In seconds, for batches and for jobs."""


class Scope(StrEnum):
    PROCESS = "process"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that is not yet part of a registry, and whose labels the documentation can list."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()  # of its one label: exported as zero before the first event
    buckets: tuple[float, ...] = ()
    scope: Scope = Scope.PROCESS

    @property
    def documentation(self) -> str:
        """The help text, with the way to add up replicas."""
        how = "sum" if self.scope is Scope.PROCESS else "max"
        return f"{self.help} (Of the {self.scope}: {how} over replicas.)"


def _counter(name: str, text: str, *labels: str, values: tuple[str, ...] = ()) -> Metric:
    return Metric(name, "counter", text, labels, values)


def _histogram(
    name: str, text: str, buckets: tuple[float, ...], *labels: str, values: tuple[str, ...] = ()
) -> Metric:
    return Metric(name, "histogram", text, labels, values, buckets)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "gauge", text, labels)


def _database_gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "gauge", text, labels, scope=Scope.DATABASE)


# --- Of the database ----------------------------------------------------------------------------

ITEMS_WAITING = _database_gauge(
    "evalworker_items_waiting", "Items that wait to be put into a batch.", "judge"
)
OLDEST_WAITING = _database_gauge(
    "evalworker_oldest_waiting_seconds",
    "Seconds that the oldest waiting item has been due.",
    "judge",
)
BATCHES = _database_gauge(
    "evalworker_batches",
    "Batches that have not ended, by state, including those on hold (state `held`).",
    "state",
)
OLDEST_BATCH = _database_gauge(
    "evalworker_oldest_batch_seconds",
    "Seconds since the oldest batch in each state was planned.",
    "state",
)
GATES_CLOSED = _database_gauge(
    "evalworker_gates_closed",
    "Closed gates: the API refuses all requests (`api`), one kind or one judge, or a person "
    "paused work (`pause`).",
    "scope",
)
IN_FLIGHT_LIMIT = _database_gauge(
    "evalworker_in_flight_limit",
    "Limit of batches at the remote: MAX_IN_FLIGHT, or less after the API refused more.",
)

# --- Of each process: transitions that it recorded ----------------------------------------------

JOBS_TAKEN = _counter("evalworker_jobs_taken_total", "Jobs that the gateway accepted.")
JOBS_ENDED = _counter(
    "evalworker_jobs_ended_total",
    "Jobs that ended.",
    "outcome",
    values=("completed", "failed", "cancelled"),
)
JOB_SECONDS = _histogram(
    "evalworker_job_seconds", "Seconds from enqueue to the last result of a job.", BATCH_BUCKETS
)
ITEMS_ENDED = _counter(
    "evalworker_items_ended_total", "Items that ended.", "outcome", values=("completed", "failed")
)
ITEMS_RETRIED = _counter(
    "evalworker_items_retried_total", "Items that failed and will be sent again."
)
BATCHES_PLANNED = _counter("evalworker_batches_planned_total", "Batches that were planned.")
BATCHES_SUBMITTED = _counter(
    "evalworker_batches_submitted_total",
    "Batches that the API accepted: by its response, or found there after the response was lost.",
    "how",
    values=("answered", "found"),
)
BATCHES_ENDED = _counter(
    "evalworker_batches_ended_total",
    "Batches that ended: with results, refused, split in two, or lost at the remote.",
    "outcome",
    values=("finished", "refused", "split", "lost"),
)
BATCH_SECONDS = _histogram(
    "evalworker_batch_seconds",
    "Seconds from a batch's submission to the poll that found it had ended.",
    BATCH_BUCKETS,
)
BATCHES_UNKNOWN = _counter(
    "evalworker_batches_unknown_total",
    "Submissions whose response was lost, so that the remote is searched for the batch.",
)
BATCHES_HELD = _counter(
    "evalworker_batches_held_total", "Batches that were put on hold until a person resolves them."
)
BATCHES_PUT_OFF = _counter(
    "evalworker_batches_put_off_total",
    "Requests for a batch that will be repeated: throttled, refused, or without a response.",
)
REPOLLS = _counter("evalworker_repolls_total", "Polls that found the batch still running.")
LEASES_LOST = _counter(
    "evalworker_leases_lost_total",
    "Leases that expired before the outcome was recorded, noticed by the holder or by a successor.",
    "seen_by",
    values=("holder", "successor"),
)
MESSAGES_LOST = _counter(
    "evalworker_messages_lost_total",
    "Messages that the broker did not accept; the dispatcher sends them again.",
)
MESSAGES_RESENT = _counter(
    "evalworker_messages_resent_total",
    "Messages that the dispatcher sent for overdue batches: after a wait, or because one was lost.",
)
SURPRISES = _counter("evalworker_surprises_total", "Steps that raised an unexpected exception.")
PACE_LOWERED = _counter(
    "evalworker_pace_lowered_total",
    "Times that the limit of batches at the remote was lowered because the API refused more.",
)
NOTICES_ENDED = _counter(
    "evalworker_notices_ended_total",
    "Notices of ended jobs that were delivered or given up.",
    "outcome",
    values=("sent", "failed"),
)
NOTICES_PUT_OFF = _counter(
    "evalworker_notices_put_off_total",
    "Attempts to deliver a notice that failed and will be repeated.",
)
GATE_CLOSURES = _counter(
    "evalworker_gate_closures_total",
    "Times that a gate closed because the API was unavailable or refused requests.",
    "scope",
    values=("api", "api:submit", "api:status", "judge"),
)

# --- Of each process: requests that it sent and served ------------------------------------------

ENDPOINTS = ("submit", "status", "list")

REQUESTS = _counter(
    "evalworker_requests_total",
    "Requests to the judge API, by the status code of the response; `none` without a response.",
    "endpoint",
    "status",
)
REQUEST_SECONDS = _histogram(
    "evalworker_request_seconds",
    "Seconds that requests to the judge API took, with or without a response.",
    REQUEST_BUCKETS,
    "endpoint",
    values=ENDPOINTS,
)
GATEWAY_REQUESTS = _counter(
    "evalworker_gateway_requests_total",
    "Requests to the gateway, by the status code of the response.",
    "endpoint",
    "status",
)
GATEWAY_SECONDS = _histogram(
    "evalworker_gateway_request_seconds",
    "Seconds that the gateway took to respond.",
    REQUEST_BUCKETS,
    "endpoint",
    values=ENDPOINTS,
)

# --- Of each process: its condition -------------------------------------------------------------

BUILD = _gauge("evalworker_build_info", "Always 1; the label is the version.", "version")
TURN_AGE = _gauge(
    "evalworker_dispatcher_turn_age_seconds",
    "Seconds since the dispatcher last read the tables; near 0 while it is healthy.",
)
KEY_REFUSED = _gauge(
    "evalworker_key_refused", "1 while the API refuses the key of this process; otherwise 0."
)
SENDS_FAIL = _gauge(
    "evalworker_sends_fail", "1 while the broker takes no messages from this process; otherwise 0."
)
DATABASE_UP = _gauge(
    "evalworker_database_up",
    "1 if the database answered this scrape; otherwise 0, and its metrics are missing.",
)
POOL = _gauge(
    "evalworker_database_connections", "Connections of the pool to the database.", "state"
)
POOL_LIMIT = _gauge(
    "evalworker_database_connections_limit", "Maximum number of connections of the pool."
)
POOLER = _gauge(
    "evalworker_database_pooler_info",
    "Always 1; the label is the mode of the pooler before PostgreSQL: `session`, `transaction` or "
    "`none`.",
    "mode",
)

METRICS = tuple(value for value in tuple(globals().values()) if isinstance(value, Metric))
