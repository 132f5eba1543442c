"""One trace from `enqueue` to the recorded result, where the extra `evalworker[otel]` is installed.

spans    the worker's: one around each step, and one for a job at its end
sending  out of this process, as OpenTelemetry's own variables say

The producer decides: a job without a trace context of its own leaves no span. Producers import this
package, so nothing of OpenTelemetry is imported here.
"""
