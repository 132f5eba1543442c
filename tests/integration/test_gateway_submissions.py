"""A submission to the gateway becomes one job, whose results are those that the API would show."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import sqlalchemy as sa

from tests.support.fake_judge_api import EXECUTIONS, FakeJudgeAPI
from tests.support.gateways import OTHER_KEY, client, ids, problem, running_gateway, submit
from tests.support.manual_replica import ManualReplica
from worker.gateway.group_commit import MAX_GROUP_INPUTS
from worker.store import job_commands
from worker.store.database import Database
from worker.store.tables import jobs


def test_a_submission_becomes_a_job_whose_items_show_results_as_they_end(
    caller: httpx.Client, replica: ManualReplica
) -> None:
    response = submit(caller, "one", "fail two", judge="judge-7", tags=["b", "a"])
    assert response.status_code == 202
    accepted = response.json()
    assert accepted["status_url"] == f"{EXECUTIONS}{accepted['batch_execution_id']}/"
    (row,) = replica.rows("SELECT judge_id, owner FROM eval_jobs")
    assert tuple(row) == ("judge-7", "team-a")

    shown = caller.get(accepted["status_url"]).json()
    assert (shown["status"], shown["total_count"]) == ("pending", 2)
    assert shown["tags"] == ["a", "b"]
    assert [item["status"] for item in shown["items"]] == ["pending", "pending"]
    assert shown["judge"] == {"id": "judge-7", "name": "judge-7", "version_id": ""}

    replica.remote.done = False
    replica.step()
    shown = caller.get(accepted["status_url"]).json()
    assert shown["status"] == "processing"
    assert shown["started_at"] is not None
    assert shown["items"][0]["started_at"] is not None
    assert shown["items"][0]["evaluator_results"] is None

    replica.remote.done = True
    replica.pass_time()
    replica.step()
    shown = caller.get(accepted["status_url"]).json()
    assert (shown["status"], shown["completed_count"], shown["failed_count"]) == (
        "processing",
        1,
        0,
    )
    assert shown["items"][0]["status"] == "completed"
    assert shown["items"][1]["error_message"] == "", "it is retried"

    replica.finish()
    shown = caller.get(accepted["status_url"]).json()
    assert (shown["status"], shown["completed_count"], shown["failed_count"]) == ("completed", 1, 1)
    assert shown["judge"]["version_id"] == "version-that-ran"
    first, second = shown["items"]
    assert [first["index"], second["index"]] == [0, 1]
    assert first["input"] == {
        "request": "one",
        "response": "…",
        "contexts": None,
        "expected_output": None,
    }
    assert first["evaluator_results"] == [
        {"evaluator_name": "length", "score": 0.03, "justification": "one"}
    ]
    assert first["error_message"] == ""
    assert (second["status"], second["evaluator_results"]) == ("failed", None)
    assert second["error_message"] == "cannot judge fail two"
    assert second["completed_at"] is not None


def test_every_field_of_an_input_is_forwarded_and_shown(
    caller: httpx.Client, replica: ManualReplica
) -> None:
    given = {
        "request": "q",
        "contexts": ["c"],
        "functions": [{"name": "f"}],
        "turns": [{"role": "user", "content": "hello", "unheard": 1}],
        "tools": [{"type": "function"}],
        "user_id": "u",
        "unknown": "is ignored, as by the API",
    }
    project = "01932f5e-0000-7000-8000-000000000001"
    response = caller.post(
        "/v1/judges/j/batch-execute/",
        json={"inputs": [given], "project_id": project, "judge_version_id": project},
    )
    replica.finish()
    (sent,) = replica.remote.inputs()
    expected = {name: part for name, part in given.items() if name != "unknown"}
    assert sent == {**expected, "project_id": project}
    shown = caller.get(response.json()["status_url"]).json()["items"][0]["input"]
    assert shown == {**sent, "response": None, "expected_output": None}


def test_a_job_is_failed_if_nothing_was_evaluated(
    caller: httpx.Client, replica: ManualReplica
) -> None:
    response = submit(caller, "fail one")
    replica.finish()
    assert caller.get(response.json()["status_url"]).json()["status"] == "failed"


def test_a_cancelled_job_is_partial_or_failed_in_the_apis_words(
    caller: httpx.Client, replica: ManualReplica, database: Database
) -> None:
    half = submit(caller, "one", "fail two").json()
    replica.step()
    replica.pass_time()
    replica.step()
    none = submit(caller, "three").json()
    for accepted in (half, none):
        database.run(partial(job_commands.cancel, job_id=UUID(accepted["batch_execution_id"])))
    shown = caller.get(half["status_url"]).json()
    assert (shown["status"], shown["completed_count"], shown["failed_count"]) == ("partial", 1, 1)
    assert shown["items"][1]["error_message"] == "Cancelled before it was evaluated."
    assert caller.get(none["status_url"]).json()["status"] == "failed"
    for status, accepted in (("partial", half), ("failed", none)):
        page = caller.get(EXECUTIONS, params={"status": status}).json()
        assert ids(page) == [accepted["batch_execution_id"]]
        assert page["results"][0]["status"] == status


def test_a_repeated_idempotency_key_returns_the_first_id(
    caller: httpx.Client, replica: ManualReplica
) -> None:
    first = submit(caller, "one", key="k").json()
    assert submit(caller, "one", key="k").json() == first
    assert submit(caller, "one").json() != first
    assert replica.one("SELECT count(*) FROM eval_jobs") == 2
    assert replica.events().count("job.taken") == 2


def test_an_idempotency_key_with_another_submission_is_refused(
    caller: httpx.Client, replica: ManualReplica
) -> None:
    """Otherwise one of the two would be lost without anyone noticing."""
    submit(caller, "one", key="k")
    assert problem(submit(caller, "two", key="k")) == (422, "idempotency_key_reused")
    assert problem(submit(caller, "one", judge="j2", key="k")) == (422, "idempotency_key_reused")
    assert replica.one("SELECT count(*) FROM eval_items") == 1


def test_an_idempotency_key_is_at_most_255_visible_characters(lite: Database) -> None:
    with running_gateway(lite) as gateway_url, client(gateway_url) as caller:
        for key in ("", "k k", "k" * 256, "\u00e9"):
            response = caller.post(
                "/v1/judges/j/batch-execute/",
                json={"inputs": [{}]},
                headers={b"Idempotency-Key": key.encode()},
            )
            assert (response.status_code, list(response.json())) == (400, ["Idempotency-Key"]), key
        assert submit(caller, "one", key="k" * 255).status_code == 202


def test_clients_may_use_equal_idempotency_keys(
    caller: httpx.Client, gateway_url: str, replica: ManualReplica
) -> None:
    with client(gateway_url, OTHER_KEY) as other:
        assert submit(caller, "one", key="k").json() != submit(other, "one", key="k").json()


def test_concurrent_equal_submissions_make_one_job(
    gateway_url: str, replica: ManualReplica
) -> None:
    together = threading.Barrier(12)

    def send(_: int) -> Any:
        with client(gateway_url) as given:
            together.wait()
            return submit(given, "one", key="k").json()["batch_execution_id"]

    with ThreadPoolExecutor(12) as pool:
        assert len(set(pool.map(send, range(12)))) == 1
    assert replica.one("SELECT count(*) FROM eval_items") == 1


def test_an_invalid_submission_is_refused_without_failing_concurrent_ones(
    gateway_url: str, replica: ManualReplica
) -> None:
    together = threading.Barrier(12)

    def send(number: int) -> int:
        text = "with \0" if number % 3 == 0 else f"{number}"
        with client(gateway_url) as given:
            together.wait()
            return submit(given, "fine", text).status_code

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(send, range(12)))
    assert found == [400 if number % 3 == 0 else 202 for number in range(12)]
    assert replica.one("SELECT count(*) FROM eval_jobs") == 8
    assert replica.one("SELECT count(*) FROM eval_items") == 16


def test_more_inputs_than_the_api_accepts_are_split_into_batches(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    replica = ManualReplica(database, FakeJudgeAPI())
    with running_gateway(database, max_inputs=250) as gateway_url, client(gateway_url) as caller:
        response = submit(caller, *(f"q{n}" for n in range(250)))
        assert submit(caller, *(f"q{n}" for n in range(251))).status_code == 400
        replica.finish()
        assert replica.remote.posts() == 3
        shown = caller.get(response.json()["status_url"]).json()
    assert shown["completed_count"] == 250
    assert [item["input"]["request"] for item in shown["items"]] == [f"q{n}" for n in range(250)]
    assert [item["evaluator_results"][0]["justification"] for item in shown["items"]] == [
        f"q{n}" for n in range(250)
    ]
    database.close()


def test_a_commit_whose_response_was_lost_makes_one_job(
    database: Database, replica: ManualReplica
) -> None:
    """The transaction is repeated, and finds that it was committed before."""
    texts = [str(number) for number in range(MAX_GROUP_INPUTS + 1)]
    lose = [True]

    def lost(connection: sa.Connection) -> None:
        if lose and connection.scalar(sa.select(sa.func.count()).select_from(jobs)):
            lose.clear()
            connection.connection.commit()
            raise sa.exc.InterfaceError("COMMIT", None, ConnectionError("lost"))

    with (
        running_gateway(database, max_inputs=len(texts)) as gateway_url,
        client(gateway_url) as caller,
    ):
        sa.event.listen(database.engine, "commit", lost)
        assert submit(caller, *texts).status_code == 202
        sa.event.remove(database.engine, "commit", lost)
    assert not lose
    assert replica.one("SELECT count(*) FROM eval_jobs") == 1
    assert replica.one("SELECT count(*) FROM eval_items") == len(texts)
