"""The gateway as clients of the documented API see it, over both databases."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.gateways import (
    KEY,
    NARROW_KEY,
    OTHER_KEY,
    SLOW_KEY,
    client,
    running_gateway,
    submit,
)
from tests.support.manual_replica import ManualReplica
from worker.gateway import app, responses
from worker.gateway.group_commit import MAX_GROUP_INPUTS
from worker.store import gateway_queries, job_commands
from worker.store.database import Database
from worker.store.tables import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.store.gateway_queries import JobDetail

EXECUTIONS = "/v1/judges/batch-executions/"


@pytest.fixture
def url(database: Database) -> Iterator[str]:
    with running_gateway(database) as found:
        yield found


@pytest.fixture
def lite(sqlite_url: str) -> Iterator[Database]:
    """A database for tests to which it makes no difference which one it is."""
    with contextlib.closing(Database(sqlite_url)) as opened:
        yield opened


@pytest.fixture
def caller(url: str) -> Iterator[httpx.Client]:
    with client(url) as given:
        yield given


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI())


def problem(response: httpx.Response) -> tuple[int, str]:
    """Return the response's status and code, after checking that the body is complete."""
    body = response.json()
    assert body.keys() == {"type", "status", "title", "detail", "instance", "code"}
    assert body["status"] == response.status_code
    return response.status_code, body["code"]


def ids(page: Any) -> list[str]:
    return [row["batch_execution_id"] for row in page["results"]]


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
    with running_gateway(lite) as url, client(url) as caller:
        for key in ("", "k k", "k" * 256, "\u00e9"):
            response = caller.post(
                "/v1/judges/j/batch-execute/",
                json={"inputs": [{}]},
                headers={b"Idempotency-Key": key.encode()},
            )
            assert (response.status_code, list(response.json())) == (400, ["Idempotency-Key"]), key
        assert submit(caller, "one", key="k" * 255).status_code == 202


def test_clients_may_use_equal_idempotency_keys(
    caller: httpx.Client, url: str, replica: ManualReplica
) -> None:
    with client(url, OTHER_KEY) as other:
        assert submit(caller, "one", key="k").json() != submit(other, "one", key="k").json()


def test_concurrent_equal_submissions_make_one_job(url: str, replica: ManualReplica) -> None:
    together = threading.Barrier(12)

    def send(_: int) -> Any:
        with client(url) as given:
            together.wait()
            return submit(given, "one", key="k").json()["batch_execution_id"]

    with ThreadPoolExecutor(12) as pool:
        assert len(set(pool.map(send, range(12)))) == 1
    assert replica.one("SELECT count(*) FROM eval_items") == 1


def test_an_invalid_submission_is_refused_without_failing_concurrent_ones(
    url: str, replica: ManualReplica
) -> None:
    together = threading.Barrier(12)

    def send(number: int) -> int:
        text = "with \0" if number % 3 == 0 else f"{number}"
        with client(url) as given:
            together.wait()
            return submit(given, "fine", text).status_code

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(send, range(12)))
    assert found == [400 if number % 3 == 0 else 202 for number in range(12)]
    assert replica.one("SELECT count(*) FROM eval_jobs") == 8
    assert replica.one("SELECT count(*) FROM eval_items") == 16


def test_a_key_sees_its_own_jobs_only(
    caller: httpx.Client, url: str, replica: ManualReplica
) -> None:
    accepted = submit(caller, "one").json()
    producers = replica.enqueue(["nobody's"])
    with client(url, OTHER_KEY) as other:
        assert problem(other.get(accepted["status_url"])) == (404, "not_found")
        assert ids(other.get(EXECUTIONS).json()) == []
    assert problem(caller.get(f"{EXECUTIONS}{producers}/")) == (404, "not_found")
    assert ids(caller.get(EXECUTIONS).json()) == [accepted["batch_execution_id"]]


UNKNOWN_KEYS = [
    (None, "not_authenticated"),
    ("", "not_authenticated"),
    ("Bearer " + KEY, "not_authenticated"),
    ("Api-Key", "not_authenticated"),
    ("Api-Key unknown", "authentication_failed"),
    ("Api-Key " + KEY[:-1], "authentication_failed"),
    ("Api-Key team-a", "authentication_failed"),
]


def test_requests_without_a_known_key_get_401(lite: Database) -> None:
    with running_gateway(lite) as url, client(url, None) as nobody:
        for header, code in UNKNOWN_KEYS:
            headers = {} if header is None else {"Authorization": header}
            all_responses = [
                nobody.get(EXECUTIONS, headers=headers),
                nobody.get(f"{EXECUTIONS}x/", headers=headers),
                nobody.post("/v1/judges/j/batch-execute/", headers=headers, json={}),
            ]
            for response in all_responses:
                assert problem(response) == (401, code), header
                assert response.headers["www-authenticate"] == "Api-Key"


def test_a_key_may_use_only_its_judges(url: str) -> None:
    with client(url, NARROW_KEY) as narrow:
        assert submit(narrow, "one", judge="math").status_code == 202
        assert problem(submit(narrow, "one", judge="other")) == (403, "permission_denied")


def test_a_key_above_its_rate_gets_429_with_retry_after(url: str) -> None:
    with client(url, SLOW_KEY) as slow, client(url) as other:
        assert slow.get(EXECUTIONS).status_code == 200
        refused = slow.get(EXECUTIONS)
        assert problem(refused) == (429, "throttled")
        assert refused.json()["title"] == "Throttled."
        assert 1 <= int(refused.headers["retry-after"]) <= 100
        assert other.get(EXECUTIONS).status_code == 200


WRONG_BODIES: list[tuple[Any, set[str]]] = [
    ({}, {"inputs"}),
    ([], {"non_field_errors"}),
    ({"inputs": []}, {"inputs"}),
    ({"inputs": [{}] * 101}, {"inputs"}),
    ({"inputs": [{"request": 5}]}, {"inputs"}),
    ({"inputs": [{"request": "q"}, {"contexts": ["c"]}]}, {"inputs"}),
    ({"inputs": [{"question": "q", "answer": "a"}]}, {"inputs"}),
    ({"inputs": [{}], "tags": [""]}, {"tags.0"}),
    ({"inputs": [{}], "judge_version_id": "latest"}, {"judge_version_id"}),
    ({"inputs": [{"request": "\0"}]}, {"non_field_errors"}),
    ({"inputs": [{"request": "\ud800"}]}, {"non_field_errors"}),
]


def test_validation_errors_are_named_by_field(lite: Database) -> None:
    with running_gateway(lite) as url, client(url) as caller:
        for body, fields in WRONG_BODIES:
            # As text, because httpx cannot encode half of a surrogate pair.
            response = caller.post("/v1/judges/j/batch-execute/", content=json.dumps(body))
            assert (response.status_code, response.json().keys()) == (400, fields)
        assert ids(caller.get(EXECUTIONS).json()) == []


def test_a_body_that_is_not_json_is_a_parse_error(lite: Database) -> None:
    with running_gateway(lite) as url, client(url) as caller:
        for body in (b"", b"{", b'{"inputs": [NaN]}', b"[" * 100_000, b"\xff"):
            response = caller.post("/v1/judges/j/batch-execute/", content=body)
            assert problem(response) == (400, "parse_error"), body[:20]


def test_a_body_above_the_limit_is_not_read_to_its_end(lite: Database) -> None:
    sent = itertools.count()

    def endless() -> Iterator[bytes]:
        for _ in range(2000):
            next(sent)
            yield b" " * 65536

    with running_gateway(lite, max_body_bytes=100_000) as url, client(url) as caller:
        declared = caller.post("/v1/judges/j/batch-execute/", content=b" " * 100_001)
        assert problem(declared) == (413, "too_large")
        try:
            streamed = caller.post("/v1/judges/j/batch-execute/", content=endless())
        except httpx.WriteError:  # the gateway closed the connection
            pass
        else:
            assert problem(streamed) == (413, "too_large")
        assert next(sent) < 2000


def test_more_inputs_than_the_api_accepts_are_split_into_batches(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    replica = ManualReplica(database, FakeJudgeAPI())
    with running_gateway(database, max_inputs=250) as url, client(url) as caller:
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


def test_the_list_has_pages_in_both_directions(
    caller: httpx.Client, replica: ManualReplica
) -> None:
    accepted = [submit(caller, f"q{n}").json()["batch_execution_id"] for n in range(5)]
    newest_first = accepted[::-1]
    page = caller.get(EXECUTIONS, params={"page_size": 2}).json()
    assert page["previous"] is None
    assert "items" not in page["results"][0]
    pages = [page]
    while pages[-1]["next"]:
        assert pages[-1]["next"].startswith(str(caller.base_url))
        pages.append(caller.get(pages[-1]["next"]).json())
    assert [ids(page) for page in pages] == [newest_first[:2], newest_first[2:4], newest_first[4:]]
    back = caller.get(pages[-1]["previous"]).json()
    assert ids(back) == newest_first[2:4]
    first = caller.get(back["previous"]).json()
    assert (ids(first), first["previous"]) == (newest_first[:2], None)
    assert ids(caller.get(first["next"]).json()) == newest_first[2:4]


def test_the_list_is_filtered(caller: httpx.Client, replica: ManualReplica) -> None:
    project = "01932f5e-0000-7000-8000-000000000001"
    one = submit(caller, "one", judge="a").json()["batch_execution_id"]
    replica.finish()
    two = submit(caller, "two", judge="b", project_id=project).json()["batch_execution_id"]
    shown = {row["batch_execution_id"]: row for row in caller.get(EXECUTIONS).json()["results"]}
    counted = [shown[one][name] for name in ("total_count", "completed_count", "failed_count")]
    assert counted == [1, 1, 0]
    assert shown[one]["judge"]["version_id"] == "version-that-ran"
    moment = shown[two]["created_at"]
    for params, expected in [
        ({"judge_id": "a"}, [one]),
        ({"judge_id": "c"}, []),
        ({"status": "completed"}, [one]),
        ({"status": "pending"}, [two]),
        ({"status": "processing"}, []),
        ({"project_id": project}, [two]),
        ({"date_from": moment}, [two]),
        ({"date_to": moment}, [two, one]),
        ({"date_to": "2020-01-01"}, []),
        ({"date_from": "0001-01-01T00:00:00+14:00"}, [two, one]),
        ({"judge_id": "a", "status": "pending"}, []),
    ]:
        assert ids(caller.get(EXECUTIONS, params=params).json()) == expected, params


INVALID_PARAMETERS: list[dict[str, str]] = [
    {"tag": "t"},
    {"status": "done"},
    {"page_size": "0"},
    {"page_size": "ten"},
    {"page_size": ""},
    {"date_from": "yesterday"},
    {"cursor": "x"},
    {"cursor": ""},
    {"cursor": "x01932f5e-0000-7000-8000-000000000001"},
    {"judge_id": "\0"},
]


def test_invalid_list_parameters_are_refused(lite: Database) -> None:
    with running_gateway(lite) as url, client(url) as caller:
        for params in INVALID_PARAMETERS:
            response = caller.get(EXECUTIONS, params=params)
            assert (response.status_code, response.json().keys()) == (400, params.keys())


def test_unknown_paths_get_404_and_other_methods_405(lite: Database) -> None:
    with running_gateway(lite) as url, client(url) as caller:
        assert problem(caller.post("/v1/judges/j/batch-execute", json={})) == (404, "not_found")
        assert problem(caller.get("/v1/judges/j/execute/")) == (404, "not_found")
        response = caller.delete(EXECUTIONS)
        assert problem(response) == (405, "method_not_allowed")
        assert "GET" in response.headers["allow"]
        assert problem(caller.get(f"{EXECUTIONS}not-an-id/")) == (404, "not_found")


def test_while_the_database_is_unavailable_requests_get_503_with_retry_after(
    sqlite_url: str,
) -> None:
    """A submission that was not committed is not reported as accepted."""
    database = Database(sqlite_url)
    with running_gateway(database) as url, client(url) as caller:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE eval_jobs RENAME TO hidden")
        for response in (submit(caller, "one"), caller.get(EXECUTIONS)):
            assert problem(response) == (503, "service_unavailable")
            assert int(response.headers["retry-after"]) > 0
        with database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden RENAME TO eval_jobs")
        assert submit(caller, "one").status_code == 202
    database.close()


def test_polls_are_answered_while_submissions_wait_for_their_commit(
    url: str, caller: httpx.Client, database: Database, replica: ManualReplica
) -> None:
    """Writes wait in a thread of their own, and cannot occupy the readers."""
    status_url = submit(caller, "one").json()["status_url"]
    with ThreadPoolExecutor(8) as pool:
        with database.engine.begin() as held:  # on SQLite, this alone blocks all writers
            if database.on_postgresql:
                held.exec_driver_sql("LOCK TABLE eval_jobs IN SHARE ROW EXCLUSIVE MODE")
            waiting = [pool.submit(_submit_alone, url) for _ in range(8)]
            for _ in range(20):
                assert caller.get(status_url).status_code == 200
            assert ids(caller.get(EXECUTIONS).json()) == [status_url.split("/")[-2]]
            assert not any(one.done() for one in waiting)
        assert [one.result() for one in waiting] == [202] * 8
    assert replica.one("SELECT count(*) FROM eval_jobs") == 9


def test_polls_are_answered_while_a_very_large_job_is_serialized(
    database: Database, replica: ManualReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow_execution_body(detail: JobDetail) -> Any:
        if len(detail.items) > 1:
            assert go_on.wait(10)
        return responses.execution_body(detail)

    monkeypatch.setattr(app, "execution_body", slow_execution_body)
    texts = [str(number) for number in range(500)]
    with running_gateway(database, max_inputs=len(texts)) as url, client(url) as caller:
        large, small = (submit(caller, *given).json() for given in (texts, ["one"]))
        replica.finish()
        with ThreadPoolExecutor() as pool:
            polled = pool.submit(caller.get, large["status_url"])
            assert caller.get(small["status_url"]).json()["completed_count"] == 1
            go_on.set()
            items = polled.result().json()["items"]
    assert [item["input"]["request"] for item in items] == texts
    assert all(len(item["evaluator_results"]) for item in items)


def test_polls_of_unknown_jobs_leak_no_connections(
    caller: httpx.Client, database: Database
) -> None:
    unknown = f"{EXECUTIONS}01932f5e-0000-7000-8000-000000000001/"
    gc.disable()  # it would return leaked connections to the pool
    try:
        for _ in range(30):
            assert caller.get(unknown).status_code == 404
        pool: Any = database.engine.pool
        assert pool.checkedout() <= 1
    finally:
        gc.enable()


def test_a_job_that_is_deleted_during_a_poll_gets_404(
    caller: httpx.Client,
    database: Database,
    replica: ManualReplica,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status_url = submit(caller, "one").json()["status_url"]
    replica.finish()
    job_results = gateway_queries.job_results

    def after_deletion(connection: sa.Connection, job_id: UUID) -> Any:
        with database.engine.begin() as other:
            other.execute(sa.delete(jobs).where(jobs.c.id == job_id))
        return job_results(connection, job_id)

    assert caller.get(status_url).json()["items"][0]["evaluator_results"]
    monkeypatch.setattr(gateway_queries, "job_results", after_deletion)
    assert problem(caller.get(status_url)) == (404, "not_found")


def _submit_alone(url: str) -> int:
    with client(url) as own:
        return submit(own, "late").status_code


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

    with running_gateway(database, max_inputs=len(texts)) as url, client(url) as caller:
        sa.event.listen(database.engine, "commit", lost)
        assert submit(caller, *texts).status_code == 202
        sa.event.remove(database.engine, "commit", lost)
    assert not lose
    assert replica.one("SELECT count(*) FROM eval_jobs") == 1
    assert replica.one("SELECT count(*) FROM eval_items") == len(texts)


def test_keys_may_be_given_as_hashes(lite: Database) -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys = json.dumps({"hashed": {"sha256": digest}})
    with running_gateway(lite, keys=keys) as url, client(url) as caller:
        assert submit(caller, "one").status_code == 202
