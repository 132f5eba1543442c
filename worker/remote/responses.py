"""From an answer to an outcome: one place says what each status code means."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, urlsplit

from worker.domain.outcomes import (
    Accepted,
    Denied,
    Found,
    Invalid,
    Listed,
    ListOutcome,
    NotFound,
    StatusOutcome,
    SubmitOutcome,
    Throttled,
    TooLarge,
    Unavailable,
)
from worker.remote.error_messages import one_line, plain, words_of
from worker.remote.parsing import Unreadable, read_execution, read_id, read_row

MAX_RETRY_AFTER = 3600.0  # seconds; more is taken for this much
MAX_DIGITS = 300  # of a whole number; a longer one is infinite to any reader of a score
SHOWN = 2000  # bytes of a body that is no JSON, for the message

NOT_JSON = object()

Refusal = Invalid | TooLarge | NotFound | Throttled | Denied | Unavailable


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its status code, headers and body; `secrets` must not show in a reason."""

    status: int
    headers: Mapping[str, str]
    body: object  # parsed, or NOT_JSON
    text: str  # the beginning of the body
    secrets: Collection[str]

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    def say(self, words: str) -> str:
        return one_line(words, self.secrets)

    def reason(self) -> str:
        """What went wrong, in the API's own words where it has some."""
        code = self.body.get("code") if isinstance(self.body, dict) else None
        label = f"{self.status} {code}" if isinstance(code, str) and code else str(self.status)
        words = self._words()
        return self.say(f"{label}: {words}" if words.strip() else label)

    def _words(self) -> str:
        if self.body is NOT_JSON:
            return plain(self.text)
        if self.good and isinstance(self.body, dict):
            # Maybe half a batch, with the inputs in it: its fields are named, not quoted.
            said = {name: self.body.get(name) for name in ("detail", "title", "error", "message")}
            return words_of(said) or f"an object with {', '.join(self.body) or 'nothing in it'}"
        return words_of(self.body) or self.text


def make_answer(
    status: int, headers: Mapping[str, str], raw: bytes, secrets: Collection[str]
) -> Answer:
    text = raw.decode("utf-8", "replace") if len(raw) <= SHOWN else _beginning(raw, secrets)
    return Answer(status, headers, _parse(raw), text, secrets)


def _beginning(raw: bytes, secrets: Collection[str]) -> str:
    """Cut so that the end cannot be the first half of a secret."""
    longest = max((len(secret) for secret in secrets), default=0)
    text = raw[: SHOWN + longest].decode("utf-8", "replace")
    for secret in secrets:
        text = text.replace(secret, "***")
    return text[: -longest or None]


def _parse(raw: bytes) -> object:
    try:
        return json.loads(raw, parse_int=_int)
    except (ValueError, RecursionError):
        return NOT_JSON


def _int(digits: str) -> int | float:
    # Python refuses to read thousands of digits; one such number must not hide the whole answer.
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def submit_outcome(answer: Answer, own_url: str | None) -> SubmitOutcome:
    """`own_url` is the answer's status_url where it stays with the API, else None."""
    if not answer.good:
        refusal = _refusal(answer)
        if isinstance(refusal, NotFound) and answer.body is NOT_JSON:
            # Nothing of the API's: a wrong URL, or a proxy's page. No input is to blame for it.
            return Denied(refusal.reason, judge_only=True)
        return refusal
    remote_id = read_id(answer.body)
    if remote_id is not None:
        return Accepted(remote_id, own_url)
    return Unavailable(answer.say(f"no batch_execution_id in the answer ({answer.reason()})"))


def status_outcome(answer: Answer, batch_execution_id: str) -> StatusOutcome:
    """`Found` only if the answer is about this batch."""
    if not answer.good:
        refusal = _refusal(answer)
        if isinstance(refusal, NotFound) and answer.body is NOT_JSON:
            return Unavailable(refusal.reason)  # a proxy's page: it says nothing of the batch
        return _without_inputs(refusal)
    try:
        return Found(read_execution(answer.body, expected_id=batch_execution_id))
    except Unreadable as error:
        return Unavailable(answer.say(f"{error} ({answer.reason()})"))


def list_outcome(answer: Answer, *, first_page: bool) -> ListOutcome:
    """`NotFound` means that there is no list to read: only the first page can tell."""
    if not answer.good:
        return _no_list(answer, _refusal(answer), first_page=first_page)
    body = answer.body
    if not isinstance(body, dict) or not isinstance(body.get("results"), list):
        return Unavailable(answer.say(f"the answer is not a list of batches ({answer.reason()})"))
    rows = (read_row(row) for row in body["results"])
    return Listed(tuple(row for row in rows if row is not None), _cursor(body.get("next")))


def _no_list(answer: Answer, refusal: Refusal, *, first_page: bool) -> ListOutcome:
    refused = isinstance(refusal, Invalid)
    if not first_page and (refused or isinstance(refusal, NotFound)):
        # There is a list: its first page was read. It has lost its place, and that will pass.
        return Unavailable(answer.say(f"the list refuses its own cursor: {refusal.reason}"))
    if refused:
        # A list that does not take the question is as good as none.
        return NotFound(answer.say(f"the list endpoint refuses the query: {refusal.reason}"))
    if answer.status in (405, 501):
        return NotFound(answer.say(f"there is no list endpoint: {refusal.reason}"))
    return _without_inputs(refusal)


def _refusal(answer: Answer) -> Refusal:
    reason = answer.reason()
    match answer.status:
        case 400 | 422:
            return Invalid(reason)
        case 404 if answer.body is NOT_JSON:
            return NotFound(answer.say(f"{reason} (is this the judge API? its errors are JSON)"))
        case 404:
            return NotFound(reason)
        case 413:
            return TooLarge(reason)
        case 429:
            return Throttled(reason, _retry_after(answer.headers))
        case 403:
            return Denied(reason, judge_only=True)
        case 408 | 425:
            return Unavailable(reason)
        case status if 300 <= status < 400:
            location = answer.headers.get("location", "nowhere")
            return Denied(answer.say(f"{status}: redirected to {location}, which is not followed"))
        case status if 400 <= status < 500:
            return Denied(reason)
        case _:
            return Unavailable(reason)


def _without_inputs(refusal: Refusal) -> NotFound | Throttled | Denied | Unavailable:
    """Of a GET: it has no inputs that could be at fault."""
    if isinstance(refusal, Invalid | TooLarge):
        return Unavailable(refusal.reason)
    return refusal


def _retry_after(headers: Mapping[str, str]) -> float | None:
    given = headers.get("retry-after", "").strip()
    try:
        seconds = float(given)
    except ValueError:
        then = _http_date(given)
        if then is None:
            return None
        # By the remote's own clock where it shows it: ours may differ.
        seconds = (
            then - (_http_date(headers.get("date", "")) or datetime.now(UTC))
        ).total_seconds()
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(seconds, MAX_RETRY_AFTER)


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _cursor(following: object) -> str | None:
    """The cursor inside `next`; the URL itself is never followed."""
    if not isinstance(following, str):
        return None
    try:
        return parse_qs(urlsplit(following).query).get("cursor", [None])[0]
    except ValueError:
        return None
