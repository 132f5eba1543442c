"""Set up the exporter of this process's spans, and find the tracer that makes them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from worker import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def start_export() -> None:
    """Export spans to the collector that OpenTelemetry's own variables name, if they name one.

    An SDK that is set up already, for example by `opentelemetry-instrument`, is left as it is.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS) or find_tracer() is not None:
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:  # the extra is not installed
        return
    name = os.environ.get("OTEL_SERVICE_NAME", "evalworker")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def find_tracer() -> Tracer | None:
    """Return None, so that tracing costs nothing, if OpenTelemetry is not installed or set up."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer("evalworker", __version__)
