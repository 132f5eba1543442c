"""Metrics are bounded, and count what was committed."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from dramatiq.brokers.stub import StubBroker
from prometheus_client import generate_latest

from worker.events import CountedEvent, Event, RecordedEvent
from worker.metrics import Metrics, definitions
from worker.metrics.collector import top_judges
from worker.metrics.counters import COUNTED
from worker.metrics.definitions import METRICS, Scope
from worker.pipeline.messages import MessageSender

# Events that no counter of their own counts, and why.
NOT_COUNTED = {
    Event.BATCH_SUBMITTING,  # its outcome is counted instead
    Event.BATCH_SEARCHED,  # unknown batches and requests to the list are counted
    Event.BATCH_SUBMITTED,  # counted by how it was found
    Event.BATCH_RESOLVED,  # caused by people
    Event.BATCH_SUPERSEDED,
    Event.BATCH_UNKNOWN_STATUS,  # counted as a poll
    Event.GATE_CLOSED,  # counted by scope
    Event.GATE_OPENED,
    Event.JOB_REOPENED,
    Event.JOB_RETRY,  # caused by people
    Event.JOB_TEXTS_PRUNED,
    Event.JOBS_TEXTS_PRUNED,
    Event.JOBS_PRUNED,
}


def test_every_event_is_counted_or_listed_as_not_counted() -> None:
    assert {*Event, *CountedEvent} == set(COUNTED) | NOT_COUNTED
    assert not set(COUNTED) & NOT_COUNTED


def test_names_follow_prometheus_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("evalworker_")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.kind != "histogram" or metric.name.endswith("_seconds"), metric.name
        assert f"{metric.scope}: " in metric.documentation
        assert metric.scope is Scope.PROCESS or metric.kind == "gauge"


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_two_instances_of_metrics_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.on_api_request("submit", 202, 0.1)
    assert sample(first, "evalworker_requests_total", endpoint="submit", status="202") == 1
    assert sample(second, "evalworker_requests_total", endpoint="submit", status="202") is None


def test_counters_with_known_labels_are_exported_as_zero() -> None:
    metrics = Metrics()
    for outcome in ("finished", "refused", "split", "lost"):
        assert sample(metrics, "evalworker_batches_ended_total", outcome=outcome) == 0
    assert sample(metrics, "evalworker_batches_unknown_total") == 0


def test_a_finished_batch_counts_its_items() -> None:
    metrics = Metrics()
    detail = {"completed": 97, "failed": 3, "seconds": 12.5}
    metrics.on_event(RecordedEvent(Event.BATCH_FINISHED, detail=detail))
    metrics.on_event(RecordedEvent(Event.ITEM_FAILED))
    metrics.on_event(RecordedEvent(Event.ITEM_RETRIED))
    assert sample(metrics, "evalworker_batches_ended_total", outcome="finished") == 1
    assert sample(metrics, "evalworker_items_ended_total", outcome="completed") == 97
    assert sample(metrics, "evalworker_items_ended_total", outcome="failed") == 1
    assert sample(metrics, "evalworker_items_retried_total") == 1
    assert sample(metrics, "evalworker_batch_seconds_sum") == 12.5


@pytest.mark.parametrize(
    ("status", "label"), [(202, "202"), (429, "429"), (799, "7xx"), (None, "none")]
)
def test_status_codes_are_bounded(status: int | None, label: str) -> None:
    metrics = Metrics()
    metrics.on_api_request("status", status, 0.2)
    assert sample(metrics, "evalworker_requests_total", endpoint="status", status=label) == 1
    assert sample(metrics, "evalworker_request_seconds_count", endpoint="status") == 1


def test_gates_of_judges_are_one_scope() -> None:
    metrics = Metrics()
    for scope in ("judge:a", "judge:b", "api:submit"):
        metrics.on_event(RecordedEvent(Event.GATE_CLOSED, detail={"scope": scope}))
    assert sample(metrics, "evalworker_gate_closures_total", scope="judge") == 2
    assert sample(metrics, "evalworker_gate_closures_total", scope="api:submit") == 1


def test_judges_beyond_the_limit_are_exported_as_other() -> None:
    rows = [(f"judge-{n:03}", 1000 - n, float(n)) for n in range(definitions.MAX_JUDGES + 10)]
    found = top_judges([*rows, ("idle", 0, 5.0)])
    assert len(found) == definitions.MAX_JUDGES + 1
    assert found["judge-000"] == (1000, 0.0)
    rest = rows[definitions.MAX_JUDGES :]
    assert found[definitions.OTHER] == (sum(count for _, count, _ in rest), rest[-1][2])


def test_a_message_that_the_broker_rejects_is_counted() -> None:
    class Away(StubBroker):
        def enqueue(self, *_: Any, **__: Any) -> Any:
            raise ConnectionRefusedError

    metrics = Metrics()
    mailbox = MessageSender(Away(), "q", on_room=lambda: None, on_lost=metrics.on_message_lost)
    mailbox.poll(uuid4())
    assert sample(metrics, "evalworker_messages_lost_total") == 1


def test_metrics_are_exported_in_prometheus_format() -> None:
    text = generate_latest(Metrics().registry).decode()
    assert "# TYPE evalworker_batches_ended_total counter" in text
    assert "# HELP evalworker_job_seconds Seconds from enqueue to the last result of" in text
