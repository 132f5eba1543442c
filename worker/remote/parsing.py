"""Parse batch executions leniently: contradictions are noted as oddities and raise nothing.

Every text of the remote is made storable here, keys included.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from worker.domain.lifecycle import ENDED_AT_REMOTE
from worker.domain.outcomes import BatchExecution, EvaluatorResult, RemoteItem
from worker.remote.documented_form import read_documented_items
from worker.remote.json_values import (
    as_text,
    count_or_none,
    datetime_or_none,
    make_storable,
    number_or_none,
    storable_text,
    string_or_none,
)

MAX_ID = 255  # characters, because an id is a key of an index
MAX_ODDITIES = 20  # listed one by one; the rest is counted

_RESULT_FIELDS = frozenset(EvaluatorResult._fields) - {"extra"}


class UnreadableExecution(Exception):
    """The response is not the batch execution that was requested."""


def read_batch_id(body: object) -> str | None:
    """Return the id of a batch execution; None where the body has no usable one."""
    value = body.get("batch_execution_id") if isinstance(body, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        return None
    batch_id = make_storable(value)
    return batch_id if len(batch_id) <= MAX_ID else None


def read_execution(
    body: object, *, expected_id: str, is_documented: bool = False
) -> BatchExecution:
    """Read a whole batch from its status path; raise `UnreadableExecution` if it is another.

    `is_documented` says that `parse_documented` has parsed it.
    """
    batch_id = read_batch_id(body)
    if not isinstance(body, dict) or batch_id is None:
        raise UnreadableExecution("the response is not a batch execution")
    if batch_id.lower() != expected_id.lower():
        raise UnreadableExecution(f"the response is about another batch: {batch_id}")
    head = _read_head(body, batch_id)
    oddities: list[str] = []
    unreadable: list[str] = []
    if is_documented:
        items = read_documented_items(body["items"])
    else:
        items = _read_items(body.get("items"), oddities, unreadable)
    if body.get("next") or body.get("next_cursor") or body.get("has_more") is True:
        unreadable.append("the items go on at a page that cannot be requested")
    if head.status in ENDED_AT_REMOTE:  # a running batch may show all of its items, some, or none
        _compare_counts(body, head, items, oddities, unreadable)
    return replace(
        head, items=items, oddities=_summarize(oddities), unreadable=_summarize(unreadable)
    )


def read_list_row(body: object) -> BatchExecution | None:
    """Read a batch without items from a row of the list; None if the row is not one."""
    batch_id = read_batch_id(body)
    if not isinstance(body, dict) or batch_id is None:
        return None
    try:
        return _read_head(body, batch_id)
    except UnreadableExecution:
        return None


def _read_head(body: Mapping[str, Any], batch_id: str) -> BatchExecution:
    status, judge, tags = body.get("status"), body.get("judge"), body.get("tags")
    version_id = judge.get("version_id") if isinstance(judge, dict) else None
    if not isinstance(status, str) or not status.strip():
        raise UnreadableExecution("the response has no status")
    return BatchExecution(
        batch_execution_id=batch_id,
        status=_status(status),
        total_count=count_or_none(body.get("total_count")),
        created_at=datetime_or_none(body.get("created_at")),
        seconds=_seconds(body),
        judge_version_id=string_or_none(version_id),
        tags=_read_tags(tags) if isinstance(tags, list) else None,
    )


def _seconds(body: Mapping[str, Any]) -> float | None:
    created_at = datetime_or_none(body.get("created_at"))
    completed_at = datetime_or_none(body.get("completed_at"))
    if created_at is None or completed_at is None:
        return None
    return max((completed_at - created_at).total_seconds(), 0.0)


def _read_tags(tags: Iterable[object]) -> tuple[str, ...]:
    return tuple(make_storable(tag) for tag in tags if isinstance(tag, str))


def _status(status: str) -> str:
    return storable_text(status.strip().lower())


def _read_items(
    items: object, oddities: list[str], unreadable: list[str]
) -> tuple[RemoteItem, ...]:
    if items is None:
        return ()
    if not isinstance(items, list):
        unreadable.append("the items are not a list")
        return ()
    read = []
    for item in items:
        if not isinstance(item, dict):
            unreadable.append("an item is not an object")
        elif not isinstance(item.get("status"), str):
            unreadable.append(f"item {item.get('index')} has no status")
        else:
            read.append(_read_item(item, oddities))
    return tuple(read)


def _read_item(item: Mapping[str, Any], oddities: list[str]) -> RemoteItem:
    index = _read_index(item)
    return RemoteItem(
        index=index,
        status=_status(item["status"]),
        evaluator_results=_read_results(item.get("evaluator_results"), index, oddities),
        error_message=as_text(item.get("error_message")) or "",
        execution_log_id=string_or_none(item.get("execution_log_id")),
        input=_read_echo(item.get("input")),
    )


def _read_index(item: Mapping[str, Any]) -> int | None:
    """Return the index as a number, -1 if it is none, and None where there is no index."""
    given = item.get("index")
    if given is None:
        given = item.get("item_index")
    if given is None:
        return None
    index = count_or_none(given)
    return -1 if index is None else index


def _read_echo(echo: object) -> Mapping[str, Any] | None:
    """Return the echo of an input; some servers show it as a text that holds JSON."""
    if isinstance(echo, str):
        try:
            echo = json.loads(echo)
        except (ValueError, RecursionError):
            return None
    return make_storable(echo) if isinstance(echo, dict) else None


def _read_results(
    results: object, index: int | None, oddities: list[str]
) -> tuple[EvaluatorResult, ...]:
    if results is None:
        return ()
    if isinstance(results, dict) and "score" in results and "evaluator_name" in results:
        results = [results]  # the only one, without a list around it
    if isinstance(results, dict):
        results = [_with_name(name, result) for name, result in results.items()]
    if not isinstance(results, list):
        oddities.append(f"the results of item {index} are not a list")
        return ()
    read = []
    for number, result in enumerate(results, start=1):
        if not isinstance(result, dict):
            oddities.append(f"result {number} of item {index} is not an object")
            continue
        parsed = _read_result(result, number)
        if parsed.score is None and result.get("score") is not None:
            oddities.append(f"result {number} of item {index} has a score that is no number")
        read.append(parsed)
    return tuple(read)


def _with_name(name: str, result: object) -> object:
    """Name a result that came in an object keyed by evaluator name; it may be a score alone."""
    if isinstance(result, int | float | str):
        return {"evaluator_name": name, "score": result}
    if not isinstance(result, dict):
        return result
    return {**result, "evaluator_name": result.get("evaluator_name") or name}


def _read_result(result: Mapping[str, Any], number: int) -> EvaluatorResult:
    name = as_text(result.get("evaluator_name") or result.get("name"))
    parsed = EvaluatorResult(
        evaluator_name=name or f"evaluator {number}",
        score=number_or_none(result.get("score")),
        justification=as_text(result.get("justification")),
        evaluator_id=string_or_none(result.get("evaluator_id")),
        evaluator_version_id=string_or_none(result.get("evaluator_version_id")),
        confidence=number_or_none(result.get("confidence")),
    )
    # A value that its field cannot hold is kept as received: "high" is no score, but not nothing.
    extra = {
        key: value
        for key, value in result.items()
        if key not in _RESULT_FIELDS or (value is not None and getattr(parsed, key) is None)
    }
    return parsed._replace(extra=make_storable(extra)) if extra else parsed


def _compare_counts(
    body: Mapping[str, Any],
    head: BatchExecution,
    items: tuple[RemoteItem, ...],
    oddities: list[str],
    unreadable: list[str],
) -> None:
    """Note where the counts are not those of the items: results that are not shown exist."""
    if head.total_count is not None and head.total_count != len(items):
        oddities.append(f"total_count is {head.total_count}, but {len(items)} items can be read")
    for name, status in (("completed_count", "completed"), ("failed_count", "failed")):
        expected = count_or_none(body.get(name))
        actual = sum(item.status == status for item in items)
        if expected is not None and expected != actual:
            note = f"{name} is {expected}, but {actual} items are {status}"
            hidden = status == "completed" and expected > actual
            (unreadable if hidden else oddities).append(note)


def _summarize(oddities: Iterable[str]) -> tuple[str, ...]:
    """List each oddity once, with how often it occurs; the first `MAX_ODDITIES` of them."""
    counts = Counter(oddities)
    lines = [f"{text} ({count} times)" if count > 1 else text for text, count in counts.items()]
    if len(lines) > MAX_ODDITIES:
        rest = len(lines) - MAX_ODDITIES + 1
        lines[MAX_ODDITIES - 1 :] = [f"… and {rest} more"]
    return tuple(lines)
