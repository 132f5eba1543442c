"""Send requests to the judge API, one request per call, and return what happened as outcomes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from worker import __version__
from worker.config import Settings
from worker.domain.outcomes import (
    Accepted,
    Found,
    Invalid,
    JudgesOutcome,
    Listed,
    ListOutcome,
    StatusOutcome,
    SubmitOutcome,
    Unavailable,
)
from worker.errors import Unreachable
from worker.remote.api_key import ApiKey, key_of
from worker.remote.deadline import ExchangeAborted, clock, exchange_deadline, read_body
from worker.remote.error_messages import one_line
from worker.remote.item_pages import read_further_pages
from worker.remote.response_budget import ResponseBudget
from worker.remote.responses import (
    ApiResponse,
    judges_outcome,
    list_outcome,
    parse_response,
    status_outcome,
    submit_outcome,
)
from worker.remote.transport import PoolTransport, pool_opener
from worker.remote.urls import BaseURL
from worker.wire.auth import authorization
from worker.wire.paths import EXECUTIONS, JUDGES, batch_execute

Outcome = TypeVar("Outcome", SubmitOutcome, StatusOutcome, ListOutcome)
Observer = Callable[[str, int | None, float], None]

CONNECT_SECONDS = 5.0
DEADLINE_SECONDS = 20.0  # of a whole exchange; shorter than the usual lease of its caller
SPACING_SECONDS = 0.1  # between two requests that are not urgent, so that a search is no burst
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
JUDGES_PAGE_SIZE = 100
REACHABLE_SECONDS = 3.0  # for the API to respond at all when a process starts

# Raised before a byte of the request could have reached the API.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
)
# Whatever else a peer can cause; OSError and ValueError come from broken headers, for example.
_NO_RESPONSE = (httpx.HTTPError, ExchangeAborted, OSError, ValueError)

# Raised for a body or a URL that cannot be built, before anything is sent.
_NOT_ENCODABLE = (ValueError, TypeError, RecursionError, httpx.InvalidURL)


class JudgeAPI:
    """A client for one API. Thread-safe.

    No method raises for what the network or the remote does: each response, a malformed one
    included, becomes an outcome. Redirects are not followed, and cookies are not kept.

    Args:
        base_url: Where the API is, without `/v1`.
        api_key: Sent to this API only, and never shown in a reason. An `ApiKey` may change.
        transport: Replaces the network in tests.
        deadline: Seconds for a whole exchange, connecting included.
        spacing: Seconds between the starts of two spaced requests: those of the list, and status
            requests with `spaced`.
        max_response_bytes: A longer body makes a response unusable.
        observe: Called after each request with the name of the method that made it, the status
            code of its response (None without one), and its seconds.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | ApiKey,
        transport: httpx.BaseTransport | None = None,
        deadline: float = DEADLINE_SECONDS,
        spacing: float = SPACING_SECONDS,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        observe: Observer = lambda _endpoint, _status, _seconds: None,
    ) -> None:
        self.key = api_key if isinstance(api_key, ApiKey) else ApiKey(api_key)
        self._base_url = BaseURL(base_url)
        self._deadline = deadline
        self._spacing = spacing
        self._next_start = float("-inf")  # of a spaced request
        self._spacing_lock = threading.Lock()
        self._max_response_bytes = max_response_bytes
        self._served_at = float("-inf")
        self._observe = observe
        self.budget = ResponseBudget()
        self._transport = transport or PoolTransport(pool_opener(self._base_url.url))
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"evalworker/{__version__}",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def submit(
        self,
        judge_id: str,
        inputs: Sequence[Mapping[str, Any]],
        *,
        tags: Sequence[str] = (),
        judge_version_id: str | None = None,
        may_send: Callable[[], bool] | None = None,
    ) -> SubmitOutcome:
        """POST a batch, once. Unless the outcome rules it out, the batch may exist afterwards.

        `may_send` is called before each write. Once it returns False, nothing more is sent.
        """
        body: dict[str, Any] = {"inputs": [dict(fields) for fields in inputs]}
        if tags:
            body["tags"] = list(tags)
        if judge_version_id is not None:
            body["judge_version_id"] = judge_version_id
        try:
            request = self._request("POST", self._base_url.join(*batch_execute(judge_id)), body)
        except _NOT_ENCODABLE as error:
            return Invalid(self._describe(error, "cannot be sent as JSON"))
        response = self._exchange("submit", request, may_send)
        if isinstance(response, Unavailable):
            return response
        outcome = submit_outcome(response, self._own_status_url(response.body))
        return self._noted(outcome)

    def status(
        self, batch_execution_id: str, status_url: str | None = None, *, spaced: bool = False
    ) -> StatusOutcome:
        """GET a whole batch, from `status_url` where that is a URL of this API.

        Where that one does not work, the documented path may. All pages are read where the items
        are paged. `spaced` is for callers that read many batches, one after the other.
        """
        own_url = self._base_url.resolve(status_url) if status_url else None
        try:
            documented = self._base_url.join(*EXECUTIONS, batch_execution_id)
        except _NOT_ENCODABLE as error:
            return Unavailable(self._describe(error, "cannot be requested"), sent=False)
        if spaced:
            self._wait_for_spacing()

        def get_page(page: httpx.URL) -> ApiResponse | Unavailable:
            return self._get("status", lambda: page, spaced=False)

        with exchange_deadline(self._deadline):  # of all pages together
            url = own_url or documented
            response = get_page(url)
            if url != documented and _leads_nowhere(response):
                other = get_page(documented)
                if isinstance(other, ApiResponse) and other.is_success:
                    url, response = documented, other
            if not isinstance(response, Unavailable) and response.is_success:
                response = read_further_pages(response, url, self._base_url, get_page)
        if isinstance(response, Unavailable):
            return response
        return self._noted(status_outcome(response, batch_execution_id))

    def list_executions(
        self,
        *,
        judge_id: str | None = None,
        status: str | None = None,
        date_from: datetime | None = None,
        date_to: datetime | None = None,
        page_size: int | None = None,
        cursor: str | None = None,
    ) -> ListOutcome:
        """GET one page of the list of batches, in the server's order, without items.

        These requests are spaced: concurrent threads send theirs one after the other.
        """
        params = {
            "judge_id": judge_id,
            "status": status,
            "date_from": date_from.astimezone(UTC).isoformat() if date_from else None,
            "date_to": date_to.astimezone(UTC).isoformat() if date_to else None,
            "page_size": page_size,
            "cursor": cursor,
        }
        present = {name: value for name, value in params.items() if value is not None}
        url = self._base_url.join(*EXECUTIONS)
        response = self._get("list", lambda: url.copy_merge_params(present), spaced=True)
        if isinstance(response, Unavailable):
            return response
        return self._noted(list_outcome(response, first_page=cursor is None))

    def list_judges(self, *, cursor: str | None = None) -> JudgesOutcome:
        """GET one page of the list of judges, which not every server has."""
        params = {"page_size": JUDGES_PAGE_SIZE} | ({"cursor": cursor} if cursor else {})
        url = self._base_url.join(*JUDGES)
        response = self._get("judges", lambda: url.copy_merge_params(params), spaced=False)
        return response if isinstance(response, Unavailable) else judges_outcome(response)

    def has_served_within(self, seconds: float) -> bool:
        """Return whether the API did what it was asked so lately: then its URL is right."""
        return clock() - self._served_at < seconds

    def _noted(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Accepted | Found | Listed):
            self._served_at = clock()
        return outcome

    def _get(
        self, endpoint: str, build_url: Callable[[], httpx.URL], *, spaced: bool
    ) -> ApiResponse | Unavailable:
        try:
            request = self._request("GET", build_url())
        except _NOT_ENCODABLE as error:
            return Unavailable(self._describe(error, "cannot be requested"), sent=False)
        if spaced:
            self._wait_for_spacing()
        return self._exchange(endpoint, request)

    def _request(
        self, method: str, url: httpx.URL, body: Mapping[str, Any] | None = None
    ) -> httpx.Request:
        extensions = {"timeout": {"connect": CONNECT_SECONDS}}  # the deadline limits all the rest
        if body is None:
            return httpx.Request(method, url, headers=self._headers, extensions=extensions)
        headers = {**self._headers, "Content-Type": "application/json"}
        content = _encoded(body)
        return httpx.Request(method, url, headers=headers, content=content, extensions=extensions)

    def _wait_for_spacing(self) -> None:
        with self._spacing_lock:
            now = clock()
            start = max(now, self._next_start)
            self._next_start = start + self._spacing
        time.sleep(start - now)

    def _exchange(
        self, endpoint: str, request: httpx.Request, may_send: Callable[[], bool] | None = None
    ) -> ApiResponse | Unavailable:
        """Send a request, and once more if the key was refused and its file has a new one."""
        response, key = self._send_with_key(endpoint, request, may_send)
        is_refused = isinstance(response, ApiResponse) and response.refuses_key
        if is_refused and (self.key.reload() or key != self.key.current):
            response, _ = self._send_with_key(endpoint, request, may_send)
        return response

    def _send_with_key(
        self, endpoint: str, request: httpx.Request, may_send: Callable[[], bool] | None
    ) -> tuple[ApiResponse | Unavailable, str]:
        key, started_at = self.key.current, clock()
        request.headers["Authorization"] = authorization(key)
        response = self._send(request, may_send, is_batch=endpoint == "status")
        status = None if isinstance(response, Unavailable) else response.status
        self._observe(endpoint, status, clock() - started_at)
        if isinstance(response, ApiResponse) and response.refuses_key:
            self.key.note_refused(key, response.reason(), sent_at=started_at)
        elif isinstance(response, ApiResponse) and response.is_success:
            self.key.note_accepted(key)
        return response, key

    @property
    def _secrets(self) -> list[str]:
        """Every form of every key so far, the longest first: none of them may be shown."""
        forms = {form for key in self.key.used for form in (key, quote(key), quote(key, safe=""))}
        return sorted(forms, key=len, reverse=True)

    def _send(
        self, request: httpx.Request, may_send: Callable[[], bool] | None, *, is_batch: bool
    ) -> ApiResponse | Unavailable:
        # The transport is used without `httpx.Client`, which adds only what is not wanted here:
        # redirects, cookies, and decompression without a limit.
        try:
            with (
                exchange_deadline(self._deadline, may_send) as deadline,
                closing(self._transport.handle_request(request)) as response,
            ):
                # Before the body is read, which would take as much again.
                length = int(response.headers.get("content-length", 0))
                announced = min(length, self._max_response_bytes)
                self.budget.take(announced)
                content = read_body(response, deadline, self._max_response_bytes)
        except _NOT_SENT as error:
            return Unavailable(self._describe(error), sent=False)
        except _NO_RESPONSE as error:
            return Unavailable(self._describe(error))
        self.budget.take(max(0, len(content) - announced))
        return parse_response(
            response.status_code, response.headers, content, self._secrets, is_batch=is_batch
        )

    def _own_status_url(self, body: object) -> str | None:
        status_url = body.get("status_url") if isinstance(body, dict) else None
        url = self._base_url.resolve(status_url) if isinstance(status_url, str) else None
        return None if url is None else str(url)

    def _describe(self, error: Exception, context: str = "") -> str:
        text = str(error)
        if not isinstance(error, ExchangeAborted):
            text = ": ".join(part for part in (context, type(error).__name__, text) if part)
        return one_line(text, self._secrets)


def _leads_nowhere(response: ApiResponse | Unavailable) -> bool:
    """Return whether a URL that the API gave is not the one to use."""
    return isinstance(response, ApiResponse) and (
        300 <= response.status < 400 or response.status in (403, 404)
    )


def open_judge_api(
    settings: Settings, *, on_key: Callable[[str], None] = lambda _key: None, **options: Any
) -> JudgeAPI:
    """Create a client from the settings; `options` are passed to `JudgeAPI`.

    `on_key` is called with each key, so that logs can hide it. Raises `ConfigurationError` where
    the settings have no key.
    """
    key = key_of(settings, on_key=on_key)
    return JudgeAPI(base_url=settings.api_url, api_key=key, **options)


def require_reachable_api(settings: Settings) -> None:
    """Raise `Unreachable` if nothing at all responds at the API's URL."""
    with open_judge_api(settings, deadline=REACHABLE_SECONDS) as api:
        outcome = api.list_executions()
    if isinstance(outcome, Unavailable) and not outcome.sent:
        raise Unreachable("judge API", settings.api_url, outcome.reason)


def _encoded(body: Mapping[str, Any]) -> bytes:
    """Encode as UTF-8, which is what size limits count; lone surrogates become JSON's escapes."""
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")
