"""A judge service behaves as the documented API does, with scores of a model and of measures."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import httpx
import pytest

from tests.support.judge_files import write_judge
from tests.support.judge_services import RUNS, Client, judging
from tests.support.model_endpoint import ModelEndpoint, steady_score
from tests.support.servers import wait_until
from worker.judge.judges_file import load_definitions
from worker.judge.server import judge_app, running


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
