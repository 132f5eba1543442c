"""From an answer to an outcome: one place says what each status code means."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from worker.lifecycle import (
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
from worker.remote.reading import Unreadable, read_execution, read_row, storable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_REASON = 500  # characters
MAX_RETRY_AFTER = 3600.0  # seconds; more is taken for this much

NOT_AN_ANSWER = object()  # the body is no JSON


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its status code, headers, and the parsed body."""

    status: int
    headers: Mapping[str, str]
    body: object
    text: str  # the beginning of the body, for messages

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    def reason(self) -> str:
        """What went wrong, in one line, in the API's own words where it has some."""
        code, words = None, ""
        if isinstance(self.body, dict):
            code = self.body.get("code")
            words = "; ".join(_words(self.body))
        elif isinstance(self.body, list):
            words = "; ".join(_field_errors(self.body, ""))
        label = f"{self.status} {code}" if isinstance(code, str) and code else str(self.status)
        words = words or re.sub(r"<[^>]*>", " ", self.text)
        return one_line(f"{label}: {words}" if words.strip() else label)


def parse(raw: bytes) -> object:
    """The JSON in a body, or `NOT_AN_ANSWER`."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return NOT_AN_ANSWER


def submit_outcome(answer: Answer, own_url: str | None) -> SubmitOutcome:
    """`own_url` is the answer's status_url where it stays with the API, else None."""
    if not answer.good:
        return _refusal(answer)
    body = answer.body
    remote_id = body.get("batch_execution_id") if isinstance(body, dict) else None
    if isinstance(remote_id, str) and remote_id.strip():
        return Accepted(storable(remote_id), own_url)
    return Unavailable(f"no batch_execution_id in the answer ({answer.reason()})")


def status_outcome(answer: Answer, batch_execution_id: str) -> StatusOutcome:
    if not answer.good:
        return _unusable(_refusal(answer))
    try:
        return Found(read_execution(answer.body, expected_id=batch_execution_id))
    except (Unreadable, RecursionError) as error:
        return Unavailable(f"{error} ({answer.reason()})")


def list_outcome(answer: Answer) -> ListOutcome:
    if not answer.good:
        refusal = _refusal(answer)
        if isinstance(refusal, Invalid):
            # A list that does not take our question is as good as none.
            return NotFound(f"the list refuses the query: {refusal.reason}")
        if answer.status in (405, 501):
            return NotFound(f"there is no list: {refusal.reason}")
        return _unusable(refusal)
    body = answer.body
    if not isinstance(body, dict) or not isinstance(body.get("results"), list):
        return Unavailable(f"the answer is not a list of batches ({answer.reason()})")
    rows = (read_row(row) for row in body["results"])
    return Listed(tuple(row for row in rows if row is not None), _cursor(body.get("next")))


def _refusal(answer: Answer) -> Invalid | TooLarge | NotFound | Throttled | Denied | Unavailable:
    reason = answer.reason()
    match answer.status:
        case 400 | 422:
            return Invalid(reason)
        case 404 if isinstance(answer.body, dict):
            return NotFound(reason)
        case 404:
            return Denied(f"{reason} (is this the judge API? its errors are JSON objects)")
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
            return Denied(one_line(f"{status}: redirected to {location}, which is not followed"))
        case status if 400 <= status < 500:
            return Denied(reason)
        case _:
            return Unavailable(reason)


def _unusable(
    refusal: Invalid | TooLarge | NotFound | Throttled | Denied | Unavailable,
) -> NotFound | Throttled | Denied | Unavailable:
    """Of a GET: it has no inputs that could be at fault."""
    if isinstance(refusal, Invalid | TooLarge):
        return Unavailable(refusal.reason)
    return refusal


def _retry_after(headers: Mapping[str, str]) -> float | None:
    given = headers.get("retry-after", "").strip()
    try:
        seconds = float(given)
    except ValueError:
        try:
            then = parsedate_to_datetime(given)
            said_at = headers.get("date")
            start = parsedate_to_datetime(said_at) if said_at else datetime.now(UTC)
            seconds = (then - start).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(seconds, MAX_RETRY_AFTER)


def _cursor(following: object) -> str | None:
    """The cursor inside `next`; the URL itself is never followed."""
    if not isinstance(following, str):
        return None
    try:
        return parse_qs(urlsplit(following).query).get("cursor", [None])[0]
    except ValueError:
        return None


def _words(body: Mapping[str, Any]) -> Iterator[str]:
    for name in ("detail", "title", "error", "message"):
        value = body.get(name)
        if isinstance(value, str) and value.strip():
            yield value
            return
        if isinstance(value, dict | list) and value:
            yield from _field_errors(value, "")
            return
    known = ("type", "status", "instance", "code")
    yield from _field_errors({k: v for k, v in body.items() if k not in known}, "")


def _field_errors(value: object, place: str, depth: int = 0) -> Iterator[str]:
    """`{"inputs": [{}, {"contexts": ["too few"]}]}` as `inputs[1].contexts: too few`."""
    if isinstance(value, str):
        yield f"{place}: {value}" if place else value
    elif depth > 8:
        return
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _field_errors(part, f"{place}.{name}" if place else str(name), depth + 1)
    elif isinstance(value, list):
        plain = all(isinstance(part, str) for part in value)
        for index, part in enumerate(value):
            yield from _field_errors(part, place if plain else f"{place}[{index}]", depth + 1)


def one_line(text: str) -> str:
    """Without control characters and line ends, storable, and of bounded length."""
    line = " ".join(storable(text).split())
    line = "".join(letter for letter in line if letter.isprintable())
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…"
