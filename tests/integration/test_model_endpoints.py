"""A judge asks models whose endpoints differ, refuse, break down or respond with nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response

from tests.support.judge_files import write_judge
from tests.support.judge_services import judging
from tests.support.model_endpoint import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    ModelEndpoint,
    completion,
    steady_score,
)
from worker.judge import engine
from worker.judge.calibration import calibrate
from worker.judge.judges_file import load_definitions
from worker.judge.ledger import Ledger


@pytest.mark.parametrize("formats", [("json_object", "text"), ("text",)])
def test_the_format_that_an_endpoint_takes_is_found_and_remembered(
    tmp_path: Path, model: ModelEndpoint, formats: tuple[str, ...]
) -> None:
    model.formats = formats
    with judging(tmp_path, model, concurrency=1) as client:
        for number in range(3):
            assert client.one(response=f"a{number}")["status"] == "completed"
    assert (model.paid, len(model.requests)) == (3, 3 + 3 - len(formats))


def test_the_new_name_of_the_limit_is_used_where_the_old_one_is_refused(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    message = "Unsupported parameter: use 'max_completion_tokens' instead of 'max_tokens'."
    model.answers = [JSONResponse({"error": {"message": message}}, 400)]
    with judging(tmp_path, model) as client:
        assert client.one()["status"] == "completed"
    refused, taken = model.requests
    assert refused["max_tokens"] == taken["max_completion_tokens"]
    assert taken["response_format"]["type"] == "json_schema"


GOOD = '{"reasons": "r", "score": 0.5}'


def test_an_unreadable_answer_is_tried_once_more_with_more_room(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    unreadable = ["no JSON", '{"reasons": "r", "score": 7}', "", completion(GOOD, "length")]
    with judging(tmp_path, model) as client:
        for number, bad in enumerate(unreadable):
            model.answers = [bad, GOOD]
            item = client.one(response=f"a{number}")
            assert item["evaluator_results"][0]["score"] == 0.5
            first, second = (request["max_tokens"] for request in model.requests[-2:])
            assert second == 4 * first
    assert len(model.requests) == 8


def test_a_score_is_never_invented_and_a_failed_item_is_asked_anew(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    model.answers = ["no JSON", "no JSON"]
    with judging(tmp_path, model) as client:
        item = client.one()
        again = client.one()
    assert (item["status"], item["evaluator_results"]) == ("failed", None)
    assert item["error_message"] == ("nice0: the model responded without a JSON object, twice")
    assert again["status"] == "completed"
    assert len(model.requests) == 3


def test_what_an_endpoint_refuses_fails_in_its_own_words(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    too_long = JSONResponse({"error": {"message": "maximum context\nlength is 8192"}}, 400)
    model.answers = [too_long, too_long, too_long]
    with judging(tmp_path, model) as client:
        item = client.one()
        assert item["status"] == "failed"
        assert "maximum context length is 8192" in item["error_message"]
        assert client.one(response="shorter")["status"] == "completed"
    assert model.requests[-1]["response_format"]["type"] == "json_schema"


def test_outages_wait_and_spend_nothing(tmp_path: Path, model: ModelEndpoint) -> None:
    outages = [
        Response("busy", 429, {"Retry-After": "0"}),
        Response("down", 503),
        JSONResponse({"error": {"message": "wrong key"}}, 401),
        JSONResponse({"detail": "model not found"}, 404),
        RedirectResponse("http://127.0.0.1:9/v1/chat/completions", 307),
        JSONResponse({"error": "a proxy's page"}),
    ]
    with judging(tmp_path, model) as client:
        for number, outage in enumerate(outages):
            model.answers = [outage]
            assert client.one(response=f"a{number}")["status"] == "completed"
    assert (model.paid, len(model.requests)) == (6, 12)


def test_a_question_that_breaks_its_endpoint_fails_while_others_are_answered(
    tmp_path: Path,
) -> None:
    def score(payload: dict[str, Any]) -> float:
        if payload["response"] == "poison":
            raise RuntimeError
        return 1.0

    inputs = [{"request": str(n), "response": "a"} for n in range(60)]
    with (
        ModelEndpoint(score=score).running() as model,
        judging(tmp_path, model, concurrency=2) as client,
    ):
        poisoned, *others = client.judged([{"request": "q", "response": "poison"}, *inputs])
    assert poisoned["status"] == "failed"
    assert "while other questions were answered" in poisoned["error_message"]
    assert {item["status"] for item in others} == {"completed"}


def test_a_question_without_a_response_fails_soon_and_its_calls_are_counted(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    model.answers = [JSONResponse({"error": {"message": "no credit"}})] * 3
    with judging(tmp_path, model, price_input=1e6) as client:
        reason = client.one()["error_message"]
        assert client.one(response="b")["status"] == "completed"
    assert "responded without a completion: no credit, 3 times" in reason
    with contextlib.closing(Ledger(tmp_path / "judge.db")) as ledger:
        (usage,) = ledger.usage(by=("model",))
    assert (usage["calls"], usage["failures"], model.paid) == (4, 1, 1)
    assert usage["cost"] == usage["input_tokens"] > 3 * INPUT_TOKENS


def test_a_question_whose_calls_take_too_long_fails(tmp_path: Path, model: ModelEndpoint) -> None:
    model.seconds = 0.5
    with judging(tmp_path, model, timeout_seconds=0.1) as client:
        reason = client.one()["error_message"]
    assert reason == "nice0: model 'local' gave no response within 0.1 s (timeout_seconds), 3 times"
    assert len(model.requests) == 3


def test_compressed_responses_and_texts_in_parts_are_read(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    parts = [{"type": "text", "text": GOOD[:9]}, {"type": "image"}, {"text": GOOD[9:]}]
    body = json.dumps({"choices": [{"message": {"content": parts}}]})
    compressed = Response(gzip.compress(body.encode()), headers={"Content-Encoding": "gzip"})
    model.answers = [compressed]
    with judging(tmp_path, model) as client:
        assert client.one()["evaluator_results"][0]["score"] == 0.5


def test_a_refusal_is_shown_and_paid_once(tmp_path: Path, model: ModelEndpoint) -> None:
    message = {"content": None, "refusal": "I cannot\nhelp with that."}
    model.answers = [JSONResponse({"choices": [{"message": message}]})]
    with judging(tmp_path, model) as client:
        item = client.one()
    assert item["error_message"] == "nice0: the model refused: I cannot help with that."
    assert len(model.requests) == 1


def test_a_redirect_names_the_address_to_write(tmp_path: Path, model: ModelEndpoint) -> None:
    model.answers = [RedirectResponse("https://other.example/v1/chat/completions")] * 2
    definitions = load_definitions(write_judge(tmp_path, model.url))
    with contextlib.closing(Ledger()) as ledger:
        (report,) = asyncio.run(calibrate(engine.Engine(definitions, ledger, patience=0.3)))
    assert {outcome.reasons for outcome in report.outcomes} == {
        "model 'local' redirects to https://other.example/v1/chat/completions:"
        " write the final address in url"
    }


def test_faults_of_every_kind_leave_nothing_unjudged(tmp_path: Path) -> None:
    faults = {
        "throttled": 0.05,
        "error": 0.05,
        "dropped": 0.05,
        "cut": 0.05,
        "prose": 0.1,
        "out_of_range": 0.05,
        "slow": 0.05,
    }
    inputs = [{"request": f"q{n}", "response": f"a{n}"} for n in range(100)]
    with (
        ModelEndpoint(seed=7, faults=faults).running() as model,
        judging(tmp_path, model, evaluators=2, concurrency=16) as client,
    ):
        items = client.judged(inputs)
        scores = 0
        for given, item in zip(inputs, items, strict=True):
            if item["status"] == "failed":  # both tries unreadable
                assert item["error_message"].endswith(", twice")
                continue
            for result in item["evaluator_results"][:2]:
                assert result["score"] == steady_score(given)
                scores += 1
        with contextlib.closing(Ledger(tmp_path / "judge.db")) as ledger:
            (usage,) = ledger.usage(by=("judge",))
    assert scores >= 180
    unreadable = model.counts["cut"] + model.counts["out_of_range"]
    assert unreadable > 0
    assert model.paid == usage["calls"]
    assert 200 <= model.paid <= 200 + unreadable
    assert usage["output_tokens"] == model.paid * OUTPUT_TOKENS


def test_text_that_is_no_unicode_is_shown_and_stored(tmp_path: Path, model: ModelEndpoint) -> None:
    refused = Response(b'{"error": {"message": "\\ud800 refused"}}', 413)
    model.answers = [refused, '{"reasons": "\\ud800", "score": 1}']
    with judging(tmp_path, model, concurrency=1) as client:
        item = client.one()
        other = client.one(response="b")
    assert "refused" in item["error_message"]
    assert other["evaluator_results"][0]["justification"] == "?"
