"""Call one model at its OpenAI-compatible endpoint, as many calls at a time as it may have.

What is not the fault of one question waits and costs nothing: throttles, outages, a refused key, a
wrong address, a spent budget. While an endpoint fails, one call at a time tries it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx
import structlog

from worker.domain.backoff import OUTAGE_THRESHOLD, backoff, throttle_wait
from worker.domain.phrases import one_line
from worker.judge.judges_file import Model
from worker.judge.prompt import RESPONSE_FORMATS, Message

MAX_RESPONSE_BYTES = 8 * 1024 * 1024
MAX_WAIT = 60.0  # seconds between two tries of an endpoint that is out
IMPATIENT_WAIT = 2.0  # the same where somebody waits for the result
BUDGET_SECONDS = 30.0  # between two reads of a budget that is spent
MAX_OWN_FAILURES = 4  # server errors of one question while others were answered
MAX_LOST_CALLS = 3  # in a row of one question; each may have been billed
NEW_LIMIT = "max_completion_tokens"  # what newer models of OpenAI want in place of `max_tokens`
CHARACTERS_PER_TOKEN = 4  # where an endpoint does not tell
OF_THE_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")  # headers

log = structlog.get_logger("evalworker")


class QuestionRefused(Exception):
    """The endpoint will not answer this question, now or later."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A paid response: its text or its refusal, why it ended, and what it took."""

    text: str | None
    refusal: str | None
    finish_reason: str | None
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class _Outage:
    """Why all calls wait; `patient` if it ends without somebody's help."""

    reason: str
    wait: float | None = None
    patient: bool = True
    is_own: bool = False  # whether the question may be what the endpoint fails over
    is_lost: bool = False  # whether the endpoint may bill a response that nobody has


class Endpoint:
    """The connections of one model, with its circuit breaker. Not thread-safe: use one event loop.

    `budget` returns why nothing may be spent now, or None. With `patience`, a question is refused
    after so many seconds of an outage, or immediately if only a person can end it.
    """

    def __init__(
        self,
        alias: str,
        model: Model,
        *,
        budget: Callable[[], str | None],
        on_wait: Callable[[str, str | None], None],
        patience: float | None,
    ) -> None:
        self.alias, self.model = alias, model
        self.waits_for: str | None = None
        self._url = httpx.URL(f"{model.url}/chat/completions")
        self._max_wait = MAX_WAIT if patience is None else IMPATIENT_WAIT
        self._budget, self._on_wait, self._patience = budget, on_wait, patience
        self._rng = Random()  # noqa: S311 (jitter)
        self._format = 0  # the first of RESPONSE_FORMATS that the endpoint took
        self._limit_field = "max_tokens"
        self._failures = 0  # in a row
        self._answered = 0
        self._is_out = False  # a circuit breaker: one call at a time probes what is out
        self._out_since = 0.0
        self._open_at = 0.0  # of the monotonic clock: when the next probe may go
        self._probe = asyncio.Lock()
        self._tls = httpx.create_ssl_context()
        self._idle: list[httpx.AsyncClient] = []

    async def close(self) -> None:
        """Close the connections; no call may be under way."""
        while self._idle:
            await self._idle.pop().aclose()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[httpx.AsyncClient]:
        """Lend a client with one connection: httpx's pool takes long to choose among many."""
        client = self._idle.pop() if self._idle else self._new_client()
        try:
            yield client
        finally:
            self._idle.append(client)

    def _new_client(self) -> httpx.AsyncClient:
        key, seconds = self.model.key(), self.model.timeout_seconds
        return httpx.AsyncClient(
            verify=self._tls,
            headers={
                "Accept-Encoding": "identity",
                **({"Authorization": f"Bearer {key}"} if key else {}),
            },
            follow_redirects=False,  # the key and the texts go to the operator's address alone
            # A connection has to fail before the call does, which may be billed.
            timeout=httpx.Timeout(seconds, connect=min(10.0, seconds / 2)),
        )

    async def ask(
        self, asked: list[Message], max_tokens: int, on_lost: Callable[[int], Awaitable[None]]
    ) -> Reply:
        """Ask until there is a response that was paid for. Raises `QuestionRefused`.

        `on_lost` gets the input tokens of each call whose response was lost.
        """
        own_failures, answered_at_failure, lost = 0, -1, 0
        while True:
            await self._wait_for_budget()
            outcome = await self._try_in_turn(asked, max_tokens)
            if isinstance(outcome, Reply):
                return outcome
            lost = lost + 1 if outcome.is_lost else 0
            if outcome.is_lost:
                await on_lost(_tokens(None, _length(asked)))
            if lost >= MAX_LOST_CALLS:
                raise QuestionRefused(f"model {self.alias!r} {outcome.reason}, {lost} times")
            self._lose_patience(outcome)
            if outcome.is_own and self._answered > answered_at_failure:
                own_failures, answered_at_failure = own_failures + 1, self._answered
                if own_failures >= MAX_OWN_FAILURES:
                    raise QuestionRefused(f"{outcome.reason}, while other questions were answered")
            if not self._is_out:
                await asyncio.sleep(backoff(own_failures, self._rng, base=0.25))

    def _lose_patience(self, outage: _Outage | None) -> None:
        """Raise `QuestionRefused` after an outage that is too long, or that a person has to end."""
        if self._patience is None:
            return
        if outage is not None and not outage.patient:
            raise QuestionRefused(f"model {self.alias!r} {outage.reason}")
        if self._is_out and time.monotonic() - self._out_since >= self._patience:
            raise QuestionRefused(self.waits_for or "the endpoint is out")

    def spent_budget(self) -> str | None:
        """Return why nothing may be spent now, or None."""
        reason = self._budget()
        if reason is not None or not self._is_out:
            self._note(reason)
        return reason

    async def _wait_for_budget(self) -> None:
        while (reason := self.spent_budget()) is not None:
            if self._patience is not None:
                raise QuestionRefused(reason)
            await asyncio.sleep(BUDGET_SECONDS)

    async def _try_in_turn(self, asked: list[Message], max_tokens: int) -> Reply | _Outage:
        while self._is_out:
            async with self._probe:
                self._lose_patience(None)
                await asyncio.sleep(max(0.0, self._open_at - time.monotonic()))
                if self._is_out:  # still, after the calls that were under way
                    return await self._try(asked, max_tokens)
        return await self._try(asked, max_tokens)

    async def _try(self, asked: list[Message], max_tokens: int) -> Reply | _Outage:
        """Send one question, in a looser response format each time that the last is refused."""
        started_at = time.monotonic()
        for number in range(self._format, len(RESPONSE_FORMATS)):
            try:
                response = await self._post(asked, max_tokens, RESPONSE_FORMATS[number])
            except (httpx.HTTPError, TimeoutError, _TooLong) as error:
                outcome: Reply | _Outage = self._outage(error)
                break
            if response.status_code in (400, 422) and number + 1 < len(RESPONSE_FORMATS):
                continue
            try:
                outcome = self._read(response, asked)
            except QuestionRefused:
                self._note_alive()
                raise
            if isinstance(outcome, Reply):
                self._format = number
            break
        self._record(outcome, started_at)
        return outcome

    def _outage(self, error: Exception) -> _Outage:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return _Outage(f"cannot be reached at {self.model.url}: {_words(error)}")
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            limit = f"{self.model.timeout_seconds:g} s (timeout_seconds)"
            return _Outage(f"gave no response within {limit}", is_own=True, is_lost=True)
        if isinstance(error, _TooLong | httpx.DecodingError):
            reason = f"sent a response that cannot be read: {_words(error)}"
            return _Outage(reason, is_own=True, is_lost=True)
        return _Outage(f"broke the connection to {self.model.url}: {_words(error)}", is_own=True)

    async def _post(
        self, asked: list[Message], max_tokens: int, response_format: dict[str, Any] | None
    ) -> httpx.Response:
        body: dict[str, Any] = {
            "model": self.model.model,
            "messages": asked,
            self._limit_field: max_tokens,
        }
        if self.model.temperature is not None:
            body["temperature"] = self.model.temperature
        if response_format is not None:
            body["response_format"] = response_format
        response = await self._send(json.dumps(body))
        is_renamed = response.status_code == 400 and NEW_LIMIT in response.text
        if is_renamed and self._limit_field != NEW_LIMIT:
            self._limit_field = NEW_LIMIT
            return await self._post(asked, max_tokens, response_format)
        return response

    async def _send(self, body: str) -> httpx.Response:
        content = bytearray()
        async with contextlib.AsyncExitStack() as stack:
            client = stack.enter_context(self._connection())
            await stack.enter_async_context(asyncio.timeout(self.model.timeout_seconds))
            response = await stack.enter_async_context(
                client.stream(
                    "POST", self._url, content=body, headers={"Content-Type": "application/json"}
                )
            )
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_RESPONSE_BYTES:
                    raise _TooLong("it is too long")
        headers = [pair for pair in response.headers.items() if pair[0] not in OF_THE_TRANSFER]
        return httpx.Response(response.status_code, headers=headers, content=bytes(content))

    def _read(self, response: httpx.Response, asked: list[Message]) -> Reply | _Outage:
        """Tell a paid response from an outage. Raises `QuestionRefused`."""
        status = response.status_code
        if status == 200:
            return _reply(response, asked) or _Outage(
                f"responded without a completion: {_message(response)}", is_own=True, is_lost=True
            )
        reason = f"responded with status {status}: {_message(response)}"
        if response.has_redirect_location:
            address = one_line(response.headers["location"])
            reason = f"redirects to {address}: write the final address in url"
        if status == 429:
            wait = throttle_wait(_retry_after(response), self._failures, self._rng)
            return _Outage(reason, wait)
        if status >= 500:
            return _Outage(reason, _retry_after(response), is_own=True)
        if status in (400, 413, 415, 422):
            raise QuestionRefused(f"model {self.alias!r} {reason}")
        return _Outage(reason, patient=status == 408)

    def _record(self, outcome: Reply | _Outage, started_at: float) -> None:
        if isinstance(outcome, Reply):
            self._answered += 1
            self._note_alive()
        elif started_at >= self._open_at:  # calls that failed together are one failure
            self._failures += 1
            if outcome.is_own and self._failures < OUTAGE_THRESHOLD:
                return
            wait = outcome.wait
            if wait is None:
                wait = backoff(self._failures, self._rng, base=0.25, maximum=self._max_wait)
            now = time.monotonic()
            self._out_since = self._out_since if self._is_out else now
            self._is_out, self._open_at = True, now + min(wait, self._max_wait)
            self._note(f"model {self.alias!r} {outcome.reason}")

    def _note_alive(self) -> None:
        self._failures, self._is_out = 0, False
        self._note(None)

    def _note(self, reason: str | None) -> None:
        if reason == self.waits_for:
            return
        if reason is not None:
            log.warning("judge.model_waits", model=self.alias, reason=reason)
        self.waits_for = reason
        self._on_wait(self.alias, reason)


class _TooLong(Exception):
    pass


def _words(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__


def _reply(response: httpx.Response, asked: list[Message]) -> Reply | None:
    """Return None if the body is no completion, as a proxy's page is not."""
    try:
        body = json.loads(response.content)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = _text(message.get("content")), message.get("refusal")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    usage = body.get("usage")
    given = usage if isinstance(usage, dict) else {}
    finish = choice.get("finish_reason")
    return Reply(
        text,
        refusal if isinstance(refusal, str) else None,
        finish if isinstance(finish, str) else None,
        _tokens(given.get("prompt_tokens"), _length(asked)),
        _tokens(given.get("completion_tokens"), len(text or "")),
    )


def _text(content: object) -> str | None:
    """Return a text that may be in parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) else None


def _length(asked: list[Message]) -> int:
    return sum(len(part["content"]) for part in asked)


def _tokens(told: object, characters: int) -> int:
    if isinstance(told, int) and not isinstance(told, bool) and 0 <= told < 2**40:
        return told
    return -(-characters // CHARACTERS_PER_TOKEN)


def _message(response: httpx.Response) -> str:
    """Return the endpoint's own words, on one line."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return one_line(response.text[:500])
    error = (body.get("error") or body) if isinstance(body, dict) else body
    told = error.get("message", error.get("detail", error)) if isinstance(error, dict) else error
    return one_line(str(told))


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 7 else None
