"""A judge of one's own: the documented API over a stand-in for an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response

from tests.support.judge_files import write_judge
from tests.support.model_endpoint import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    ModelEndpoint,
    completion,
    steady_score,
)
from tests.support.servers import wait_until
from worker.judge import engine
from worker.judge.calibration import calibrate
from worker.judge.judges_file import load_definitions
from worker.judge.ledger import Ledger
from worker.judge.server import judge_app, running

RUNS = "/v1/judges/batch-executions/"


class Client:
    """Submits to a judge service, and waits for the end."""

    def __init__(self, url: str, key: str = "any") -> None:
        headers = {"Authorization": f"Api-Key {key}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=30)

    def submit(self, inputs: Sequence[dict[str, Any]], **fields: Any) -> httpx.Response:
        path = f"/v1/judges/{fields.pop('judge', 'own')}/batch-execute/"
        return self.http.post(path, json={"inputs": inputs, **fields})

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def ended(self, submitted: httpx.Response) -> Any:
        url = submitted.raise_for_status().json()["status_url"]
        wait_until(lambda: self.get(url)["status"] == "completed")
        return self.get(url)

    def judged(self, inputs: Sequence[dict[str, Any]], **fields: Any) -> Any:
        return self.ended(self.submit(inputs, **fields))["items"]

    def one(self, **fields: Any) -> Any:
        (item,) = self.judged([{"request": "q", "response": "a", **fields}])
        return item


@contextlib.contextmanager
def judging(folder: Path, endpoint: ModelEndpoint, **options: Any) -> Iterator[Client]:
    definitions = load_definitions(write_judge(folder, endpoint.url, **options))
    with running(judge_app(definitions), state=folder / "judge.db") as url:
        client = Client(url)
        with contextlib.closing(client.http):
            yield client


@pytest.fixture
def model() -> Iterator[ModelEndpoint]:
    with ModelEndpoint().running() as endpoint:
        yield endpoint


def test_a_batch_is_judged_by_a_model_and_by_a_measure(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    inputs = [{"request": f"q{n}", "response": f"a{n}"} for n in range(20)]
    model.seconds = 0.02
    with judging(tmp_path, model) as client:
        execution = client.ended(client.submit(inputs, tags=["t"]))
        (listed,) = client.get(RUNS)["results"]
        (judge,) = client.get("/v1/judges/")["results"]
    items = execution.pop("items")
    assert execution == listed
    assert (listed["tags"], listed["completed_count"], listed["failed_count"]) == (["t"], 20, 0)
    assert (judge["id"], judge["name"]) == (listed["judge"]["id"], "own")
    for given, item in zip(inputs, items, strict=True):
        asked, measured = item["evaluator_results"]
        assert asked["score"] == steady_score({"request": given["request"], **given})
        assert (asked["evaluator_name"], asked["confidence"]) == ("nice0", None)
        assert given["response"] in asked["justification"]
        assert (measured["evaluator_name"], measured["score"]) == ("Non-empty", 1.0)
        assert {name: item["input"][name] for name in given} == given
    assert model.paid == 20
    assert 1 < model.most_at_once <= 4
    assert model.requests[0]["response_format"]["type"] == "json_schema"
    properties = model.requests[0]["response_format"]["json_schema"]["schema"]["properties"]
    assert list(properties) == ["reasons", "score"]
    assert "authorization" not in model.headers[0]


def test_what_was_asked_before_costs_nothing(tmp_path: Path, model: ModelEndpoint) -> None:
    inputs = [{"request": "same", "response": "same"}] * 3
    with judging(tmp_path, model, samples=3) as client:
        first = client.judged(inputs)
        assert model.paid == 3
    with judging(tmp_path, model, samples=3, max_output_tokens=99) as client:
        again = client.judged(inputs)
    assert model.paid == 3
    results = {str(item["evaluator_results"]) for item in first + again}
    assert len(results) == 1
    assert first[0]["evaluator_results"][0]["confidence"] == 1.0
    with contextlib.closing(Ledger(tmp_path / "judge.db")) as ledger:
        (usage,) = ledger.usage(by=("judge", "model"))
    assert (usage["calls"], usage["cache_hits"], usage["evaluations"]) == (3, 15, 6)
    assert usage["input_tokens"] == 3 * INPUT_TOKENS


def test_samples_are_averaged(tmp_path: Path, model: ModelEndpoint) -> None:
    model.answers = [f'{{"reasons": "{score}", "score": {score}}}' for score in (1, 0.5, 0.6)]
    with judging(tmp_path, model, samples=3) as client:
        result = client.one()["evaluator_results"][0]
    assert (result["score"], result["justification"]) == (0.7, "0.6")
    assert result["confidence"] == 0.6


def test_a_response_without_words_never_reaches_the_model(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    empty = ["", "  ", ":", "…", "\u200b"]
    with judging(tmp_path, model) as client:
        items = client.judged([{"request": "q", "response": response} for response in empty])
    for item in items:
        assert item["status"] == "completed"
        assert item["evaluator_results"][0]["score"] is None
        assert "no words" in item["evaluator_results"][0]["justification"]
    assert model.requests == []


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


def test_a_note_that_cannot_be_written_harms_no_call(
    tmp_path: Path, model: ModelEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: Any) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(Ledger, "set_wait", locked)
    model.answers = [Response("busy", 429, {"Retry-After": "0"})]
    with judging(tmp_path, model) as client:
        assert client.one()["status"] == "completed"
    assert model.paid == 1


def test_a_spent_budget_pauses_with_a_reason(tmp_path: Path, model: ModelEndpoint) -> None:
    prices = {"price_input": 1000.0, "price_output": 0.0, "daily_budget": 0.15}
    inputs = [{"request": "q", "response": f"a{n}"} for n in range(5)]
    with judging(tmp_path, model, concurrency=1, **prices) as client:
        url = client.submit(inputs).json()["status_url"]
        wait_until(lambda: client.get(url)["items"][4]["error_message"])
        execution = client.get(url)
        metrics = client.http.get("/metrics").text
        refused = client.submit([{"request": "q", "response": "more"}])
    assert model.paid == 2
    assert (execution["status"], execution["completed_count"]) == ("processing", 2)
    reason = execution["items"][4]["error_message"]
    assert reason == (
        "the daily budget of model 'local' is spent (0.2 of 0.15); it goes on at 00:00 UTC"
    )
    assert (refused.status_code, refused.json()["code"]) == (403, "budget_spent")
    assert refused.json()["detail"] == reason
    assert 'evalworker_judge_model_waits{model="local"} 1.0' in metrics
    assert 'evalworker_judge_cost_today{judge="own",model="local"} 0.2' in metrics
    with judging(tmp_path, model, concurrency=1, **(prices | {"daily_budget": 9.0})) as client:
        wait_until(lambda: client.get(url)["status"] == "completed")
    assert model.paid == 5


def test_an_older_version_is_known_by_its_id_and_any_other_is_refused(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    with judging(tmp_path, model) as client:
        old = client.ended(client.submit([{"request": "q", "response": "a"}]))
    version = old["judge"]["version_id"]
    with judging(tmp_path, model, samples=2) as client:
        asked = [{"request": "q", "response": "b"}]
        now = client.ended(client.submit(asked))
        then = client.ended(client.submit(asked, judge_version_id=version))
        unknown = client.submit(asked, judge_version_id="00000000-0000-4000-8000-000000000000")
    assert now["judge"]["version_id"] != version == then["judge"]["version_id"]
    assert then["items"][0]["evaluator_results"][0]["confidence"] is None
    assert (unknown.status_code, unknown.json()) == (
        400,
        {"judge_version_id": ["Unknown version of this judge."]},
    )
    for other in ({"model": "another"}, {"temperature": 0.5}):
        with judging(tmp_path, model, **other) as client:
            gone = client.submit(asked, judge_version_id=version)
        assert gone.json() == {"judge_version_id": ["Its model is no longer available."]}


def test_endpoints_with_the_same_name_of_a_model_share_no_scores(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    with ModelEndpoint(score=lambda _: 0.125).running() as other:
        scores = []
        for endpoint in (model, other, model):
            with judging(tmp_path, endpoint) as client:
                scores.append(client.one()["evaluator_results"][0]["score"])
        with judging(tmp_path, model, temperature=0.5) as client:
            client.one()
    assert scores == [scores[0], 0.125, scores[0]]
    assert (model.paid, other.paid) == (2, 1)


def test_evaluators_can_be_asked_for_by_their_ids(tmp_path: Path, model: ModelEndpoint) -> None:
    with judging(tmp_path, model, evaluators=2) as client:
        known = client.one()["evaluator_results"]
        body = {"inputs": [{"request": "q", "response": "a"}]}
        wanted = [known[1]["evaluator_id"]]
        path = "/v1/batch-executions/"
        done = client.ended(client.http.post(path, json=body | {"evaluator_ids": wanted}))
        refused = client.http.post(path, json=body | {"evaluator_ids": ["x"]})
    (item,) = done["items"]
    assert item["evaluator_results"] == [known[1]]
    assert refused.status_code == 400


def test_missing_inputs_fail_and_bad_requests_are_refused_as_documented(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    with judging(tmp_path, model) as client:
        lacking, complete = client.judged([{"response": "a"}, {"request": "q", "response": "a"}])
        assert client.submit([], judge="own").status_code == 400
        assert client.submit([{}], judge="unknown").status_code == 404
        assert client.submit([{}] * 101).status_code == 400
        assert client.http.get(f"{RUNS}?sort=x").status_code == 400
        assert client.http.get(f"{RUNS}00000000-0000-4000-8000-000000000000/").status_code == 404
        assert client.http.get("/elsewhere/").status_code == 404
    assert lacking["error_message"] == "Judge 'own' requires request."
    assert complete["status"] == "completed"


def test_the_list_is_filtered_and_cut_into_pages(tmp_path: Path, model: ModelEndpoint) -> None:
    with judging(tmp_path, model) as client:
        ids = [
            client.ended(client.submit([{"request": "q", "response": "a"}]))["batch_execution_id"]
            for _ in range(3)
        ]
        page = client.get(f"{RUNS}?page_size=2&judge_id=own&status=completed")
        rest = client.get(page["next"])
        none = client.get(f"{RUNS}?status=processing")
        later = client.get(f"{RUNS}?date_from=2999-01-01T00:00:00Z")
    rows = [row["batch_execution_id"] for row in page["results"] + rest["results"]]
    assert rows == ids[::-1]
    assert rest["next"] is None
    assert none["results"] == later["results"] == []


def test_keys_are_read_from_the_named_variables(
    tmp_path: Path, model: ModelEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_KEY", "model-secret")
    monkeypatch.setenv("OWN_KEY", "own-secret")
    path = write_judge(tmp_path, model.url, key_env="MODEL_KEY")
    path.write_text(path.read_text() + '[server]\nkey_env = "OWN_KEY"\n')
    with running(judge_app(load_definitions(path))) as url:
        assert httpx.get(f"{url}/v1/judges/").status_code == 401
        assert httpx.get(f"{url}/metrics").status_code == 401
        wrong, right = Client(url, "model-secret"), Client(url, "own-secret")
        with contextlib.closing(wrong.http), contextlib.closing(right.http):
            assert wrong.submit([{}]).status_code == 401
            right.one()
    assert model.headers[0]["authorization"] == "Bearer model-secret"


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


def test_what_was_paid_for_is_kept_until_the_disk_has_room(
    tmp_path: Path, model: ModelEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "STORE_SECONDS", 0.01)
    write, full = Ledger.add_sample, [True, True]

    def add_sample(*args: Any, **fields: Any) -> None:
        if full:
            full.pop()
            raise sqlite3.OperationalError("database or disk is full")
        write(*args, **fields)

    monkeypatch.setattr(Ledger, "add_sample", add_sample)
    with judging(tmp_path, model) as client:
        assert client.one()["status"] == "completed"
    assert (full, model.paid) == ([], 1)


def test_a_state_file_that_another_process_holds_freezes_nothing(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    with (
        judging(tmp_path, model) as client,
        contextlib.closing(sqlite3.connect(tmp_path / "judge.db")) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        started_at = time.monotonic()
        refused = client.submit([{"request": "q", "response": "a"}])
        assert client.http.get("/v1/judges/").status_code == 200
        assert time.monotonic() - started_at < 5
        other.rollback()
        assert client.one()["status"] == "completed"
    assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
    assert "database is locked" in refused.json()["detail"]


def test_what_cannot_be_read_for_a_moment_is_judged_later(
    tmp_path: Path, model: ModelEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: Any) -> None:
        monkeypatch.undo()
        raise sqlite3.OperationalError("database is locked")

    with judging(tmp_path, model) as client:
        monkeypatch.setattr(engine, "STORE_SECONDS", 0.01)
        monkeypatch.setattr(Ledger, "input_of", locked)
        assert client.one()["status"] == "completed"


def test_what_nobody_expected_fails_its_input_alone_and_is_not_paid_again(
    tmp_path: Path, model: ModelEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*args: Any, **fields: Any) -> None:
        monkeypatch.undo()
        raise ValueError

    monkeypatch.setattr(Ledger, "add_sample", surprise)
    with judging(tmp_path, model) as client:
        failed = client.one()
        assert client.one(response="b")["status"] == "completed"
    assert failed["error_message"] == "nice0: unexpected ValueError; the log has more"
    assert model.paid == 2


def test_what_is_old_is_deleted_while_the_service_runs(
    tmp_path: Path, model: ModelEndpoint
) -> None:
    with judging(tmp_path, model) as client:
        old, new = (client.submit([{"request": "q", "response": r}]) for r in ("old", "new"))
        urls = [client.ended(batch)["batch_execution_id"] for batch in (old, new)]
    with contextlib.closing(sqlite3.connect(tmp_path / "judge.db")) as connection, connection:
        connection.execute("UPDATE batches SET completed_at = 0 WHERE id = ?", (urls[0],))
    with judging(tmp_path, model) as client:
        wait_until(lambda: client.http.get(f"{RUNS}{urls[0]}/").status_code == 404)
        assert client.http.get(f"{RUNS}{urls[1]}/").status_code == 200


def test_text_that_is_no_unicode_is_shown_and_stored(tmp_path: Path, model: ModelEndpoint) -> None:
    refused = Response(b'{"error": {"message": "\\ud800 refused"}}', 413)
    model.answers = [refused, '{"reasons": "\\ud800", "score": 1}']
    with judging(tmp_path, model, concurrency=1) as client:
        item = client.one()
        other = client.one(response="b")
    assert "refused" in item["error_message"]
    assert other["evaluator_results"][0]["justification"] == "?"
