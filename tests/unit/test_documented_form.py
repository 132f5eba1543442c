"""Both readers of a batch execution read the same: the compiled one, and the lenient one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fake_judge import EXECUTIONS, FakeJudge, Options
from worker.domain.outcomes import BatchExecution
from worker.remote.documented_form import parse_documented
from worker.remote.parsing import read_execution

ID = "0190c7a2-0000-7000-8000-000000000001"
RESULT = {"evaluator_name": "Clarity", "score": 0.5, "justification": "Clear."}
ITEM = {"index": 0, "status": "completed", "evaluator_results": [RESULT]}

texts = st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts


def bodies(odd: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies as the API documents them, but for the values that are drawn from `odd`."""
    optional_texts, scores = st.none() | texts | odd, st.none() | st.floats(0, 1) | odd
    result_fields = {
        "evaluator_name": st.text(min_size=1, max_size=5) | odd,
        "score": scores,
        "justification": optional_texts,
    }
    optional_fields = dict.fromkeys(("evaluator_id", "evaluator_version_id"), optional_texts)
    result = st.fixed_dictionaries(
        result_fields, optional={**optional_fields, "confidence": scores, "extra": odd}
    )
    item = st.fixed_dictionaries(
        {"index": st.integers(0, 5) | odd, "status": st.just("completed") | texts | odd},
        optional={
            "evaluator_results": st.none() | st.lists(result, max_size=3) | odd,
            "error_message": optional_texts,
            "execution_log_id": optional_texts,
            "input": st.none() | st.dictionaries(texts, texts | odd, max_size=2),
            "started_at": optional_texts,
        },
    )
    return st.fixed_dictionaries(
        {"status": st.just("completed"), "items": st.lists(item, max_size=3) | odd},
        optional=dict.fromkeys(("total_count", "completed_count", "tags", "next"), scalars),
    )


def content_of(body: dict[str, Any], *, ascii_only: bool = False) -> bytes:
    text = json.dumps({"batch_execution_id": ID} | body, ensure_ascii=ascii_only)
    return text.encode("utf-8", "surrogatepass")


def compiled(content: bytes) -> BatchExecution | None:
    body = parse_documented(content)
    return None if body is None else read_execution(body, expected_id=ID, is_documented=True)


def lenient(content: bytes) -> BatchExecution:
    return read_execution(json.loads(content), expected_id=ID)


@given(bodies(st.nothing()) | bodies(scalars), st.booleans())
def test_what_the_compiled_reader_takes_it_reads_as_the_lenient_one_does(
    body: dict[str, Any], ascii_only: bool
) -> None:
    content = content_of(body, ascii_only=ascii_only)
    read = compiled(content)
    if read is not None:
        assert repr(read) == repr(lenient(content))  # as one NaN is not equal to another


@pytest.mark.parametrize("shows_inputs", [False, True])
def test_a_response_as_the_api_documents_it_is_read_in_one_pass(shows_inputs: bool) -> None:
    judge = FakeJudge(Options(justification=100, shows_inputs=shows_inputs))
    _, accepted = judge.respond(b"POST", "/v1/judges/j/batch-execute/", content_of({"inputs": []}))
    batch = judge.batches[json.loads(accepted)["batch_execution_id"]]
    batch.size = 100
    batch.submission = batch.submission and content_of({"inputs": [{"request": "Ä?"}] * 100})
    _, content = judge.respond(b"GET", f"{EXECUTIONS}{batch.id}/", b"")
    body = parse_documented(content)
    assert body is not None
    read = read_execution(body, expected_id=batch.id, is_documented=True)
    assert read == read_execution(json.loads(content), expected_id=batch.id)
    assert len(read.items) == 100


@pytest.mark.parametrize(
    "item",
    [
        ITEM | {"evaluator_results": [RESULT | {"score": "0.5"}]},
        ITEM | {"evaluator_results": [RESULT | {"score": float("nan")}]},
        ITEM | {"evaluator_results": [RESULT | {"score": 10**400}]},
        ITEM | {"evaluator_results": [RESULT | {"justification": ["a"]}]},
        ITEM | {"evaluator_results": [RESULT | {"justification": "\x00"}]},
        ITEM | {"evaluator_results": [RESULT | {"justification": "\ud800"}]},
        ITEM | {"evaluator_results": [RESULT | {"evaluator_name": ""}]},
        ITEM | {"evaluator_results": [RESULT | {"reasoning": "kept, too"}]},
        ITEM | {"evaluator_results": {"Clarity": 0.5}},
        ITEM | {"index": "0"},
        ITEM | {"index": -1},
        ITEM | {"status": None},
        ITEM | {"input": '{"request": "a"}'},
        ITEM | {"error_message": {"detail": "no"}},
        "no item",
    ],
)
def test_another_response_is_left_to_the_lenient_reader(item: object) -> None:
    assert compiled(content_of({"status": "completed", "items": [item]}, ascii_only=True)) is None


@pytest.mark.parametrize("items", [None, {}, "none"])
def test_so_is_one_without_a_list_of_items(items: object) -> None:
    assert compiled(content_of({"status": "processing", "items": items})) is None


def test_a_page_of_items_keeps_its_reference_to_the_next_one() -> None:
    body = parse_documented(content_of({"status": "completed", "items": [ITEM], "next": "?page=2"}))
    assert body is not None
    assert body["next"] == "?page=2"


def test_the_status_is_read_without_its_case_and_spaces() -> None:
    content = content_of({"status": " Completed", "items": [ITEM | {"status": "FAILED "}]})
    read = compiled(content)
    assert read is not None
    assert (read.status, read.items[0].status) == ("completed", "failed")
    assert read == lenient(content)
