"""Hands on to the judge API what the gateway does not serve, as it came and with its own key.

The worker's key is never added: who calls brings a key of the judge API's. A key of the gateway's
is of no use there and a secret here, and goes nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import httpx
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from worker.gateway.auth import Keys
from worker.remote.cookies import NoCookies
from worker.remote.urls import Address
from worker.wire.asgi import bounded_body, refuse_long_body
from worker.wire.auth import key_in
from worker.wire.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

PREFIX = "/v1/"
TIMEOUT = httpx.Timeout(120.0, connect=5.0)  # seconds; a judge may think for long

# Of one connection, not of the message; and the host, which is another one.
_OWN = frozenset(
    {
        "connection",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class PassThrough:
    """One client for all callers; it keeps nothing of one that another could see."""

    def __init__(
        self,
        base_url: str,
        keys: Keys,
        *,
        max_body_bytes: int,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._address = Address(base_url)
        self._keys = keys
        self._max_body_bytes = max_body_bytes
        self._client = httpx.AsyncClient(
            transport=transport, follow_redirects=False, timeout=TIMEOUT, cookies=NoCookies()
        )
        self._client.headers.clear()

    async def close(self) -> None:
        await self._client.aclose()

    async def answer(self, request: Request) -> Response:
        if self._keys.find(key_in(request.headers.get("authorization"))) is not None:
            words = "This is passed on to the judge API, which needs a key of its own."
            raise Problem(403, "permission_denied", words)
        refuse_long_body(request, max_bytes=self._max_body_bytes)
        body = bounded_body(request, max_bytes=self._max_body_bytes)
        upstream = self._client.build_request(
            request.method,
            self._url(request),
            headers=_without_own(request.headers.items()),
            content=body if _has_body(request) else None,
        )
        try:
            response = await self._client.send(upstream, stream=True, auth=None)
        except httpx.HTTPError as error:
            words = f"The judge API did not answer: {type(error).__name__}."
            raise Problem(502, "bad_gateway", words) from error
        answer = StreamingResponse(
            response.aiter_raw(), response.status_code, background=BackgroundTask(response.aclose)
        )
        for name, value in _without_own(response.headers.multi_items()):
            answer.headers.append(name, value)
        return answer

    def _url(self, request: Request) -> httpx.URL:
        path = request.scope["raw_path"].decode("ascii", "replace")
        query = request.scope["query_string"].decode("ascii", "replace")
        asked = f"{path}?{query}" if query else path
        url = self._address.own(asked.removeprefix("/")) if path.startswith(PREFIX) else None
        if url is None:
            raise Problem(404, "not_found", "Not Found.")
        return url


def _has_body(request: Request) -> bool:
    return "content-length" in request.headers or "transfer-encoding" in request.headers


def _without_own(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    named = {
        word.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for word in value.split(",")
    }
    return [(name, value) for name, value in headers if name.lower() not in _OWN | named]
