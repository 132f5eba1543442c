"""Turn responses into outcomes: only this module knows what each status code means."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, urlsplit

from worker.domain.outcomes import (
    Accepted,
    BatchExecution,
    Denied,
    Found,
    Invalid,
    JudgeEntry,
    JudgesListed,
    JudgesOutcome,
    Listed,
    ListOutcome,
    NotFound,
    StatusOutcome,
    SubmitOutcome,
    Throttled,
    TooLarge,
    Unavailable,
)
from worker.domain.phrases import quantity
from worker.remote.documented_form import parse_documented
from worker.remote.error_messages import (
    MESSAGE_FIELDS,
    error_message,
    hide,
    one_line,
    without_markup,
)
from worker.remote.json_values import string_or_none
from worker.remote.parsing import UnreadableExecution, read_batch_id, read_execution, read_list_row
from worker.wire.paths import EXECUTIONS

MAX_RETRY_AFTER = 3600.0  # seconds; a longer wait is cut to this
MAX_DIGITS = 300  # of an integer; a longer one is as good as infinite
MAX_EXCERPT = 2000  # bytes of a body that is not JSON, for the message

NOT_JSON = object()
KEY_CODES = frozenset({"authentication_failed", "not_authenticated"})
NO_ROUTE = "Not Found"  # the `detail` of frameworks (Starlette) for a path that they do not serve

Refusal = Invalid | TooLarge | NotFound | Throttled | Denied | Unavailable


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A complete response. The `secrets` must not appear in any reason."""

    status: int
    headers: Mapping[str, str]
    body: object  # parsed JSON, or NOT_JSON
    excerpt: str  # the beginning of the body
    secrets: Collection[str]
    is_documented: bool = False  # whether it is a batch whose items have the documented form

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def refuses_key(self) -> bool:
        """Whether the key is not taken at all; some servers say so with 403 instead of 401."""
        code = self.body.get("code") if isinstance(self.body, dict) else None
        return self.status == 401 or (self.status == 403 and code in KEY_CODES)

    def clean(self, text: str) -> str:
        return one_line(text, self.secrets)

    def explain(self, text: str) -> str:
        return self.clean(f"{text} ({self.reason()})")

    def reason(self) -> str:
        """Return what went wrong, in the API's own words where it has some."""
        code = self.body.get("code") if isinstance(self.body, dict) else None
        label = f"{self.status} {code}" if isinstance(code, str) and code else str(self.status)
        message = self._message()
        return self.clean(f"{label}: {message}" if message.strip() else label)

    def _message(self) -> str:
        if self.body is NOT_JSON:
            return without_markup(self.excerpt)
        if self.is_success and isinstance(self.body, dict):
            # It may be half a batch, inputs included: its fields are named, not quoted.
            fields = {name: self.body.get(name) for name in MESSAGE_FIELDS}
            return error_message(fields) or f"an object with {', '.join(self.body) or 'no fields'}"
        return error_message(self.body) or self.excerpt


def parse_response(
    status: int,
    headers: Mapping[str, str],
    content: bytes | bytearray,
    secrets: Collection[str],
    *,
    is_batch: bool = False,
) -> ApiResponse:
    """Parse a response, in which `is_batch` expects a batch with its items."""
    excerpt = _excerpt(content, secrets)
    documented = parse_documented(content) if is_batch else None
    if documented is not None:
        return ApiResponse(status, headers, documented, excerpt, secrets, is_documented=True)
    return ApiResponse(status, headers, _parse(content), excerpt, secrets)


def _excerpt(content: bytes | bytearray, secrets: Collection[str]) -> str:
    """Cut the content so that it cannot end in the first part of a secret."""
    if len(content) <= MAX_EXCERPT:
        return content.decode("utf-8", "replace")
    longest = max((len(secret) for secret in secrets), default=0)
    text = content[: MAX_EXCERPT + longest].decode("utf-8", "replace")
    for secret in secrets:
        text = text.replace(secret, "***")
    return text[: -longest or None]


def _parse(content: bytes | bytearray) -> object:
    try:
        return json.loads(content, parse_int=_parse_int)
    except (ValueError, RecursionError):
        return NOT_JSON


def _parse_int(digits: str) -> int | float:
    # Python refuses to parse thousands of digits; one such number must not cost the whole response.
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def submit_outcome(response: ApiResponse, own_url: str | None) -> SubmitOutcome:
    """Interpret the response to a POST; `own_url` is its status_url if that is on this API."""
    if not response.is_success:
        refusal = _refusal(response)
        # A form on the web redirects to what it has made.
        has_started = response.status in (302, 303) and _leads_to_a_batch(response.headers)
        return Unavailable(refusal.reason) if has_started else refusal
    batch_id = read_batch_id(response.body)
    if batch_id is not None:
        return Accepted(batch_id, own_url)
    return Unavailable(response.explain("the response has no batch_execution_id"))


def status_outcome(response: ApiResponse, batch_execution_id: str) -> StatusOutcome:
    """Interpret the response of a status path: `Found` only if it is about this batch."""
    if not response.is_success:
        refusal = _refusal(response)
        if isinstance(refusal, NotFound) and refusal.is_foreign:
            return Unavailable(refusal.reason)  # it says nothing of the batch
        return _without_input_errors(refusal)
    try:
        execution = read_execution(
            response.body, expected_id=batch_execution_id, is_documented=response.is_documented
        )
        return Found(_without_secrets(execution, response.secrets))
    except UnreadableExecution as error:
        return Unavailable(response.explain(str(error)))


def _without_secrets(execution: BatchExecution, secrets: Collection[str]) -> BatchExecution:
    """Hide the key in what the remote says of failed items: it is stored, and shown."""
    if not any(secret in item.error_message for item in execution.items for secret in secrets):
        return execution
    items = (
        replace(item, error_message=hide(item.error_message, secrets)) for item in execution.items
    )
    return replace(execution, items=tuple(items))


def list_outcome(response: ApiResponse, *, first_page: bool) -> ListOutcome:
    """Interpret a page: `NotFound` says that there is no usable list; only the first page can."""
    if not response.is_success:
        return _failed_list(response, _refusal(response), first_page=first_page)
    body = response.body
    if not isinstance(body, dict) or not isinstance(body.get("results"), list):
        return Unavailable(response.explain("the response is not a list of batches"))
    rows = [read_list_row(row) for row in body["results"]]
    executions = tuple(row for row in rows if row is not None)
    cursor, gap = _cursor(body.get("next")), None
    if len(executions) < len(rows):
        unread = quantity(len(rows) - len(executions), "row")
        gap = f"{unread} of the list cannot be read"
    elif body.get("next") and cursor is None:
        gap = response.clean(f"the list goes on at a page without a cursor ({body['next']})")
    return Listed(executions, cursor, gap)


def judges_outcome(response: ApiResponse) -> JudgesOutcome:
    """Interpret a page of the list of judges; entries without an id are left out."""
    if not response.is_success:
        if response.status in (405, 501):
            return NotFound(response.reason())
        return _without_input_errors(_refusal(response))
    body = response.body
    if not isinstance(body, dict) or not isinstance(body.get("results"), list):
        return Unavailable(response.explain("the response is not a list of judges"))
    entries = [row for row in body["results"] if isinstance(row, dict)]
    judges = (
        JudgeEntry(row["id"], string_or_none(row.get("name")), string_or_none(row.get("intent")))
        for row in entries
        if isinstance(row.get("id"), str)
    )
    return JudgesListed(tuple(judges), _cursor(body.get("next")))


def _failed_list(response: ApiResponse, refusal: Refusal, *, first_page: bool) -> ListOutcome:
    is_invalid = isinstance(refusal, Invalid)
    if not first_page and (is_invalid or isinstance(refusal, NotFound)):
        # The list exists, because its first page was read. A new read may well succeed.
        return Unavailable(response.clean(f"the list refuses its own cursor: {refusal.reason}"))
    if is_invalid:
        # A list that refuses our query is of no more use than none.
        return _unusable_list(response, f"the list endpoint refuses the query: {refusal.reason}")
    if response.status in (405, 501):
        return _unusable_list(response, f"there is no list endpoint: {refusal.reason}")
    return _without_input_errors(refusal)


def _unusable_list(response: ApiResponse, reason: str) -> NotFound:
    is_foreign = response.body is NOT_JSON
    return NotFound(response.clean(reason), is_foreign=is_foreign, is_path_known=not is_foreign)


def _refusal(response: ApiResponse) -> Refusal:
    reason = response.reason()
    match response.status:
        case 400 | 422:
            return Invalid(reason, is_foreign=response.body is NOT_JSON)
        case 404 if not _is_of_the_api(response.body):
            return NotFound(response.clean(f"{reason} (is this the judge API?)"), is_foreign=True)
        case 404:
            return NotFound(reason)
        case 413:
            return TooLarge(reason)
        case 429:
            return Throttled(reason, _retry_after(response.headers))
        case 401 | 403 if response.refuses_key:
            return Denied(reason, key_refused=True)
        case 403:
            return Denied(reason, judge_only=True, is_foreign=response.body is NOT_JSON)
        case 408:  # one input may take too long, as one may bring a 5xx
            return Unavailable(reason, is_server_error=True)
        case 425:
            return Unavailable(reason)
        case status if 300 <= status < 400:
            location = response.headers.get("location", "nowhere")
            reason = f"{status}: redirected to {location}, which is not followed"
            return Denied(response.clean(reason))
        case status if 400 <= status < 500:
            return Denied(reason)
        case _:
            return Unavailable(reason, is_server_error=response.status >= 500)


def _leads_to_a_batch(headers: Mapping[str, str]) -> bool:
    return f"/{EXECUTIONS[-1]}/" in headers.get("location", "")


def _is_of_the_api(body: object) -> bool:
    """Return whether a 404 has the API's form, and not that of a proxy or of a web framework."""
    if not isinstance(body, dict):
        return False
    detail = body.get("detail")
    is_specific = isinstance(detail, str) and detail.strip() not in ("", NO_ROUTE)
    return body.get("code") == "not_found" or is_specific


def _without_input_errors(refusal: Refusal) -> NotFound | Throttled | Denied | Unavailable:
    """Turn "invalid" and "too large" into outcomes of a GET, which has no inputs."""
    if isinstance(refusal, Invalid | TooLarge):
        return Unavailable(refusal.reason)
    return refusal


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        date = _http_date(value)
        if date is None:
            return None
        # Measured by the remote's own clock where it sends its time, because ours may differ.
        now = _http_date(headers.get("date", "")) or datetime.now(UTC)
        seconds = (date - now).total_seconds()
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(seconds, MAX_RETRY_AFTER)


def _http_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _cursor(next_url: object) -> str | None:
    """Return the cursor in `next`; the URL itself is never requested."""
    if not isinstance(next_url, str):
        return None
    try:
        return parse_qs(urlsplit(next_url).query).get("cursor", [None])[0]
    except ValueError:
        return None
