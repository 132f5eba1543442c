"""What this process did: counters and histograms, fed by events after their commit."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Histogram

from worker.metrics import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import CollectorRegistry

    from worker.metrics.names import Metric

# The store's events that are counted one by one: which counter, and its label.
COUNTED: Mapping[str, tuple[Metric, tuple[str, ...]]] = {
    "job.taken": (names.JOBS_TAKEN, ()),
    "job.completed": (names.JOBS_ENDED, ("completed",)),
    "job.failed": (names.JOBS_ENDED, ("failed",)),
    "job.cancelled": (names.JOBS_ENDED, ("cancelled",)),
    "item.failed": (names.ITEMS_ENDED, ("failed",)),
    "item.retried": (names.ITEMS_RETRIED, ()),
    "batch.planned": (names.BATCHES_PLANNED, ()),
    "batch.finished": (names.BATCHES_ENDED, ("finished",)),
    "batch.refused": (names.BATCHES_ENDED, ("refused",)),
    "batch.split": (names.BATCHES_ENDED, ("split",)),
    "batch.lost": (names.BATCHES_ENDED, ("lost",)),
    "batch.unknown": (names.BATCHES_UNKNOWN, ()),
    "batch.held": (names.BATCHES_HELD, ()),
    "batch.waits": (names.BATCHES_PUT_OFF, ()),
    "batch.polled": (names.REPOLLS, ()),
    "batch.surprised": (names.SURPRISES, ()),
    "pace.lowered": (names.PACE_LOWERED, ()),
    "notice.sent": (names.NOTICES_ENDED, ("sent",)),
    "notice.failed": (names.NOTICES_ENDED, ("failed",)),
    "notice.waits": (names.NOTICES_PUT_OFF, ()),
    "lease.lost": (names.LEASES_LOST, ("holder",)),
    "lease.taken_over": (names.LEASES_LOST, ("successor",)),
    "message.resent": (names.MESSAGES_RESENT, ()),
}
NO_ANSWER = "none"
_CODES = frozenset(str(status.value) for status in HTTPStatus)


class ProcessMetrics:
    """One per process. Safe to use from several threads; nothing here raises."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counters: dict[Metric, Counter] = {}
        self._histograms: dict[Metric, Histogram] = {}
        for metric in names.METRICS:
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
                self._count(names.ITEMS_ENDED, ("completed",), detail["completed"])
                self._observe(names.BATCH_SECONDS, detail.get("seconds"))
            case "batch.submitted":
                how = "found" if detail.get("found") else "answered"
                self._count(names.BATCHES_SUBMITTED, (how,))
            case "job.completed" | "job.failed":
                self._observe(names.JOB_SECONDS, detail.get("seconds"))
            case "gate.closed":
                self._count(names.GATES_SHUT, (scope_of(detail["scope"]),))

    def requested(self, endpoint: str, status: int | None, seconds: float) -> None:
        """A request to the judge API; no status where there was no answer."""
        self._count(names.REQUESTS, (endpoint, _code(status)))
        self._observe(names.REQUEST_SECONDS, seconds, endpoint)

    def message_lost(self) -> None:
        """The broker did not take a message."""
        self._count(names.MESSAGES_LOST, ())

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """A request to the gateway."""
        self._count(names.GATEWAY_REQUESTS, (endpoint, _code(status)))
        self._observe(names.GATEWAY_SECONDS, seconds, endpoint)

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
