"""A judge service pays once for each question, within its budget, whatever its state file does."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from tests.support.judge_services import judging
from tests.support.model_endpoint import INPUT_TOKENS, ModelEndpoint
from tests.support.servers import wait_until
from worker.judge import engine
from worker.judge.ledger import Ledger


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
