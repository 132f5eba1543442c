"""Trace from `enqueue` to the recorded result, if the extra `evalworker[otel]` is installed.

context   the trace context of the producer or caller, as W3C `traceparent`
spans     the worker's spans: one for each step, and one for each job when it ends
exporter  the exporter of spans, configured by OpenTelemetry's own variables

The producer decides: the worker makes no span for a job without a trace context. Producers import
`context`, so it does not import OpenTelemetry.
"""
