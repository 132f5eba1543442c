"""Reads a batch execution out of JSON that may be anything; what is odd is told, never raised."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from worker.lifecycle import ENDED_AT_REMOTE, BatchExecution, EvaluatorResult, RemoteItem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Value = TypeVar("Value")

MAX_ODDITIES = 20
_RESULT_FIELDS = frozenset(
    {
        "evaluator_name",
        "score",
        "justification",
        "evaluator_id",
        "evaluator_version_id",
        "confidence",
    }
)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Unreadable(Exception):
    """The answer is not a batch execution."""


def storable(value: Value) -> Value:
    """The same value with NUL and lone surrogates spelled out, as in `\\u0000`.

    PostgreSQL refuses these in texts; kept like this, nothing is lost and nothing fails. Numbers
    that are not finite become their names.
    """
    return _storable(value)  # type: ignore[no-any-return]


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", value)
    if isinstance(value, dict):
        return {_storable(key): _storable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_storable(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def read_execution(body: object, *, expected_id: str) -> BatchExecution:
    """A whole batch from its status path; raises `Unreadable` unless it is that batch."""
    if not isinstance(body, dict) or not isinstance(body.get("batch_execution_id"), str):
        raise Unreadable("the answer is not a batch execution")
    if body["batch_execution_id"].lower() != expected_id.lower():
        raise Unreadable(f"answered with another batch: {storable(body['batch_execution_id'])}")
    oddities: list[str] = []
    items = tuple(_read_items(body.get("items"), oddities))
    _check_counts(body, items, oddities)
    return _read_head(body, items, tuple(oddities[:MAX_ODDITIES]))


def read_row(body: object) -> BatchExecution | None:
    """A batch without its items from the list; None if it is not one."""
    if not isinstance(body, dict) or not isinstance(body.get("batch_execution_id"), str):
        return None
    try:
        return _read_head(body, (), ())
    except Unreadable:
        return None


def _read_head(
    body: Mapping[str, Any], items: tuple[RemoteItem, ...], oddities: tuple[str, ...]
) -> BatchExecution:
    status = body.get("status")
    if not isinstance(status, str) or not status:
        raise Unreadable("the answer has no status")
    judge = body.get("judge")
    tags = body.get("tags")
    return BatchExecution(
        batch_execution_id=storable(body["batch_execution_id"]),
        status=storable(status),
        total_count=_whole(body.get("total_count")),
        created_at=_moment(body.get("created_at")),
        judge_version_id=_text(judge.get("version_id")) if isinstance(judge, dict) else None,
        tags=tuple(t for t in tags if isinstance(t, str)) if isinstance(tags, list) else None,
        items=items,
        oddities=oddities,
    )


def _read_items(given: object, oddities: list[str]) -> Iterator[RemoteItem]:
    if given is None:
        return
    if not isinstance(given, list):
        oddities.append("items is not a list")
        return
    places = Counter(
        item["index"]
        for item in given
        if isinstance(item, dict) and _whole(item.get("index")) is not None
    )
    for place, count in places.items():
        if count > 1:
            oddities.append(f"item {place} is answered {count} times: none of them counts")
    for item in given:
        if not isinstance(item, dict) or _whole(item.get("index")) is None:
            oddities.append("an item has no usable index")
        elif not isinstance(item.get("status"), str):
            oddities.append(f"item {item['index']} has no status")
        elif places[item["index"]] == 1:
            yield _read_item(item, oddities)


def _read_item(item: Mapping[str, Any], oddities: list[str]) -> RemoteItem:
    shown = item.get("input")
    return RemoteItem(
        index=item["index"],
        status=storable(item["status"]),
        evaluator_results=tuple(
            _read_results(item.get("evaluator_results"), item["index"], oddities)
        ),
        error_message=_text(item.get("error_message")) or "",
        execution_log_id=_text(item.get("execution_log_id")),
        input=shown if isinstance(shown, dict) else None,
    )


def _read_results(given: object, index: int, oddities: list[str]) -> Iterator[EvaluatorResult]:
    if isinstance(given, dict):  # by evaluator name
        given = [
            {"evaluator_name": name, **part} if isinstance(part, dict) else part
            for name, part in given.items()
        ]
    if given is None:
        return
    if not isinstance(given, list):
        oddities.append(f"item {index} has results that are not a list")
        return
    for place, result in enumerate(given):
        if isinstance(result, dict):
            yield _read_result(result, place)
        else:
            oddities.append(f"result {place} of item {index} is not an object")


def _read_result(result: Mapping[str, Any], place: int) -> EvaluatorResult:
    score, confidence = _number(result.get("score")), _number(result.get("confidence"))
    extra = {key: part for key, part in result.items() if key not in _RESULT_FIELDS}
    for name, number in (("score", score), ("confidence", confidence)):
        if number is None and result.get(name) is not None:
            extra[name] = result[name]  # as received: not a finite number
    name = result.get("evaluator_name") or result.get("name")
    return EvaluatorResult(
        evaluator_name=_text(name) or f"evaluator {place + 1}",
        score=score,
        justification=_text(result.get("justification")),
        evaluator_id=_text(result.get("evaluator_id")),
        evaluator_version_id=_text(result.get("evaluator_version_id")),
        confidence=confidence,
        extra=storable(extra) or None,
    )


def _check_counts(
    body: Mapping[str, Any], items: tuple[RemoteItem, ...], oddities: list[str]
) -> None:
    if body.get("status") not in ENDED_AT_REMOTE:
        return  # a running batch may show all of its items, some, or none
    total = _whole(body.get("total_count"))
    if total is not None and total != len(items):
        oddities.append(f"total_count is {total}, but {len(items)} items can be read")
    for name, status in (("completed_count", "completed"), ("failed_count", "failed")):
        said, seen = _whole(body.get(name)), sum(item.status == status for item in items)
        if said is not None and said != seen:
            oddities.append(f"{name} is {said}, but {seen} items say so")


def _text(value: object) -> str | None:
    """A text; what is not one is kept as JSON rather than dropped."""
    if value is None or isinstance(value, str):
        return storable(value)
    return json.dumps(storable(value), ensure_ascii=False)


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
