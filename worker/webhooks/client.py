"""One POST to a producer's URL, signed, bounded, and never to where it must not go.

The URL comes from whoever can insert a job, and the worker stands inside the operator's network.
So the addresses of its host are looked up here, each of them is checked, and the connection goes to
one of those that were: a name that means another address a moment later leads nowhere else.
Redirects are not followed, no proxy is asked, and of an answer only its status is read.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import httpcore
import httpx
from standardwebhooks import Webhook

from worker import __version__
from worker.remote.deadline import DeadlineBackend, ExchangeAborted, exchange_deadline
from worker.validation import url_offences

_Headers = Mapping[bytes | str, bytes | str]

DEADLINE_SECONDS = 10.0  # of a whole request, under the lease that its caller holds
CONNECT_SECONDS = 5.0
GONE = 410  # "do not send me any more"

NO_SECRET = "EVALWORKER_WEBHOOK_SECRET is not set, and nothing is sent unsigned"  # noqa: S105 (none)

# Addresses within addresses: what is asked for is the IPv4 one.
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver answered 2xx."""


@dataclass(frozen=True, slots=True)
class Undelivered:
    """It did not; `is_permanent` where another try would change nothing."""

    reason: str
    is_permanent: bool = False


class _ForbiddenError(Exception):
    """The URL leads to where nothing may be sent."""


class WebhookClient:
    """Signs and sends. Safe to use from several threads; no outcome is an exception."""

    def __init__(
        self,
        secrets: Sequence[str],
        *,
        allow_private: bool,
        resolve: Callable[[str, int], Iterable[str]] | None = None,
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        self._signers = [Webhook(secret) for secret in secrets]
        self._allow_private = allow_private
        self._deadline = deadline
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=None,
            max_keepalive_connections=0,  # each delivery looks up its own addresses
            network_backend=_Checked(resolve or addresses_of, allow_private=allow_private),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.close()

    def send(
        self,
        url: str,
        notice_id: str,
        payload: Any,
        *,
        may_send: Callable[[], bool] | None = None,
    ) -> Delivered | Undelivered:
        """POSTs a notice, once; `may_send` is asked just before bytes leave."""
        if not self._signers:
            return Undelivered(NO_SECRET, is_permanent=True)
        if offences := self._offences(url):
            return Undelivered("; ".join(offences), is_permanent=True)
        try:
            body = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            target = httpx.URL(url)
            with exchange_deadline(self._deadline, may_send):
                return self._post(target, self._headers(target, notice_id, body), body.encode())
        except _ForbiddenError as error:
            return Undelivered(str(error), is_permanent=True)
        except (httpx.InvalidURL, UnicodeError) as error:
            return Undelivered(f"cannot be sent: {error}", is_permanent=True)
        except ExchangeAborted as error:
            return Undelivered(str(error))
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            return Undelivered(f"{type(error).__name__}: {error}".rstrip(": "))

    def _offences(self, url: str) -> list[str]:
        found = url_offences(url)
        if not found and not self._allow_private and not url.lower().startswith("https:"):
            found.append(
                "callback_url must begin with https:// "
                "(unless EVALWORKER_WEBHOOK_ALLOW_PRIVATE is set)"
            )
        return found

    def _headers(self, target: httpx.URL, notice_id: str, body: str) -> _Headers:
        """As https://www.standardwebhooks.com prescribes; the time is that of this attempt."""
        moment = datetime.now(UTC)
        return {
            "Host": target.netloc.decode(),
            "Content-Type": "application/json",
            "Content-Length": str(len(body.encode())),
            "User-Agent": f"evalworker/{__version__}",
            "Connection": "close",
            "webhook-id": notice_id,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": " ".join(
                signer.sign(notice_id, moment, body) for signer in self._signers
            ),
        }

    def _post(self, target: httpx.URL, headers: _Headers, body: bytes) -> Delivered | Undelivered:
        url = httpcore.URL(
            scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
        )
        seconds = {"connect": CONNECT_SECONDS, "read": self._deadline, "write": self._deadline}
        extensions = {"timeout": {**seconds, "pool": self._deadline}}
        with self._pool.stream(
            "POST", url, headers=headers, content=body, extensions=extensions
        ) as answer:
            return _read(answer.status)


def _read(status: int) -> Delivered | Undelivered:
    if 200 <= status < 300:
        return Delivered()
    if 300 <= status < 400:
        return Undelivered(f"answered {status}: redirects are not followed")
    return Undelivered(f"answered {status}", is_permanent=status == GONE)


def addresses_of(host: str, port: int) -> list[str]:
    """What the machine's resolver says, in its order; raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Whether anybody on the internet could be asked at this address."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in _TRANSLATED:
            inner.append(ipaddress.IPv4Address(found.packed[-4:]))
        if any(one is not None and not is_public(str(one)) for one in inner):
            return False
        if found.ipv4_mapped is not None:
            return True
    return found.is_global and not found.is_multicast and not found.is_reserved


class _Checked(httpcore.NetworkBackend):
    """Connects to addresses that were looked up and checked here, not to names."""

    def __init__(
        self, resolve: Callable[[str, int], Iterable[str]], *, allow_private: bool
    ) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._inner = DeadlineBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in self._addresses(host, port):
            try:
                return self._inner.connect_tcp(
                    address,
                    port,
                    timeout=timeout,
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = list(self._resolve(host, port))
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host}: {error}") from error
        for address in found:
            if not self._allow_private and not is_public(address):
                raise _ForbiddenError(
                    f"{host} is {address}, which is not a public address "
                    "(see EVALWORKER_WEBHOOK_ALLOW_PRIVATE)"
                )
        return found
