"""Send signed webhooks, and guard against server-side request forgery (SSRF).

The URL comes from anyone who can insert a job, while the worker runs inside the operator's
network. So this client resolves the host itself, checks every address, and connects to one of the
addresses that it checked: a host name that resolves differently a moment later (DNS rebinding)
changes nothing. Redirects are not followed, no proxy is used, and only the status of a response
is read.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

import httpcore
import httpx
from standardwebhooks import Webhook

from worker import __version__
from worker.remote.certificates import tls_context
from worker.remote.deadline import DeadlineBackend, ExchangeAborted, exchange_deadline
from worker.remote.transport import PoolTransport
from worker.validation import url_offences

Resolver = Callable[[str, int], Iterable[str]]

DEADLINE_SECONDS = 10.0  # of a whole exchange; shorter than the lease of its caller
CONNECT_SECONDS = 5.0
GONE = 410  # the receiver wants no more webhooks

NO_SECRET = "EVALWORKER_WEBHOOK_SECRET is not set, and nothing is sent unsigned"  # noqa: S105 (none)

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver responded with 2xx."""


@dataclass(frozen=True, slots=True)
class Undelivered:
    """The receiver did not respond with 2xx. A permanent failure is not worth another attempt."""

    reason: str
    is_permanent: bool = False


class _ForbiddenAddressError(Exception):
    """The host of the URL has an address that nothing may be sent to."""


def resolve_host(host: str, port: int) -> list[str]:
    """Return the system resolver's addresses, in its order. Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class WebhookClient:
    """A client that signs and sends webhooks. Thread-safe; each outcome is a value, no exception.

    Args:
        secrets: Each signs every webhook, so that a secret can be replaced without a gap.
        allow_private: Whether `http://` and addresses that are not public are allowed.
        resolve: Returns the addresses of a host and port, and raises `OSError` on failure.
        deadline: Seconds for a whole exchange, connecting included.
    """

    def __init__(
        self,
        secrets: Sequence[str],
        *,
        allow_private: bool,
        resolve: Resolver = resolve_host,
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        self._signers = [Webhook(secret) for secret in secrets]
        self._allow_private = allow_private
        self._deadline = deadline
        self._transport = PoolTransport(
            partial(
                httpcore.ConnectionPool,
                ssl_context=tls_context(),
                max_connections=None,
                max_keepalive_connections=0,  # so that each delivery resolves and checks its host
                network_backend=_GuardedBackend(resolve, allow_private=allow_private),
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def send(
        self, url: str, notice_id: str, payload: Any, *, may_send: Callable[[], bool] | None = None
    ) -> Delivered | Undelivered:
        """POST a notice, once. Nothing more is sent after `may_send` has returned False."""
        if not self._signers:
            return Undelivered(NO_SECRET, is_permanent=True)
        if offences := self._url_offences(url):
            return Undelivered("; ".join(offences), is_permanent=True)
        try:
            body = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            request = self._request(url, notice_id, body)
            with (
                exchange_deadline(self._deadline, may_send),
                closing(self._transport.handle_request(request)) as response,
            ):
                return _outcome(response.status_code)
        except _ForbiddenAddressError as error:
            return Undelivered(str(error), is_permanent=True)
        except (httpx.InvalidURL, UnicodeError) as error:
            return Undelivered(f"cannot be sent: {error}", is_permanent=True)
        except ExchangeAborted as error:
            return Undelivered(str(error))
        except (httpx.NetworkError, httpx.TimeoutException, httpx.ProtocolError) as error:
            return Undelivered(f"{type(error).__name__}: {error}".rstrip(": "))

    def _url_offences(self, url: str) -> list[str]:
        offences = url_offences(url)
        if not offences and not self._allow_private and not url.lower().startswith("https:"):
            offences.append(
                "callback_url must begin with https:// "
                "(unless EVALWORKER_WEBHOOK_ALLOW_PRIVATE is set)"
            )
        return offences

    def _request(self, url: str, notice_id: str, body: str) -> httpx.Request:
        """Sign as https://www.standardwebhooks.com specifies, with the time of this attempt."""
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"evalworker/{__version__}",
            "Connection": "close",
            "webhook-id": notice_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(
                signer.sign(notice_id, now, body) for signer in self._signers
            ),
        }
        extensions = {"timeout": {"connect": CONNECT_SECONDS}}  # the deadline limits all the rest
        content = body.encode()
        return httpx.Request("POST", url, headers=headers, content=content, extensions=extensions)


def _outcome(status: int) -> Delivered | Undelivered:
    if 200 <= status < 300:
        return Delivered()
    if 300 <= status < 400:
        return Undelivered(f"answered {status}: redirects are not followed")
    return Undelivered(f"answered {status}", is_permanent=status == GONE)


def is_public(address: str) -> bool:
    """Return whether the address, and any IPv4 address embedded in it, is globally reachable."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = [parsed.ipv4_mapped, parsed.sixtofour, *(parsed.teredo or ())]
        if parsed in _NAT64:
            embedded.append(ipaddress.IPv4Address(parsed.packed[-4:]))
        if any(inner is not None and not is_public(str(inner)) for inner in embedded):
            return False
        if parsed.ipv4_mapped is not None:
            return True
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


class _GuardedBackend(httpcore.NetworkBackend):
    """Resolves and checks a host, and connects to the checked addresses instead of the name."""

    def __init__(self, resolve: Resolver, *, allow_private: bool) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._backend = DeadlineBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **kwargs: Any
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in self._checked_addresses(host, port):
            try:
                return self._backend.connect_tcp(address, port, timeout, *args, **kwargs)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _checked_addresses(self, host: str, port: int) -> list[str]:
        try:
            addresses = list(self._resolve(host, port))
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host}: {error}") from error
        for address in addresses:
            if not self._allow_private and not is_public(address):
                raise _ForbiddenAddressError(
                    f"{host} is {address}, which is not a public address "
                    "(see EVALWORKER_WEBHOOK_ALLOW_PRIVATE)"
                )
        return addresses
