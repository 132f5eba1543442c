"""The trace context of the caller, as W3C traceparent."""

from __future__ import annotations

import re
import sys

TRACEPARENT = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"


def producers_span() -> str | None:
    """The span that is active here, as W3C `traceparent`; None where there is none.

    Whoever has one has imported OpenTelemetry: for all others this costs a look into a dictionary.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def callers_span(header: str | None) -> str | None:
    """The span of who called by HTTP: this server's own, where it makes one, or the caller's."""
    own = producers_span()
    if own is not None or header is None:
        return own
    return header if re.fullmatch(TRACEPARENT, header) else None
