"""What this process did: counters and histograms, fed by events after their commit."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram

from worker.events import CountedEvent, Event, RecordedEvent
from worker.metrics import definitions
from worker.metrics.definitions import Metric

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

# The store's events that are counted one by one: which counter, and its label.
COUNTED: Mapping[Event | CountedEvent, tuple[Metric, tuple[str, ...]]] = {
    Event.JOB_TAKEN: (definitions.JOBS_TAKEN, ()),
    Event.JOB_COMPLETED: (definitions.JOBS_ENDED, ("completed",)),
    Event.JOB_FAILED: (definitions.JOBS_ENDED, ("failed",)),
    Event.JOB_CANCELLED: (definitions.JOBS_ENDED, ("cancelled",)),
    Event.ITEM_FAILED: (definitions.ITEMS_ENDED, ("failed",)),
    Event.ITEM_RETRIED: (definitions.ITEMS_RETRIED, ()),
    Event.BATCH_PLANNED: (definitions.BATCHES_PLANNED, ()),
    Event.BATCH_FINISHED: (definitions.BATCHES_ENDED, ("finished",)),
    Event.BATCH_REFUSED: (definitions.BATCHES_ENDED, ("refused",)),
    Event.BATCH_SPLIT: (definitions.BATCHES_ENDED, ("split",)),
    Event.BATCH_LOST: (definitions.BATCHES_ENDED, ("lost",)),
    Event.BATCH_UNKNOWN: (definitions.BATCHES_UNKNOWN, ()),
    Event.BATCH_HELD: (definitions.BATCHES_HELD, ()),
    Event.BATCH_WAITS: (definitions.BATCHES_PUT_OFF, ()),
    CountedEvent.BATCH_POLLED: (definitions.REPOLLS, ()),
    Event.BATCH_SURPRISED: (definitions.SURPRISES, ()),
    Event.PACE_LOWERED: (definitions.PACE_LOWERED, ()),
    Event.NOTICE_SENT: (definitions.NOTICES_ENDED, ("sent",)),
    Event.NOTICE_FAILED: (definitions.NOTICES_ENDED, ("failed",)),
    Event.NOTICE_WAITS: (definitions.NOTICES_PUT_OFF, ()),
    CountedEvent.LEASE_LOST: (definitions.LEASES_LOST, ("holder",)),
    CountedEvent.LEASE_TAKEN_OVER: (definitions.LEASES_LOST, ("successor",)),
    CountedEvent.MESSAGE_RESENT: (definitions.MESSAGES_RESENT, ()),
}
NO_ANSWER = "none"
_CODES = frozenset(str(status.value) for status in HTTPStatus)


class ProcessMetrics:
    """One per process. Safe to use from several threads; nothing here raises."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counters: dict[Metric, Counter] = {}
        self._histograms: dict[Metric, Histogram] = {}
        for metric in definitions.METRICS:
            if metric.kind == "counter":
                self._counters[metric] = Counter(
                    metric.name, metric.documentation, metric.labels, registry=registry
                )
            elif metric.kind == "histogram":
                self._histograms[metric] = Histogram(
                    metric.name,
                    metric.documentation,
                    metric.labels,
                    registry=registry,
                    buckets=metric.buckets,
                )
            for values in metric.values:
                (self._counters.get(metric) or self._histograms[metric]).labels(*values)

    def on_event(self, recorded: RecordedEvent) -> None:
        """Count a committed event of the store."""
        event, detail = recorded.event, recorded.detail or {}
        if event in COUNTED:
            self._count(*COUNTED[event])
        match event:
            case Event.BATCH_FINISHED:
                self._count(definitions.ITEMS_ENDED, ("completed",), detail["completed"])
                self._observe(definitions.BATCH_SECONDS, detail.get("seconds"))
            case Event.BATCH_SUBMITTED:
                how = "found" if detail.get("found") else "answered"
                self._count(definitions.BATCHES_SUBMITTED, (how,))
            case Event.JOB_COMPLETED | Event.JOB_FAILED:
                self._observe(definitions.JOB_SECONDS, detail.get("seconds"))
            case Event.GATE_CLOSED:
                self._count(definitions.GATES_SHUT, (scope_of(detail["scope"]),))

    def requested(self, endpoint: str, status: int | None, seconds: float) -> None:
        """A request to the judge API; no status where there was no answer."""
        self._count(definitions.REQUESTS, (endpoint, _code(status)))
        self._observe(definitions.REQUEST_SECONDS, seconds, endpoint)

    def message_lost(self) -> None:
        """The broker did not take a message."""
        self._count(definitions.MESSAGES_LOST, ())

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """A request to the gateway."""
        self._count(definitions.GATEWAY_REQUESTS, (endpoint, _code(status)))
        self._observe(definitions.GATEWAY_SECONDS, seconds, endpoint)

    def _count(self, metric: Metric, labels: tuple[str, ...], times: int = 1) -> None:
        counter = self._counters[metric]
        (counter.labels(*labels) if labels else counter).inc(times)

    def _observe(self, metric: Metric, seconds: float | None, *labels: str) -> None:
        if seconds is not None:
            histogram = self._histograms[metric]
            (histogram.labels(*labels) if labels else histogram).observe(max(0.0, seconds))


def scope_of(gate: str) -> str:
    """A gate's scope without the name of its judge."""
    return gate if gate.startswith("api") else gate.partition(":")[0]


def _code(status: int | None) -> str:
    """A code that HTTP knows, else its class: a remote may answer anything."""
    if status is None:
        return NO_ANSWER
    return str(status) if str(status) in _CODES else f"{status // 100}xx"
