"""Sends requests to the judge API: one request a call, bounded, and never off its own origin."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import quote

import httpx

from worker import __version__
from worker.config import API_KEY_NAMES, Settings
from worker.domain.outcomes import Invalid, ListOutcome, StatusOutcome, SubmitOutcome, Unavailable
from worker.errors import ConfigurationError, Unreachable
from worker.remote.cookies import NoCookies
from worker.remote.deadline import Unusable, clock, keep_deadlines, read_body, within
from worker.remote.error_messages import one_line
from worker.remote.responses import (
    Answer,
    list_outcome,
    make_answer,
    status_outcome,
    submit_outcome,
)
from worker.remote.urls import Address
from worker.wire.auth import authorization
from worker.wire.paths import EXECUTIONS, execute

Observer = Callable[[str, int | None, float], None]

CONNECT_SECONDS = 5.0
DEADLINE_SECONDS = 20.0  # of a whole request, under the lease that its caller holds
TURN_SECONDS = 0.1  # between two requests that are in no hurry: a search's would be a burst
MAX_ANSWER_BYTES = 64 * 1024 * 1024

# Raised before a byte of the request could have reached the API.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
)
# What else a peer can bring about; the plain ones come from deep inside, by a broken header.
_NO_ANSWER = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, Unusable, OSError, ValueError)

# What a body or a URL that cannot be made raises: nothing was sent.
_UNSENDABLE = (ValueError, TypeError, RecursionError, httpx.InvalidURL)


class JudgeAPI:
    """One API and one key. Safe to use from several threads; no method raises for what the
    network or the remote does: every answer, and every lie, is an outcome.

    `observe` is told of each request after it ended: the method here that made it, the status of
    its answer (None: there was none), and its seconds.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        transport: httpx.BaseTransport | None = None,
        deadline: float = DEADLINE_SECONDS,
        turn_seconds: float = TURN_SECONDS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        observe: Observer = lambda _endpoint, _status, _seconds: None,
    ) -> None:
        key = _checked(api_key)
        self._address = Address(base_url)
        self._secrets = sorted({key, quote(key), quote(key, safe="")}, key=len, reverse=True)
        self._deadline = deadline
        self._turn_seconds = turn_seconds
        self._turn_at = float("-inf")  # the next one's
        self._turn_lock = threading.Lock()
        self._max_answer_bytes = max_answer_bytes
        self._observe = observe
        self._client = httpx.Client(
            transport=transport,
            follow_redirects=False,
            timeout=httpx.Timeout(deadline, connect=min(CONNECT_SECONDS, deadline)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            cookies=NoCookies(),
            event_hooks={"response": [_stop_at_redirect]},
            headers={
                "Authorization": authorization(key),
                "Accept": "application/json",
                "Accept-Encoding": "gzip",  # the one packing that `bounds` can count
                "User-Agent": f"evalworker/{__version__}",
            },
        )
        keep_deadlines(self._client)

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
        may_send: Callable[[], bool] | None = None,
    ) -> SubmitOutcome:
        """POSTs a batch, once. Unless the outcome says otherwise, it may exist afterwards.

        `may_send` is asked just before bytes leave; once it says no, none does.
        """
        body: dict[str, Any] = {"inputs": [dict(given) for given in inputs]}
        if tags:
            body["tags"] = list(tags)
        if judge_version_id is not None:
            body["judge_version_id"] = judge_version_id
        try:
            url = self._address.url(*execute(judge_id))
            request = self._client.build_request(
                "POST", url, content=_encoded(body), headers={"Content-Type": "application/json"}
            )
        except _UNSENDABLE as error:
            return Invalid(self._describe(error, "cannot be sent as JSON"))
        answer = self._exchange("submit", request, may_send)
        if isinstance(answer, Unavailable):
            return answer
        return submit_outcome(answer, self._own_status_url(answer.body))

    def status(
        self, batch_execution_id: str, status_url: str | None = None, *, in_turn: bool = False
    ) -> StatusOutcome:
        """GETs a whole batch, by `status_url` where it is on the API's own origin.

        `in_turn` is for who asks for many, as for the list.
        """
        own = self._address.own(status_url) if status_url else None
        try:
            url = own or self._address.url(*EXECUTIONS, batch_execution_id)
            request = self._client.build_request("GET", url)
        except _UNSENDABLE as error:
            return Unavailable(self._describe(error, "cannot be asked for"), sent=False)
        if in_turn:
            self._await_turn()
        answer = self._exchange("status", request)
        return (
            answer
            if isinstance(answer, Unavailable)
            else status_outcome(answer, batch_execution_id)
        )

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
        """GETs one page of the list of batches, in the server's order, without items.

        Of several threads that ask at once, each in its turn, `turn_seconds` apart.
        """
        params = {
            "judge_id": judge_id,
            "status": status,
            "date_from": date_from.astimezone(UTC).isoformat() if date_from else None,
            "date_to": date_to.astimezone(UTC).isoformat() if date_to else None,
            "page_size": page_size,
            "cursor": cursor,
        }
        given = {name: value for name, value in params.items() if value is not None}
        try:
            url = self._address.url(*EXECUTIONS).copy_merge_params(given)
            request = self._client.build_request("GET", url)
        except _UNSENDABLE as error:
            return Unavailable(self._describe(error, "cannot be asked for"), sent=False)
        self._await_turn()
        answer = self._exchange("list", request)
        if isinstance(answer, Unavailable):
            return answer
        return list_outcome(answer, first_page=cursor is None)

    def _await_turn(self) -> None:
        with self._turn_lock:
            moment = clock()
            turn = max(moment, self._turn_at)
            self._turn_at = turn + self._turn_seconds
        time.sleep(turn - moment)

    def _exchange(
        self, endpoint: str, request: httpx.Request, may_send: Callable[[], bool] | None = None
    ) -> Answer | Unavailable:
        began = clock()
        answer = self._ask(request, may_send)
        status = None if isinstance(answer, Unavailable) else answer.status
        self._observe(endpoint, status, clock() - began)
        return answer

    def _ask(
        self, request: httpx.Request, may_send: Callable[[], bool] | None
    ) -> Answer | Unavailable:
        try:
            with (
                within(self._deadline, may_send) as deadline,
                closing(self._client.send(request, stream=True)) as response,
            ):
                status, headers = response.status_code, response.headers
                raw = read_body(response, deadline, self._max_answer_bytes)
        except _RedirectedError as redirected:
            status, headers, raw = redirected.status, redirected.headers, b""
        except _NOT_SENT as error:
            return Unavailable(self._describe(error), sent=False)
        except _NO_ANSWER as error:
            return Unavailable(self._describe(error))
        return make_answer(status, headers, raw, self._secrets)

    def _own_status_url(self, body: object) -> str | None:
        given = body.get("status_url") if isinstance(body, dict) else None
        own = self._address.own(given) if isinstance(given, str) else None
        return str(own) if own is not None else None

    def _describe(self, error: Exception, what: str = "") -> str:
        name, words = type(error).__name__, str(error)
        if isinstance(error, Unusable):
            return one_line(words, self._secrets)
        return one_line(": ".join(part for part in (what, name, words) if part), self._secrets)


class _RedirectedError(Exception):
    """Raised before httpx looks into a redirect's target, which may be no URL at all."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.status_code)
        self.status, self.headers = response.status_code, response.headers


def _stop_at_redirect(response: httpx.Response) -> None:
    if response.has_redirect_location:
        raise _RedirectedError(response)


def _checked(api_key: str) -> str:
    key = api_key.strip()
    if not (key and key.isascii() and key.isprintable()):
        # Not quoted: whatever it is, it is secret.
        raise ConfigurationError(["the API key is empty, or has characters that no header carries"])
    return key


def _encoded(body: Mapping[str, Any]) -> bytes:
    """As UTF-8, which is what size limits count; halves of surrogate pairs only fit escaped."""
    try:
        return _json(body, ascii_only=False).encode()
    except UnicodeEncodeError:
        return _json(body, ascii_only=True).encode()


def _json(body: Mapping[str, Any], *, ascii_only: bool) -> str:
    return json.dumps(body, ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":"))


CHECK_SECONDS = 3.0  # for the API to answer anything at the start


def judge_api(settings: Settings, **bounds: Any) -> JudgeAPI:
    """A client with the key of the settings; raises `ConfigurationError` where there is none."""
    from worker.remote import JudgeAPI  # and httpx, which few commands need

    if settings.api_key is None:
        raise ConfigurationError(
            [f"{API_KEY_NAMES[0]} is not set (nor {' or '.join(API_KEY_NAMES[1:])})"]
        )
    key = settings.api_key.get_secret_value()
    return JudgeAPI(base_url=settings.api_url, api_key=key, **bounds)


def check_api(settings: Settings) -> None:
    """Raises `Unreachable` if nothing at all answers at the API's URL."""
    with judge_api(settings, deadline=CHECK_SECONDS) as api:
        outcome = api.list_executions()
    if isinstance(outcome, Unavailable) and not outcome.sent:
        raise Unreachable("judge API", settings.api_url, outcome.reason)
