"""Count and time what this process did, fed by events after their commit."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Histogram

from worker.events import CountedEvent, Event, RecordedEvent
from worker.metrics import definitions
from worker.metrics.definitions import Metric

# The counter that each event increments, and the values of its labels.
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
NO_RESPONSE = "none"
_CODES = frozenset(str(status.value) for status in HTTPStatus)


class Counters:
    """Counts what one process did. It is thread-safe, and its methods do not raise."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counters: dict[Metric, Counter] = {}
        self._histograms: dict[Metric, Histogram] = {}
        for metric in definitions.METRICS:
            given = (metric.name, metric.documentation, metric.labels)
            if metric.kind == "counter":
                counter = self._counters[metric] = Counter(*given, registry=registry)
                for value in metric.values:
                    counter.labels(value)
            elif metric.kind == "histogram":
                histogram = self._histograms[metric] = Histogram(
                    *given, registry=registry, buckets=metric.buckets
                )
                for value in metric.values:
                    histogram.labels(value)

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
                self._count(definitions.GATE_CLOSURES, (scope_label(detail["scope"]),))

    def on_api_request(self, endpoint: str, status: int | None, seconds: float) -> None:
        """Count a request to the judge API; `status` is None if no response came."""
        self._count(definitions.REQUESTS, (endpoint, _status_label(status)))
        self._observe(definitions.REQUEST_SECONDS, seconds, endpoint)

    def on_gateway_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request to the gateway."""
        self._count(definitions.GATEWAY_REQUESTS, (endpoint, _status_label(status)))
        self._observe(definitions.GATEWAY_SECONDS, seconds, endpoint)

    def on_message_lost(self) -> None:
        """Count a message that the broker did not accept."""
        self._count(definitions.MESSAGES_LOST, ())

    def _count(self, metric: Metric, labels: tuple[str, ...], times: int = 1) -> None:
        counter = self._counters[metric]
        (counter.labels(*labels) if labels else counter).inc(times)

    def _observe(self, metric: Metric, seconds: float | None, *labels: str) -> None:
        if seconds is not None:
            histogram = self._histograms[metric]
            (histogram.labels(*labels) if labels else histogram).observe(max(0.0, seconds))


def scope_label(gate: str) -> str:
    """Return a gate's scope without the id of its judge."""
    return gate if gate.startswith("api") else gate.partition(":")[0]


def _status_label(status: int | None) -> str:
    """Return a status code that HTTP defines, else its class, to bound the label's values."""
    if status is None:
        return NO_RESPONSE
    return str(status) if str(status) in _CODES else f"{status // 100}xx"
