"""Looks at the remote for a batch whose submission was not answered.

There is no idempotency key: a second POST would be a second bill. But the judge's batches can be
listed, and ours be known by its own tag, where the server shows tags, or else by the number and
the content of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from worker.domain.outcomes import (
    BatchExecution,
    Denied,
    Found,
    Listed,
    NotFound,
    Throttled,
    Unavailable,
)
from worker.remote import JudgeAPI

CLOCK_MARGIN = timedelta(minutes=2)  # between our database's clock and the remote's
MAX_PAGES = 50
MAX_SECONDS = 20.0  # of one search; it ends before its lease does

OWN_TAG = "evalworker:"  # and the id of the batch: no two submissions have the same

COMPARED = ("request", "response", "contexts", "expected_output", "turns")
"""Input fields that the remote is known to show again."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What may have been submitted, and when the attempt began."""

    judge_id: str
    own_tag: str | None
    inputs: Sequence[Mapping[str, Any]]
    since: datetime


@dataclass(frozen=True, slots=True)
class Match:
    """This is the batch: nothing is to be sent again."""

    batch_execution_id: str


@dataclass(frozen=True, slots=True)
class Absent:
    """The whole list was read, and the batch is not in it."""


@dataclass(frozen=True, slots=True)
class NoList:
    """This server has no list that could be searched."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """The list, or one candidate, could not be read to the end; look again later."""

    reason: str
    cause: Throttled | Denied | Unavailable | None = None


SearchOutcome = Match | Absent | NoList | Unclear


def search(
    api: JudgeAPI,
    sent: Sent,
    taken: Callable[[Collection[str]], Collection[str]],
    *,
    monotonic: Callable[[], float],
) -> SearchOutcome:
    """Reads the judge's batches since the attempt began; `taken` tells which ids are others'.

    Of several that fit, the oldest is taken: what was created later may be all that is left to
    another attempt, which began later and looks no further back.
    """
    give_up_at = monotonic() + MAX_SECONDS
    candidates: list[BatchExecution] = []
    for page in _pages(api, sent):
        if not isinstance(page, Listed):
            return page
        if monotonic() > give_up_at:
            return _TOO_LONG
        candidates += [row for row in page.executions if _may_be(row, sent)]
    others = taken([row.batch_execution_id for row in candidates])
    unclear: Unclear | None = None
    for row in sorted(candidates, key=lambda row: row.created_at or sent.since):
        if monotonic() > give_up_at:
            return _TOO_LONG
        if row.batch_execution_id in others:
            continue
        verdict = _is_ours(api, row, sent)
        if isinstance(verdict, Unclear):
            if isinstance(verdict.cause, Throttled):
                return verdict  # the next question would come before its time
            unclear = verdict
        elif verdict:
            return Match(row.batch_execution_id)
    return unclear or Absent()


_TOO_LONG = Unclear("the search took too long")


def _pages(api: JudgeAPI, sent: Sent) -> Iterator[Listed | NoList | Unclear]:
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        outcome = api.list_executions(
            judge_id=sent.judge_id, date_from=sent.since - CLOCK_MARGIN, cursor=cursor
        )
        match outcome:
            case Listed():
                yield outcome
                cursor = outcome.next_cursor
                if cursor is None:
                    return
            case NotFound(reason):
                yield NoList(reason)
                return
            case Throttled(reason) | Denied(reason) | Unavailable(reason):
                yield Unclear(reason, outcome)
                return
    yield Unclear(f"the list has more than {MAX_PAGES} pages")


def _may_be(row: BatchExecution, sent: Sent) -> bool:
    """By what the list shows: the tag, or else the number of inputs and the time."""
    if row.tags is not None and sent.own_tag is not None:
        return sent.own_tag in row.tags
    if any(tag.startswith(OWN_TAG) for tag in row.tags or ()):
        return False  # another batch's, even if it has the same inputs
    if row.created_at is not None and row.created_at < sent.since - CLOCK_MARGIN:
        return False
    return row.total_count is None or row.total_count == len(sent.inputs)


def _is_ours(api: JudgeAPI, row: BatchExecution, sent: Sent) -> bool | Unclear:
    if row.tags is not None and sent.own_tag is not None:
        return True
    match api.status(row.batch_execution_id, spaced=True):
        case Found(execution):
            shown = {item.index: item.input for item in execution.items}
            if len(shown) < len(sent.inputs) or None in shown.values():
                return Unclear(f"batch {row.batch_execution_id} does not show its inputs yet")
            return all(_same(shown.get(i), given) for i, given in enumerate(sent.inputs))
        case NotFound():
            return False
        case Throttled(reason) | Denied(reason) | Unavailable(reason) as cause:
            return Unclear(reason, cause)


def _same(shown: Mapping[str, Any] | None, given: Mapping[str, Any]) -> bool:
    """Whether an input is the one sent; what the remote leaves empty, and so did we, is equal."""
    return shown is not None and all(
        (shown.get(name) or None) == (given.get(name) or None)
        for name in COMPARED
        if name in shown or name not in ("turns", "contexts")
    )
