"""Read the trace context of the caller, as W3C `traceparent`."""

from __future__ import annotations

import re
import sys

TRACEPARENT = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"


def current_traceparent() -> str | None:
    """Return the `traceparent` of the active span; None without one.

    A program with an active span has imported OpenTelemetry; for all others this only costs the
    test of a dictionary.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def request_traceparent(header: str | None) -> str | None:
    """Return the `traceparent` of this server's span, else the valid one that the caller sent."""
    own = current_traceparent()
    if own is not None or header is None:
        return own
    return header if re.fullmatch(TRACEPARENT, header) else None
