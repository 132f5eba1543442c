"""Send requests over pooled connections that obey `exchange_deadline`.

This replaces `httpx.HTTPTransport`, which does not let us choose the network backend.

An exchange has a pool of httpcore for itself, which holds one connection. In a shared pool, one
thread may close an idle connection that another thread has just been given
(github.com/encode/httpcore/issues/1110): its request is lost after it was sent, and nobody knows
whether the batch exists.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpcore
import httpx

from worker.remote.certificates import tls_context
from worker.remote.deadline import DeadlineBackend, clock
from worker.remote.proxies import SOCKS, environment_proxy

IDLE_SECONDS = 5.0  # for which a connection is kept open for the next request

_ERROR_NAMES = (
    *("ConnectError", "ReadError", "WriteError", "NetworkError"),
    *("ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout", "TimeoutException"),
    *("LocalProtocolError", "RemoteProtocolError", "ProtocolError"),
    *("ProxyError", "UnsupportedProtocol"),
)
HTTPX_ERRORS = {getattr(httpcore, name): getattr(httpx, name) for name in _ERROR_NAMES}


class PoolTransport(httpx.BaseTransport):
    """A transport over connection pools of httpcore, which raises httpx's errors. Thread-safe.

    `open_pool` is called for each exchange that finds no idle pool.
    """

    def __init__(self, open_pool: Callable[[], httpcore.ConnectionPool]) -> None:
        self._open_pool = open_pool
        self._lock = threading.Lock()
        self._idle: deque[tuple[httpcore.ConnectionPool, float]] = deque()  # and since when
        self._idle_seconds = IDLE_SECONDS

    def close(self) -> None:
        """Close the idle connections now, and the others after their exchange."""
        self._idle_seconds = 0.0
        self._close_unused()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        headers, content, extensions = request.headers.raw, request.read(), request.extensions
        pool = self._take()
        try:
            with _httpx_errors():
                response = pool.handle_request(
                    httpcore.Request(
                        request.method, url, headers=headers, content=content, extensions=extensions
                    )
                )
        except BaseException:
            self._give_back(pool)
            raise
        stream = _ResponseStream(response, lambda: self._give_back(pool))
        return httpx.Response(response.status, headers=response.headers, stream=stream)

    def _take(self) -> httpcore.ConnectionPool:
        """Take the pool that was used last: its connection is the most likely to be open still."""
        with self._lock:
            if self._idle:
                return self._idle.pop()[0]
        return self._open_pool()

    def _give_back(self, pool: httpcore.ConnectionPool) -> None:
        with self._lock:
            self._idle.append((pool, clock()))
        self._close_unused()

    def _close_unused(self) -> None:
        unused: list[httpcore.ConnectionPool] = []
        with self._lock:
            while self._idle and self._idle[0][1] <= clock() - self._idle_seconds:
                unused.append(self._idle.popleft()[0])
        for pool in unused:
            pool.close()


class _ResponseStream(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response, give_back: Callable[[], None]) -> None:
        self._response = response
        self._give_back = give_back
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_errors():
            yield from self._response.iter_stream()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            try:
                self._response.close()
            finally:
                self._give_back()


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """Raise httpx's error of the same name in place of httpcore's."""
    try:
        yield
    except tuple(HTTPX_ERRORS) as error:
        kind = next(kind for kind in type(error).__mro__ if kind in HTTPX_ERRORS)
        raise HTTPX_ERRORS[kind](str(error)) from error


def pool_opener(base_url: httpx.URL) -> Callable[[], httpcore.ConnectionPool]:
    """Return what opens pools for one host, through the proxy that the environment names, if any.

    Raises `ConfigurationError` where a variable of the environment is of no use.
    """
    tls = tls_context()
    options: dict[str, Any] = {
        "ssl_context": tls,
        "max_connections": 1,
        "keepalive_expiry": IDLE_SECONDS,
        "network_backend": DeadlineBackend(),
    }
    proxy = environment_proxy(base_url)
    if proxy is None:
        return partial(httpcore.ConnectionPool, **options)
    if proxy.userinfo:
        options["proxy_auth"] = (proxy.username, proxy.password)
    url = str(proxy.copy_with(userinfo=b""))
    if proxy.scheme in SOCKS:
        return partial(httpcore.SOCKSProxy, url, **options)
    if proxy.scheme == "https":
        options["proxy_ssl_context"] = tls
    return partial(httpcore.HTTPProxy, url, **options)
