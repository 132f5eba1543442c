"""What this process did: counters and histograms, fed by events after their commit."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Histogram

from worker.metrics import definitions
from worker.metrics.definitions import Metric

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

# The store's events that are counted one by one: which counter, and its label.
COUNTED: Mapping[str, tuple[Metric, tuple[str, ...]]] = {
    "job.taken": (definitions.JOBS_TAKEN, ()),
    "job.completed": (definitions.JOBS_ENDED, ("completed",)),
    "job.failed": (definitions.JOBS_ENDED, ("failed",)),
    "job.cancelled": (definitions.JOBS_ENDED, ("cancelled",)),
    "item.failed": (definitions.ITEMS_ENDED, ("failed",)),
    "item.retried": (definitions.ITEMS_RETRIED, ()),
    "batch.planned": (definitions.BATCHES_PLANNED, ()),
    "batch.finished": (definitions.BATCHES_ENDED, ("finished",)),
    "batch.refused": (definitions.BATCHES_ENDED, ("refused",)),
    "batch.split": (definitions.BATCHES_ENDED, ("split",)),
    "batch.lost": (definitions.BATCHES_ENDED, ("lost",)),
    "batch.unknown": (definitions.BATCHES_UNKNOWN, ()),
    "batch.held": (definitions.BATCHES_HELD, ()),
    "batch.waits": (definitions.BATCHES_PUT_OFF, ()),
    "batch.polled": (definitions.REPOLLS, ()),
    "batch.surprised": (definitions.SURPRISES, ()),
    "pace.lowered": (definitions.PACE_LOWERED, ()),
    "notice.sent": (definitions.NOTICES_ENDED, ("sent",)),
    "notice.failed": (definitions.NOTICES_ENDED, ("failed",)),
    "notice.waits": (definitions.NOTICES_PUT_OFF, ()),
    "lease.lost": (definitions.LEASES_LOST, ("holder",)),
    "lease.taken_over": (definitions.LEASES_LOST, ("successor",)),
    "message.resent": (definitions.MESSAGES_RESENT, ()),
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

    def happened(self, event: Mapping[str, Any]) -> None:
        """An event of the store, committed."""
        what, detail = event["event"], event["detail"] or {}
        if what in COUNTED:
            self._count(*COUNTED[what])
        match what:
            case "batch.finished":
                self._count(definitions.ITEMS_ENDED, ("completed",), detail["completed"])
                self._observe(definitions.BATCH_SECONDS, detail.get("seconds"))
            case "batch.submitted":
                how = "found" if detail.get("found") else "answered"
                self._count(definitions.BATCHES_SUBMITTED, (how,))
            case "job.completed" | "job.failed":
                self._observe(definitions.JOB_SECONDS, detail.get("seconds"))
            case "gate.closed":
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
