"""How a batch execution is read from a response that may contradict itself."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from worker.domain.outcomes import (
    BatchExecution,
    EvaluatorResult,
    Found,
    Listed,
    RemoteItem,
    Unavailable,
)
from worker.remote import JudgeAPI
from worker.remote.json_values import make_storable

ID = "0190c7a2-0000-7000-8000-000000000001"


def api_with(body: object) -> JudgeAPI:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    return JudgeAPI(base_url="https://api.example.com", api_key="k-123456", transport=transport)


def read(body: object) -> BatchExecution:
    with api_with(body) as api:
        outcome = api.status(ID)
    assert isinstance(outcome, Found), outcome
    return outcome.execution


def batch(**fields: Any) -> dict[str, Any]:
    return {"batch_execution_id": ID, "status": "processing"} | fields


def result_of(given: object) -> EvaluatorResult:
    items = [{"index": 0, "status": "completed", "evaluator_results": [given]}]
    return read(batch(items=items)).items[0].evaluator_results[0]


def list_of(body: object) -> Listed:
    with api_with(body) as api:
        outcome = api.list_executions()
    assert isinstance(outcome, Listed), outcome
    return outcome


def test_a_whole_batch_is_read() -> None:
    body = batch(
        status="completed",
        total_count=2,
        completed_count=1,
        failed_count=1,
        created_at="2026-11-01T12:00:00Z",
        judge={"id": "j", "name": "J", "version_id": "v7"},
        tags=["a", "b"],
        items=[
            {"index": 1, "status": "failed", "error_message": "no", "evaluator_results": None},
            {
                "index": 0,
                "status": "completed",
                "input": {"request": "q"},
                "execution_log_id": "log",
                "error_message": None,
                "evaluator_results": [
                    {
                        "evaluator_name": "Clarity",
                        "score": 1,
                        "justification": "clear",
                        "evaluator_id": "e",
                        "evaluator_version_id": "ev",
                        "confidence": 0.5,
                    }
                ],
            },
        ],
    )
    assert read(body) == BatchExecution(
        batch_execution_id=ID,
        status="completed",
        total_count=2,
        created_at=datetime(2026, 11, 1, 12, tzinfo=UTC),
        judge_version_id="v7",
        tags=("a", "b"),
        items=(
            RemoteItem(index=1, status="failed", error_message="no"),
            RemoteItem(
                index=0,
                status="completed",
                evaluator_results=(EvaluatorResult("Clarity", 1.0, "clear", "e", "ev", 0.5),),
                execution_log_id="log",
                input={"request": "q"},
            ),
        ),
    )


@pytest.mark.parametrize("items", [None, []])
def test_a_running_batch_without_items_is_no_oddity(items: object) -> None:
    execution = read(batch(items=items, total_count=3, judge=None))
    assert (execution.items, execution.oddities) == ((), ())
    assert read(batch()).items == ()


def test_an_unknown_status_is_passed_on() -> None:
    assert read(batch(status="paused")).status == "paused"


@pytest.mark.parametrize(
    "body",
    [
        {"error": "boom"},
        {"detail": "boom", "status": 500},
        [],
        None,
        7,
        batch(status=None),
        batch(status=5),
        batch(status=""),
        batch(batch_execution_id="another"),
        batch(batch_execution_id=7),
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_a_response_that_is_not_this_batch_is_unavailable(body: object) -> None:
    with api_with(body) as api:
        assert isinstance(api.status(ID), Unavailable)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        *((number, 2) for number in (2, "2", " 02 ", 2.0, "2.0")),
        *[(odd, -1) for odd in (True, False, -1, "-1", 1.5, "two", "", 10**400)],
        ([], -1),
        (None, None),
    ],
)
def test_an_index_is_a_whole_number_that_may_be_text(index: object, expected: int | None) -> None:
    (item,) = read(batch(items=[{"index": index, "status": "completed"}])).items
    assert item.index == expected


def test_status_words_are_read_without_case() -> None:
    execution = read(batch(status=" Completed ", items=[{"index": 0, "status": "FAILED"}]))
    assert (execution.status, execution.items[0].status) == ("completed", "failed")


def test_garbage_among_items_and_results_is_reported_once_each() -> None:
    items = [
        7,
        None,
        {"index": 0},
        {"index": 1, "status": "completed", "evaluator_results": "text"},
        {"index": 2, "status": "completed", "evaluator_results": [None, {"score": "high"}]},
    ]
    execution = read(batch(items=items))
    assert execution.unreadable == ("an item is not an object (2 times)", "item 0 has no status")
    assert execution.oddities == (
        "the results of item 1 are not a list",
        "result 1 of item 2 is not an object",
        "result 2 of item 2 has a score that is no number",
    )
    assert read(batch(items={"0": {}})).unreadable == ("the items are not a list",)


def test_many_oddities_are_counted_rather_than_listed() -> None:
    items = [{"index": index} for index in range(1000)]
    unreadable = read(batch(items=items)).unreadable
    assert len(unreadable) == 20
    assert unreadable[-1] == "… and 981 more"


def test_counts_that_do_not_add_up_are_reported_at_the_end_only() -> None:
    fields = {"total_count": "3", "completed_count": 2, "failed_count": 0}
    items = [{"index": 0, "status": "completed"}, {"index": 1, "status": "failed"}]
    assert read(batch(items=items, **fields)).oddities == ()
    ended = read(batch(items=items, **fields) | {"status": "partial"})
    assert ended.oddities == (
        "total_count is 3, but 2 items can be read",
        "failed_count is 0, but 1 items are failed",
    )
    assert ended.unreadable == ("completed_count is 2, but 1 items are completed",)


@pytest.mark.parametrize(
    ("score", "expected", "kept"),
    [
        (0.25, 0.25, None),
        (0, 0.0, None),
        (-3, -3.0, None),
        (7.5, 7.5, None),
        (None, None, None),
        (True, None, {"score": True}),
        ("0.8", 0.8, None),
        (" -1e-3 ", -0.001, None),
        ("high", None, {"score": "high"}),
        ("nan", None, {"score": "nan"}),
        ("1e999", None, {"score": "1e999"}),
        ("0,8", None, {"score": "0,8"}),
        ([1], None, {"score": [1]}),
        (math.nan, None, {"score": "NaN"}),
        (-math.inf, None, {"score": "-Infinity"}),
    ],
)
def test_a_score_is_a_finite_number_or_none(
    score: object, expected: float | None, kept: object
) -> None:
    result = result_of({"evaluator_name": "E", "score": score})
    assert (result.score, result.extra) == (expected, kept)


@pytest.mark.parametrize("digits", ["1e999", "1" + "0" * 5000])
def test_a_number_out_of_all_bounds_spoils_nothing_but_itself(digits: str) -> None:
    item = f'{{"index":0,"status":"completed","evaluator_results":[{{"score":{digits}}}]}}'
    body = f'{{"batch_execution_id":"{ID}","status":"completed","items":[{item}]}}'
    (result,) = read(body.encode()).items[0].evaluator_results
    assert (result.score, result.extra) == (None, {"score": "Infinity"})


def test_a_very_large_integer_becomes_a_float() -> None:
    result = result_of({"score": 10**299, "confidence": 10**299})
    assert result.score == 1e299


def test_unknown_fields_and_what_fields_cannot_hold_are_kept() -> None:
    result = result_of(
        {
            "evaluator_name": "E",
            "score": 1,
            "confidence": "high",
            "evaluator_id": 7,
            "reasoning": {"steps": [1, math.nan]},
        }
    )
    assert (result.confidence, result.evaluator_id) == (None, None)
    assert result.extra == {
        "confidence": "high",
        "evaluator_id": 7,
        "reasoning": {"steps": [1, "NaN"]},
    }


def test_an_evaluator_without_a_name_gets_one() -> None:
    items = [
        {
            "index": 0,
            "status": "completed",
            "evaluator_results": [{"name": "N"}, {"evaluator_name": ""}, {"score": 1}],
        }
    ]
    results = read(batch(items=items)).items[0].evaluator_results
    assert [result.evaluator_name for result in results] == ["N", "evaluator 2", "evaluator 3"]


def test_results_keyed_by_name_are_read() -> None:
    given = {"A": {"score": 1}, "B": {"evaluator_name": None, "score": 0}, "C": 5, "D": [5]}
    items = [{"index": 0, "status": "completed", "evaluator_results": given}]
    execution = read(batch(items=items))
    assert [(r.evaluator_name, r.score) for r in execution.items[0].evaluator_results] == [
        ("A", 1.0),
        ("B", 0.0),
        ("C", 5.0),
    ]
    assert execution.oddities == ("result 4 of item 0 is not an object",)


def test_the_only_result_may_lack_its_list() -> None:
    given = {"evaluator_name": "A", "score": 0.5, "justification": "short"}
    items = [{"index": 0, "status": "completed", "evaluator_results": given}]
    (result,) = read(batch(items=items)).items[0].evaluator_results
    assert (result.evaluator_name, result.score, result.justification) == ("A", 0.5, "short")


def test_a_justification_that_is_not_a_string_is_kept_as_json() -> None:
    assert result_of({"justification": ["å", 1]}).justification == '["å", 1]'
    assert result_of({"justification": None}).justification is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-11-01T12:00:00Z", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        ("2026-11-01T12:00:00+02:00", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("2026-11-01T12:00:00", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        ("0001-01-01T00:00:00+23:00", None),
        ("yesterday", None),
        (1730000000, None),
        (None, None),
    ],
)
def test_a_date_is_aware_or_none(given: object, expected: datetime | None) -> None:
    assert read(batch(created_at=given)).created_at == expected


def test_every_text_of_the_remote_can_be_stored() -> None:
    bad, good = "a\x00b\ud800", "a\\u0000b\\ud800"
    items = [
        {
            "index": 0,
            "status": bad,
            "error_message": bad,
            "execution_log_id": bad,
            "input": {bad: [bad]},
            "evaluator_results": [
                {"evaluator_name": bad, "justification": bad, "evaluator_id": bad, bad: bad}
            ],
        }
    ]
    execution = read(batch(status=bad, tags=[bad], judge={"version_id": bad}, items=items))
    assert (execution.status, execution.tags, execution.judge_version_id) == (good, (good,), good)
    assert execution.items == (
        RemoteItem(
            index=0,
            status=good,
            error_message=good,
            execution_log_id=good,
            input={good: [good]},
            evaluator_results=(EvaluatorResult(good, None, good, good, extra={good: good}),),
        ),
    )


def test_make_storable_leaves_everything_else_alone() -> None:
    value = {"a": [1, 2.5, None, True, "é😀\n\t"], "b": {}}
    assert make_storable(value) == value
    assert make_storable("\x00") == "\\u0000"
    assert make_storable(["\udfff", {"\x00": math.inf}]) == ["\\udfff", {"\\u0000": "Infinity"}]


def test_a_value_nested_too_deeply_costs_only_itself() -> None:
    deep = "[" * 800 + "]" * 800
    item = f'{{"index":0,"status":"completed","evaluator_results":[{{"score":1,"x":{deep}}}]}}'
    body = f'{{"batch_execution_id":"{ID}","status":"completed","items":[{item}]}}'
    (result,) = read(body.encode()).items[0].evaluator_results
    assert result.score == 1.0
    assert "nested too deeply" in json.dumps(result.extra)


# --- the list ---------------------------------------------------------------------------------


def test_rows_are_read_without_items_and_garbage_is_counted() -> None:
    rows = [batch(total_count=2, items=[{"index": 0}]), 7, None, {}, {"batch_execution_id": ID}]
    assert list_of({"results": rows, "next": None}) == Listed(
        (BatchExecution(ID, "processing", total_count=2),), gap="4 rows of the list cannot be read"
    )


@pytest.mark.parametrize(
    ("next_url", "cursor"),
    [
        ("https://api.example.com/v1/judges/batch-executions/?cursor=abc%3D&x=1", "abc="),
        ("https://evil.example.net/?cursor=abc", "abc"),
        ("?cursor=abc", "abc"),
        ("", None),
        (None, None),
    ],
)
def test_only_the_cursor_of_the_next_page_is_used(next_url: object, cursor: str | None) -> None:
    assert list_of({"results": [], "next": next_url}) == Listed((), cursor)


@pytest.mark.parametrize(
    "next_url",
    [
        "https://api.example.com/?page=2",
        "https://api.example.com/?cursor=",
        "https://[",
        7,
        {"cursor": "abc"},
    ],
)
def test_a_next_page_without_a_cursor_is_a_gap_and_not_the_end(next_url: object) -> None:
    gap = f"the list goes on at a page without a cursor ({next_url})"
    assert list_of({"results": [], "next": next_url}) == Listed((), None, gap)


@pytest.mark.parametrize("body", [{}, [], None, {"results": {}}, {"results": None}, b"<html>"])
def test_a_response_that_is_not_a_list_is_unavailable(body: object) -> None:
    with api_with(body) as api:
        assert isinstance(api.list_executions(), Unavailable)
