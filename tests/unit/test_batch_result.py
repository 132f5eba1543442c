"""Whose results the items of an ended batch are, and what becomes of the inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from worker.domain.batch_result import BatchResult, UnreadableResult, read_batch_result
from worker.domain.outcomes import BatchExecution, EvaluatorResult, RemoteItem

SENT = [
    {"request": "a", "response": "1"},
    {"request": "b", "response": "2"},
    {"request": "c", "response": "3"},
]


def items(*indices: int | None, echo: bool = True) -> list[RemoteItem]:
    """Items in the order of `SENT`, which their reason tells; indices as the server gives them."""
    return [
        RemoteItem(
            index, "failed", error_message=f"of {given['request']}", input=given if echo else None
        )
        for index, given in zip(indices, SENT, strict=False)
    ]


def read(
    *shown: RemoteItem, sent: list[dict[str, Any]] = SENT, status: str = "completed"
) -> BatchResult | UnreadableResult:
    return read_batch_result(BatchExecution("id", status, items=shown), dict(enumerate(sent)))


def owners(result: BatchResult | UnreadableResult) -> list[str]:
    """The requests of which there is a result, by the index of the input."""
    assert isinstance(result, BatchResult), result
    return [result.reason(index).removeprefix("of ") for index in sorted(result.failed)]


@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("indices", [(0, 1, 2), (1, 2, 3), (7, 8, 9), (None, None, None)])
def test_items_in_order_are_found_however_they_are_numbered(
    indices: tuple[int | None, ...], echo: bool
) -> None:
    result = read(*items(*indices, echo=echo))
    assert owners(result) == ["a", "b", "c"]
    assert isinstance(result, BatchResult)
    assert bool(result.oddities) == (indices != (0, 1, 2))


@pytest.mark.parametrize("indices", [(2, 0, 1), (0, 2, 1), (0, 0, 0), (None, 0, 1), (5, 0, None)])
def test_the_echo_decides_where_it_contradicts_the_index(indices: tuple[int | None, ...]) -> None:
    shown = items(*indices)
    assert owners(read(*reversed(shown))) == ["a", "b", "c"]


def test_equal_items_of_equal_inputs_are_no_repetitions() -> None:
    twin = items(0)[0]
    assert owners(read(twin, twin, twin, sent=[SENT[0]] * 3)) == ["a", "a", "a"]


def test_numbered_items_in_another_order_go_by_their_numbers_where_there_is_no_echo() -> None:
    first, second, third = items(1, 2, 3, echo=False)
    assert owners(read(third, first, second)) == ["a", "b", "c"]


def test_an_item_beyond_the_batch_is_only_odd_where_every_input_has_its_own() -> None:
    result = read(*items(0, 1, 2), replace(items(0)[0], index=77, input=None))
    assert owners(result) == ["a", "b", "c"]
    assert isinstance(result, BatchResult)
    assert result.oddities == ("item 77 was never sent",)


def test_an_item_that_is_shown_twice_counts_once() -> None:
    assert owners(read(*items(0, 1, 2), *items(0))) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("echo", "index"),
    [
        ({"request": "b", "response": None}, 2),
        ({"request": " b\n", "response": "2", "contexts": []}, 2),
        ({"request": "b", "turns": None, "language": "en"}, 2),
        ({"request": "b", "response": 2}, 2),
    ],
)
def test_servers_do_not_echo_to_the_letter(echo: dict[str, Any], index: int) -> None:
    first, second, third = items(0, index, 1)
    assert owners(read(first, replace(second, input=echo), third)) == ["a", "b", "c"]


def test_a_number_in_place_of_a_text_is_evidence() -> None:
    shown = [
        replace(item, input={"response": float(given["response"])})
        for item, given in zip(items(2, 0, 1), SENT, strict=True)
    ]
    assert owners(read(*shown)) == ["a", "b", "c"]


def test_what_a_server_adds_to_turns_is_no_contradiction() -> None:
    sent: list[dict[str, Any]] = [
        {"turns": [{"role": "user", "content": text}], "contexts": ["one", "two"]}
        for text in ("a", "b")
    ]
    echoes: list[dict[str, Any]] = [
        {"turns": [{**given["turns"][0], "id": 7, "tool_calls": []}], "contexts": "one, two"}
        for given in sent
    ]
    shown = [
        RemoteItem(None, "failed", error_message=f"of {text}", input=echo)
        for text, echo in zip("ab", echoes, strict=True)
    ]
    assert owners(read(*reversed(shown), sent=sent)) == ["a", "b"]


def test_an_echo_without_content_is_no_evidence() -> None:
    shown = [replace(item, input={"request": "", "contexts": []}) for item in items(0, 1, 2)]
    assert owners(read(*shown)) == ["a", "b", "c"]


def test_equal_inputs_may_swap_their_items() -> None:
    twins = [SENT[0], SENT[0], SENT[1]]
    shown = [replace(item, index=None) for item in items(0, 1)]
    result = read(shown[1], shown[0], replace(shown[0], execution_log_id="log"), sent=twins)
    assert owners(result) == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ([replace(item, input={"request": "x"}) for item in items(0, 1, 2)], "echoes no input"),
        ([*items(0, 1), replace(items(0)[0], index=2)], "several items echo the same input"),
        ([*items(0, 1, 2), replace(items(0)[0], error_message="other")], "several items echo"),
        ([*items(1, 2, echo=False), replace(items(0)[0], index=9, input=None)], "no numbering"),
        (items(None, None, echo=False), "2 items are shown for 3 inputs"),
        (items(-1, -1, -1, echo=False), "no numbering"),
        (items(1, 2, echo=False), "item 0 is missing, or the last one is"),
        ([], "the batch ended 'completed', but shows no items"),
        ([*items(0, 1), replace(items(0)[0], index=2, status="reticulated", input=None)], "known"),
    ],
)
def test_nothing_is_recorded_by_a_guess(shown: list[RemoteItem], reason: str) -> None:
    result = read(*shown)
    assert isinstance(result, UnreadableResult)
    assert reason in result.reason


def test_inputs_that_the_echo_does_not_tell_apart_are_not_guessed() -> None:
    sent = [{"request": "a", "response": "1"}, {"request": "a", "response": "2"}]
    shown = [RemoteItem(None, "completed", input={"request": "a"}) for _ in sent]
    assert isinstance(read(*shown, sent=sent), UnreadableResult)


def test_items_that_are_not_shown_are_missing_and_the_others_count() -> None:
    result = read(*items(0, 1), status="partial")
    assert isinstance(result, BatchResult)
    assert (owners(result), result.missing) == (["a", "b"], frozenset({2}))
    assert result.may_retry(2)


def test_the_echo_says_that_the_first_item_is_missing() -> None:
    result = read(*items(0, 1, 2)[1:])
    assert isinstance(result, BatchResult)
    assert (result.reason(1), result.missing) == ("of b", frozenset({0}))


def test_an_item_with_an_error_in_place_of_results_has_failed() -> None:
    result = read(*(replace(item, status="completed") for item in items(0, 1, 2)))
    assert owners(result) == ["a", "b", "c"]


def test_items_without_results_and_failed_ones_with_them_are_odd() -> None:
    scored = replace(items(0, 1, 2)[2], evaluator_results=(EvaluatorResult("length", 0.5, None),))
    result = read(RemoteItem(0, "completed"), RemoteItem(1, "completed"), scored)
    assert isinstance(result, BatchResult)
    assert result.oddities == (
        "2 completed items without results",
        "1 failed item with results, which are left out",
    )


def test_parts_that_cannot_be_read_matter_only_if_an_input_has_no_item() -> None:
    whole = BatchExecution("id", "completed", items=tuple(items(0, 1, 2)), unreadable=("odd",))
    sent = dict(enumerate(SENT))
    assert isinstance(read_batch_result(whole, sent), BatchResult)
    part = replace(whole, items=tuple(items(0, 1)))
    assert read_batch_result(part, sent) == UnreadableResult("odd")


@pytest.mark.parametrize("status", ["cancelled", "canceled", "expired", "aborted"])
def test_inputs_of_a_batch_that_was_given_up_fail_with_its_word_and_are_not_retried(
    status: str,
) -> None:
    result = read(*items(0), status=status)
    assert isinstance(result, BatchResult)
    assert result.reason(1) == f"the batch ended '{status}' without a result for this input"
    assert not any(result.may_retry(index) for index in range(3))


def test_an_input_that_was_given_up_alone_is_not_retried() -> None:
    result = read(RemoteItem(0, "expired"), *items(0, 1, 2)[1:])
    assert isinstance(result, BatchResult)
    assert result.reason(0) == "'expired' at the judge, which gave no reason"
    assert [result.may_retry(index) for index in range(3)] == [False, True, True]
