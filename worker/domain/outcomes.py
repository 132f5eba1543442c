"""Represent responses of the judge API as frozen values: outcomes instead of exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple


class EvaluatorResult(NamedTuple):
    """One evaluator's result for one item; a tuple, as a batch may have thousands of them."""

    evaluator_name: str
    score: float | None  # None: the evaluator gave none, or not a finite number (see `extra`)
    justification: str | None
    evaluator_id: str | None = None
    evaluator_version_id: str | None = None
    confidence: float | None = None
    extra: Mapping[str, Any] | None = None  # as received: what the fields above cannot hold


@dataclass(frozen=True, slots=True)
class RemoteItem:
    """One item of a batch execution; `index` counts from 0 in the submitted batch.

    It is as received, and not always that of the input it belongs to: None where there is none, -1
    where it is no number from 0.
    """

    index: int | None
    status: str
    evaluator_results: tuple[EvaluatorResult, ...] = ()
    error_message: str = ""
    execution_log_id: str | None = None
    input: Mapping[str, Any] | None = None  # the remote's echo of what was sent


@dataclass(frozen=True, slots=True)
class BatchExecution:
    """A batch as the remote shows it: with items on its status path, without items in the list."""

    batch_execution_id: str
    status: str
    total_count: int | None = None
    created_at: datetime | None = None
    seconds: float | None = None  # from start to end, by the remote's clock
    judge_version_id: str | None = None  # the version that really ran
    tags: tuple[str, ...] | None = None  # None: this server does not show tags
    items: tuple[RemoteItem, ...] = ()
    oddities: tuple[str, ...] = ()  # where the response contradicts itself
    unreadable: tuple[str, ...] = ()  # parts of the items that cannot be read


@dataclass(frozen=True, slots=True)
class Accepted:
    """The remote took the batch and gave it an id."""

    batch_execution_id: str
    status_url: str | None = None  # only when it is on the API's own origin


@dataclass(frozen=True, slots=True)
class Found:
    """The status path responded with the batch."""

    execution: BatchExecution


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of the list; `next_cursor` is None on the last.

    `gap` says what of the list cannot be read: a batch that is not shown may be there.
    """

    executions: tuple[BatchExecution, ...]
    next_cursor: str | None = None
    gap: str | None = None


class JudgeEntry(NamedTuple):
    """A judge in the API's list of them."""

    id: str
    name: str | None
    intent: str | None


@dataclass(frozen=True, slots=True)
class JudgesListed:
    """One page of the list of judges; `next_cursor` is None on the last."""

    judges: tuple[JudgeEntry, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Invalid:
    """400 or 422: at least one input is not acceptable; nothing was started.

    `is_foreign` is True where the response is not in the API's form: the URL may be wrong.
    """

    reason: str
    is_foreign: bool = False


@dataclass(frozen=True, slots=True)
class TooLarge:
    """413: fewer inputs might pass; nothing was started."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """404: no such judge, no such batch (yet, or any more), or no such path.

    `is_foreign` is True where the response is not in the API's form: the URL may be wrong. Of the
    list, `is_path_known` is True where another status says that it refuses our request.
    """

    reason: str
    is_foreign: bool = False
    is_path_known: bool = False


@dataclass(frozen=True, slots=True)
class Throttled:
    """429: come back later; `retry_after` in seconds where the remote says when."""

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """401, 403, or a response that only a person can do something about (405, …); nothing started.

    `judge_only` is True where only this judge is concerned (403), not every use of the key.
    `key_refused` is True where the key itself is not taken: another process may have a good one.
    `is_foreign` is True for a 403 that is not in the API's form: a firewall may refuse an input.
    """

    reason: str
    judge_only: bool = False
    key_refused: bool = False
    is_foreign: bool = False


@dataclass(frozen=True, slots=True)
class Unavailable:
    """There was no usable response.

    `sent` is False only where the request provably did not reach the API (connection refused,
    name not resolved, TLS handshake failed). A POST with `sent` True may have started a batch.
    `is_server_error` is True where a response came, and its status code was 5xx or 408.
    """

    reason: str
    sent: bool = True
    is_server_error: bool = False


SubmitOutcome = Accepted | Invalid | TooLarge | NotFound | Throttled | Denied | Unavailable
StatusOutcome = Found | NotFound | Throttled | Denied | Unavailable
JudgesOutcome = JudgesListed | NotFound | Throttled | Denied | Unavailable
ListOutcome = Listed | NotFound | Throttled | Denied | Unavailable
