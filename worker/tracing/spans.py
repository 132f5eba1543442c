"""Make the worker's spans.

A batch may hold items of several jobs, and so of several traces. The span of a step links to all
of them, and if there is only one, it belongs to that trace. When a job ends, its trace gets a span
from enqueue to end, with a link to the step that recorded it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy.exc import SQLAlchemyError

from worker.events import Event, RecordedEvent
from worker.store import trace_queries
from worker.store.database import Database

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

JOB_ENDS = frozenset({Event.JOB_COMPLETED, Event.JOB_FAILED, Event.JOB_CANCELLED})


class Tracing:
    """Makes the spans of one process. Its methods do not raise: evaluations matter more."""

    def __init__(self, database: Database, tracer: Tracer) -> None:
        self._database = database
        self._tracer = tracer
        database.observe(self.on_event)

    @contextmanager
    def step(self, name: str, batch_id: UUID) -> Iterator[None]:
        """Run a step in a span, if any job of the batch is traced."""
        contexts = self._contexts(batch_id)
        if not contexts:
            yield
            return
        with self._tracer.start_as_current_span(
            f"evalworker {name}",
            context=contexts[0] if len(contexts) == 1 else None,
            kind=SpanKind.CONSUMER,
            links=[Link(trace.get_current_span(one).get_span_context()) for one in contexts],
            attributes={"evalworker.batch_id": str(batch_id)},
        ):
            yield

    def on_api_request(self, endpoint: str, status: int | None, seconds: float) -> None:
        """Add a span for a request to the judge API that has just ended."""
        if not trace.get_current_span().is_recording():
            return
        ended = time.time_ns()
        span = self._tracer.start_span(
            f"judge API {endpoint}", kind=SpanKind.CLIENT, start_time=ended - _ns(seconds)
        )
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        if status is None or status >= 400:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)

    def on_event(self, recorded: RecordedEvent) -> None:
        """Add a committed event to the span of the current step; end the trace of an ended job."""
        step = trace.get_current_span()
        if step.is_recording() and isinstance(recorded.event, Event):
            step.add_event(recorded.event.value, _attributes(recorded))
        if recorded.event in JOB_ENDS and recorded.job_id is not None:
            self._job_ended(recorded, recorded.job_id)

    def _job_ended(self, recorded: RecordedEvent, job_id: UUID) -> None:
        try:
            with self._database.read() as connection:
                job = trace_queries.traced_job(connection, job_id)
        except SQLAlchemyError:
            return
        context = _context(job.trace_context) if job is not None else None
        if job is None or context is None:
            return
        detail = recorded.detail or {}
        ended, step = time.time_ns(), trace.get_current_span().get_span_context()
        span = self._tracer.start_span(
            "evalworker job",
            context=context,
            start_time=ended - _ns(detail.get("seconds") or 0.0),
            links=[Link(step)] if step.is_valid else (),
            attributes={**_attributes(recorded), "evalworker.judge_id": job.judge_id},
        )
        if recorded.event == Event.JOB_FAILED:
            span.set_status(Status(StatusCode.ERROR, detail.get("error")))
        span.end(ended)

    def _contexts(self, batch_id: UUID) -> list[Context]:
        try:
            with self._database.read() as connection:
                found = trace_queries.contexts_of_batch(connection, batch_id)
        except SQLAlchemyError:
            return []
        return [context for text in found if (context := _context(text)) is not None]


def _context(traceparent: str) -> Context | None:
    """Parse a `traceparent`. Returns None for invalid ones: plain SQL may have written any text."""
    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    return context if trace.get_current_span(context).get_span_context().is_valid else None


def _attributes(recorded: RecordedEvent) -> dict[str, Any]:
    ids = {name: getattr(recorded, name) for name in ("job_id", "item_index", "batch_id")}
    given = {**ids, **(recorded.detail or {})}
    return {
        f"evalworker.{name}": value if isinstance(value, bool | int | float) else str(value)
        for name, value in given.items()
        if value is not None
    }


def _ns(seconds: float) -> int:
    return int(max(0.0, seconds) * 1_000_000_000)
