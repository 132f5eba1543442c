"""Sends requests to the judge API: bounded in time and size, and never off its own origin."""

from __future__ import annotations

import json
import time
from datetime import UTC
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx

from worker.lifecycle import ListOutcome, StatusOutcome, SubmitOutcome, Unavailable
from worker.remote.mapping import (
    Answer,
    list_outcome,
    one_line,
    parse,
    status_outcome,
    submit_outcome,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

CONNECT_SECONDS = 5.0
DEADLINE_SECONDS = 20.0  # of a whole request, under the lease that its caller holds
MAX_ANSWER_BYTES = 64 * 1024 * 1024
SHOWN_BYTES = 2000  # of a body that is no JSON, for the message

# Raised before a byte of the request could have reached the API.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
)


class _TooMuchError(Exception):
    """The answer is too long, in bytes or in seconds."""


class JudgeAPI:
    """One API and one key. Safe to use from several threads; no method raises for what the
    network or the remote does: every answer, and every lie, is an outcome."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        transport: httpx.BaseTransport | None = None,
        deadline: float = DEADLINE_SECONDS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._base = httpx.URL(base_url.rstrip("/"))
        self._key = api_key
        self._deadline = deadline
        self._max_answer_bytes = max_answer_bytes
        self._client = httpx.Client(
            transport=transport,
            follow_redirects=False,
            timeout=httpx.Timeout(deadline, connect=min(CONNECT_SECONDS, deadline)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            headers={
                "Authorization": f"Api-Key {api_key}",
                "Accept": "application/json",
                "User-Agent": f"evalworker/{version('evalworker')}",
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def submit(
        self,
        judge_id: str,
        inputs: Sequence[Mapping[str, Any]],
        *,
        tags: Sequence[str] = (),
        judge_version_id: str | None = None,
    ) -> SubmitOutcome:
        """POSTs a batch, once. Unless the outcome says otherwise, it may exist afterwards."""
        body: dict[str, Any] = {"inputs": list(inputs)}
        if tags:
            body["tags"] = list(tags)
        if judge_version_id is not None:
            body["judge_version_id"] = judge_version_id
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        url = self._url(f"/v1/judges/{_segment(judge_id)}/batch-execute/")
        answer = self._request("POST", url, content=content)
        if isinstance(answer, Unavailable):
            return answer
        return submit_outcome(answer, self._own_status_url(answer.body))

    def status(self, batch_execution_id: str, status_url: str | None = None) -> StatusOutcome:
        """GETs a whole batch, by `status_url` where it is on the API's own origin."""
        own = self._own_url(status_url) if status_url else None
        path = f"/v1/judges/batch-executions/{_segment(batch_execution_id)}/"
        answer = self._request("GET", own or self._url(path))
        if isinstance(answer, Unavailable):
            return answer
        return status_outcome(answer, batch_execution_id)

    def list_executions(
        self,
        *,
        judge_id: str | None = None,
        date_from: datetime | None = None,
        cursor: str | None = None,
    ) -> ListOutcome:
        """GETs one page of the list of batches, newest as the server orders them, without items."""
        params = {
            "judge_id": judge_id,
            "date_from": date_from.astimezone(UTC).isoformat() if date_from else None,
            "cursor": cursor,
        }
        url = self._url("/v1/judges/batch-executions/")
        given = {name: value for name, value in params.items() if value is not None}
        answer = self._request("GET", url.copy_merge_params(given) if given else url)
        return answer if isinstance(answer, Unavailable) else list_outcome(answer)

    def _request(
        self, method: str, url: httpx.URL, content: bytes | None = None
    ) -> Answer | Unavailable:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        give_up_at = time.monotonic() + self._deadline
        try:
            with self._client.stream(method, url, content=content, headers=headers) as response:
                raw = self._read(response, give_up_at)
                text = raw[:SHOWN_BYTES].decode("utf-8", "replace").replace(self._key, "***")
                return Answer(response.status_code, response.headers, parse(raw), text)
        except _NOT_SENT as error:
            return Unavailable(self._describe(error), sent=False)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, _TooMuchError) as error:
            return Unavailable(self._describe(error))

    def _read(self, response: httpx.Response, give_up_at: float) -> bytes:
        # httpx bounds each read, not the whole; a drip of bytes would hold the lease for ever.
        # The count is of decoded bytes, so that a compressed answer cannot blow up.
        chunks, size = [], 0
        for chunk in response.iter_bytes(64 * 1024):
            size += len(chunk)
            if size > self._max_answer_bytes:
                raise _TooMuchError(f"the answer is longer than {self._max_answer_bytes:,} bytes")
            if time.monotonic() > give_up_at:
                raise _TooMuchError(f"the answer took longer than {self._deadline:g} s")
            chunks.append(chunk)
        return b"".join(chunks)

    def _describe(self, error: Exception) -> str:
        words = str(error) or type(error).__name__
        return one_line(f"{type(error).__name__}: {words}".replace(self._key, "***"))

    def _url(self, path: str) -> httpx.URL:
        return httpx.URL(f"{self._base}{path}")

    def _own_status_url(self, body: object) -> str | None:
        given = body.get("status_url") if isinstance(body, dict) else None
        own = self._own_url(given) if isinstance(given, str) and given else None
        return str(own) if own is not None else None

    def _own_url(self, given: str) -> httpx.URL | None:
        """`given` resolved against the API, or None if the key would leave the API's origin."""
        if "\\" in given or not given.isprintable():
            return None
        try:
            url = self._base.join(given)
        except (httpx.InvalidURL, ValueError):
            return None
        same = (url.scheme, url.host, _port(url)) == (
            self._base.scheme,
            self._base.host,
            _port(self._base),
        )
        return url if same and not url.userinfo else None


def _port(url: httpx.URL) -> int | None:
    return url.port or {"http": 80, "https": 443}.get(url.scheme)


def _segment(text: str) -> str:
    """One path segment, whatever the text: `..` and `/` cannot lead elsewhere."""
    return quote(text, safe="").replace(".", "%2E") if set(text) <= {"."} else quote(text, safe="")
