"""Send requests over pooled connections that obey `exchange_deadline`.

This replaces `httpx.HTTPTransport`, which does not let us choose the network backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from worker.remote.certificates import tls_context
from worker.remote.deadline import DeadlineBackend
from worker.remote.proxies import SOCKS, environment_proxy

IDLE_CONNECTIONS = 64  # kept open for the next requests
IDLE_SECONDS = 5.0

_ERROR_NAMES = (
    *("ConnectError", "ReadError", "WriteError", "NetworkError"),
    *("ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout", "TimeoutException"),
    *("LocalProtocolError", "RemoteProtocolError", "ProtocolError"),
    *("ProxyError", "UnsupportedProtocol"),
)
HTTPX_ERRORS = {getattr(httpcore, name): getattr(httpx, name) for name in _ERROR_NAMES}


class PoolTransport(httpx.BaseTransport):
    """A transport over a connection pool of httpcore, which raises httpx's errors."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool

    def close(self) -> None:
        self._pool.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        headers, content, extensions = request.headers.raw, request.read(), request.extensions
        with _httpx_errors():
            response = self._pool.handle_request(
                httpcore.Request(
                    request.method, url, headers=headers, content=content, extensions=extensions
                )
            )
        stream = _ResponseStream(response)
        return httpx.Response(response.status, headers=response.headers, stream=stream)


class _ResponseStream(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_errors():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """Raise httpx's error of the same name in place of httpcore's."""
    try:
        yield
    except tuple(HTTPX_ERRORS) as error:
        kind = next(kind for kind in type(error).__mro__ if kind in HTTPX_ERRORS)
        raise HTTPX_ERRORS[kind](str(error)) from error


def connection_pool(base_url: httpx.URL) -> httpcore.ConnectionPool:
    """Create the pool for one host, through the proxy that the environment names for it, if any.

    Raises `ConfigurationError` where a variable of the environment is of no use.
    """
    tls = tls_context()
    options: dict[str, Any] = {
        "ssl_context": tls,
        "max_connections": None,
        "max_keepalive_connections": IDLE_CONNECTIONS,
        "keepalive_expiry": IDLE_SECONDS,
        "network_backend": DeadlineBackend(),
    }
    proxy = environment_proxy(base_url)
    if proxy is None:
        return httpcore.ConnectionPool(**options)
    if proxy.userinfo:
        options["proxy_auth"] = (proxy.username, proxy.password)
    url = str(proxy.copy_with(userinfo=b""))
    if proxy.scheme in SOCKS:
        return httpcore.SOCKSProxy(url, **options)
    if proxy.scheme == "https":
        options["proxy_ssl_context"] = tls
    return httpcore.HTTPProxy(url, **options)
