"""Reads a batch execution out of JSON that may be anything; what is odd is told, never raised.

Every text taken from the remote is made storable here, keys included.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from worker.domain.lifecycle import ENDED_AT_REMOTE
from worker.domain.outcomes import BatchExecution, EvaluatorResult, RemoteItem

Value = TypeVar("Value")

MAX_ID = 255  # characters; an id is a key in an index
MAX_ODDITIES = 20  # told one by one; the rest is counted
MAX_DEPTH = 100  # of nested values; what writes JSON to a database gives up at about a thousand
TOO_DEEP = "(nested too deeply to be kept)"

_RESULT_FIELDS = frozenset(
    {
        *("evaluator_name", "score", "justification"),
        *("evaluator_id", "evaluator_version_id", "confidence"),
    }
)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Unreadable(Exception):
    """The answer is not the batch execution that was asked for."""


def storable(value: Value) -> Value:
    r"""The same value as every database takes it, inside lists and objects too, keys included.

    NUL and lone surrogates, which PostgreSQL refuses, are spelled out as `\u0000`; numbers that
    are not finite become their names in JSON's dialects (`NaN`, `Infinity`, `-Infinity`). A value
    nested beyond `MAX_DEPTH` becomes `TOO_DEEP`.
    """
    return _storable(value, 0)  # type: ignore[no-any-return]


def _storable(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        if value.isascii() and "\x00" not in value:
            return value  # nearly all are: no search, no copy
        return _UNSTORABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", value)
    if isinstance(value, dict | list) and depth >= MAX_DEPTH:
        return TOO_DEEP
    if isinstance(value, dict):
        return {_storable(k, depth): _storable(part, depth + 1) for k, part in value.items()}
    if isinstance(value, list):
        return [_storable(part, depth + 1) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    return value


def read_id(body: object) -> str | None:
    """The id of a batch execution; None where the body has no usable one."""
    given = body.get("batch_execution_id") if isinstance(body, dict) else None
    if not isinstance(given, str) or not given.strip():
        return None
    batch_id = storable(given)
    return batch_id if len(batch_id) <= MAX_ID else None


def read_execution(body: object, *, expected_id: str) -> BatchExecution:
    """A whole batch from its status path; raises `Unreadable` unless it is that batch."""
    batch_id = read_id(body)
    if not isinstance(body, dict) or batch_id is None:
        raise Unreadable("the answer is not a batch execution")
    if batch_id.lower() != expected_id.lower():
        raise Unreadable(f"answered with another batch: {batch_id}")
    oddities: list[str] = []
    items = tuple(_read_items(body.get("items"), oddities))
    return _read_head(body, batch_id, items, _told([*_count_oddities(body, items), *oddities]))


def read_row(body: object) -> BatchExecution | None:
    """A batch without its items from the list; None if it is not one."""
    batch_id = read_id(body)
    if not isinstance(body, dict) or batch_id is None:
        return None
    try:
        return _read_head(body, batch_id, (), ())
    except Unreadable:
        return None


def _read_head(
    body: Mapping[str, Any],
    batch_id: str,
    items: tuple[RemoteItem, ...],
    oddities: tuple[str, ...],
) -> BatchExecution:
    status = body.get("status")
    if not isinstance(status, str) or not status:
        raise Unreadable("the answer has no status")
    judge = body.get("judge")
    tags = body.get("tags")
    return BatchExecution(
        batch_execution_id=batch_id,
        status=storable(status),
        total_count=_whole(body.get("total_count")),
        created_at=_moment(body.get("created_at")),
        seconds=_seconds(body),
        judge_version_id=_only_text(judge.get("version_id")) if isinstance(judge, dict) else None,
        tags=_read_tags(tags) if isinstance(tags, list) else None,
        items=items,
        oddities=oddities,
    )


def _seconds(body: Mapping[str, Any]) -> float | None:
    created, completed = _moment(body.get("created_at")), _moment(body.get("completed_at"))
    if created is None or completed is None:
        return None
    return max((completed - created).total_seconds(), 0.0)


def _read_tags(given: Iterable[object]) -> tuple[str, ...]:
    return tuple(storable(tag) for tag in given if isinstance(tag, str))


def _read_items(given: object, oddities: list[str]) -> Iterator[RemoteItem]:
    if given is None:
        return
    if not isinstance(given, list):
        oddities.append("the items are not a list")
        return
    counts = Counter(place for place in map(_place, given) if place is not None)
    oddities += [
        f"item {place} is answered {count} times: none of them counts"
        for place, count in counts.items()
        if count > 1
    ]
    for item in given:
        place = _place(item)
        if place is None:
            oddities.append("an item has no usable index")
        elif not isinstance(item.get("status"), str):
            oddities.append(f"item {place} has no status")
        elif counts[place] == 1:
            yield _read_item(item, place, oddities)


def _place(item: object) -> int | None:
    return _whole(item.get("index")) if isinstance(item, dict) else None


def _read_item(item: Mapping[str, Any], place: int, oddities: list[str]) -> RemoteItem:
    shown = item.get("input")
    return RemoteItem(
        index=place,
        status=storable(item["status"]),
        evaluator_results=tuple(_read_results(item.get("evaluator_results"), place, oddities)),
        error_message=_text(item.get("error_message")) or "",
        execution_log_id=_only_text(item.get("execution_log_id")),
        input=storable(shown) if isinstance(shown, dict) else None,
    )


def _read_results(given: object, place: int, oddities: list[str]) -> Iterator[EvaluatorResult]:
    if given is None:
        return
    if isinstance(given, dict):
        given = [_named(name, result) for name, result in given.items()]
    if not isinstance(given, list):
        oddities.append(f"the results of item {place} are not a list")
        return
    for number, result in enumerate(given, start=1):
        if isinstance(result, dict):
            yield _read_result(result, number)
        else:
            oddities.append(f"result {number} of item {place} is not an object")


def _named(name: str, result: object) -> object:
    """A result out of an object keyed by evaluator name."""
    if not isinstance(result, dict):
        return result
    return {**result, "evaluator_name": result.get("evaluator_name") or name}


def _read_result(result: Mapping[str, Any], number: int) -> EvaluatorResult:
    name = _text(result.get("evaluator_name") or result.get("name"))
    read = EvaluatorResult(
        evaluator_name=name or f"evaluator {number}",
        score=_number(result.get("score")),
        justification=_text(result.get("justification")),
        evaluator_id=_only_text(result.get("evaluator_id")),
        evaluator_version_id=_only_text(result.get("evaluator_version_id")),
        confidence=_number(result.get("confidence")),
    )
    # What a field cannot hold is kept as it came: "0.8" is no score, but it is not nothing.
    extra = {
        key: part
        for key, part in result.items()
        if key not in _RESULT_FIELDS or (part is not None and getattr(read, key) is None)
    }
    return replace(read, extra=storable(extra)) if extra else read


def _count_oddities(body: Mapping[str, Any], items: tuple[RemoteItem, ...]) -> Iterator[str]:
    if body.get("status") not in ENDED_AT_REMOTE:
        return  # a running batch may show all of its items, some, or none
    total = _whole(body.get("total_count"))
    if total is not None and total != len(items):
        yield f"total_count is {total}, but {len(items)} items can be read"
    for name, status in (("completed_count", "completed"), ("failed_count", "failed")):
        said, seen = _whole(body.get(name)), sum(item.status == status for item in items)
        if said is not None and said != seen:
            yield f"{name} is {said}, but {seen} items say so"


def _told(oddities: Iterable[str]) -> tuple[str, ...]:
    """Each sentence once, with how often; the first `MAX_ODDITIES` of them."""
    counted = Counter(oddities)
    sentences = [f"{text} ({n} times)" if n > 1 else text for text, n in counted.items()]
    if len(sentences) > MAX_ODDITIES:
        rest = len(sentences) - MAX_ODDITIES + 1
        sentences[MAX_ODDITIES - 1 :] = [f"… and {rest} more"]
    return tuple(sentences)


def _text(value: object) -> str | None:
    """A text; what is not one is kept as JSON rather than dropped."""
    if value is None or isinstance(value, str):
        return storable(value)
    return json.dumps(storable(value), ensure_ascii=False)


def _only_text(value: object) -> str | None:
    return storable(value) if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < 2**31 else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
