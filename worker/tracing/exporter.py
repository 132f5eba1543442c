"""Set up the exporter of this process's spans, and find the tracer that makes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from worker import __version__
from worker.errors import ConfigurationError
from worker.remote.certificates import require_file, require_folder
from worker.remote.proxies import environment_proxy

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
CERTIFICATES = (  # of which the exporter takes the first that is set
    *("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)


def start_export() -> None:
    """Export spans to the collector that OpenTelemetry's own variables name, if they name one.

    An SDK that is set up already, for example by `opentelemetry-instrument`, is left as it is.
    Raises `ConfigurationError` where the exporter could only fail, once for each export.
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
    check_export()
    name = os.environ.get("OTEL_SERVICE_NAME", "evalworker")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def check_export() -> None:
    """Raise `ConfigurationError` where the collector's URL, proxy or certificates are of no use."""
    variable = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if variable is None:
        return
    try:
        endpoint = httpx.URL(os.environ[variable])
    except httpx.InvalidURL as error:
        raise ConfigurationError([f"{variable} is no URL ({error}); correct or unset it"]) from None
    if endpoint.scheme not in ("http", "https") or not endpoint.host:
        raise ConfigurationError([f"{variable} must begin with http:// or https://"])
    environment_proxy(endpoint, socks_package="socks")
    bundle = next((name for name in CERTIFICATES if os.environ.get(name)), None)
    if endpoint.scheme == "https" and bundle is not None:
        (require_folder if Path(os.environ[bundle]).is_dir() else require_file)(bundle)


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
