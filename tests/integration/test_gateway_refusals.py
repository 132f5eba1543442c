"""The gateway refuses unknown keys and invalid requests as the documented API does."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx

from tests.support.fake_judge_api import EXECUTIONS
from tests.support.gateways import (
    KEY,
    NARROW_KEY,
    OTHER_KEY,
    SLOW_KEY,
    client,
    ids,
    problem,
    running_gateway,
    submit,
)
from tests.support.manual_replica import ManualReplica
from worker.store.database import Database


def test_a_key_sees_its_own_jobs_only(
    caller: httpx.Client, gateway_url: str, replica: ManualReplica
) -> None:
    accepted = submit(caller, "one").json()
    producers = replica.enqueue(["nobody's"])
    with client(gateway_url, OTHER_KEY) as other:
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
    with running_gateway(lite) as gateway_url, client(gateway_url, None) as nobody:
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


def test_keys_may_be_given_as_hashes(lite: Database) -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys = json.dumps({"hashed": {"sha256": digest}})
    with running_gateway(lite, keys=keys) as gateway_url, client(gateway_url) as caller:
        assert submit(caller, "one").status_code == 202


def test_a_key_may_use_only_its_judges(gateway_url: str) -> None:
    with client(gateway_url, NARROW_KEY) as narrow:
        assert submit(narrow, "one", judge="math").status_code == 202
        assert problem(submit(narrow, "one", judge="other")) == (403, "permission_denied")


def test_a_key_above_its_rate_gets_429_with_retry_after(gateway_url: str) -> None:
    with client(gateway_url, SLOW_KEY) as slow, client(gateway_url) as other:
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
    with running_gateway(lite) as gateway_url, client(gateway_url) as caller:
        for body, fields in WRONG_BODIES:
            # As text, because httpx cannot encode half of a surrogate pair.
            response = caller.post("/v1/judges/j/batch-execute/", content=json.dumps(body))
            assert (response.status_code, response.json().keys()) == (400, fields)
        assert ids(caller.get(EXECUTIONS).json()) == []


def test_a_body_that_is_not_json_is_a_parse_error(lite: Database) -> None:
    with running_gateway(lite) as gateway_url, client(gateway_url) as caller:
        for body in (b"", b"{", b'{"inputs": [NaN]}', b"[" * 100_000, b"\xff"):
            response = caller.post("/v1/judges/j/batch-execute/", content=body)
            assert problem(response) == (400, "parse_error"), body[:20]


def test_a_body_above_the_limit_is_not_read_to_its_end(lite: Database) -> None:
    sent = itertools.count()

    def endless() -> Iterator[bytes]:
        for _ in range(2000):
            next(sent)
            yield b" " * 65536

    with (
        running_gateway(lite, max_body_bytes=100_000) as gateway_url,
        client(gateway_url) as caller,
    ):
        declared = caller.post("/v1/judges/j/batch-execute/", content=b" " * 100_001)
        assert problem(declared) == (413, "too_large")
        try:
            streamed = caller.post("/v1/judges/j/batch-execute/", content=endless())
        except httpx.WriteError:  # the gateway closed the connection
            pass
        else:
            assert problem(streamed) == (413, "too_large")
        assert next(sent) < 2000


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
    with running_gateway(lite) as gateway_url, client(gateway_url) as caller:
        for params in INVALID_PARAMETERS:
            response = caller.get(EXECUTIONS, params=params)
            assert (response.status_code, response.json().keys()) == (400, params.keys())


def test_unknown_paths_get_404_and_other_methods_405(lite: Database) -> None:
    with running_gateway(lite) as gateway_url, client(gateway_url) as caller:
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
    with running_gateway(database) as gateway_url, client(gateway_url) as caller:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE eval_jobs RENAME TO hidden")
        for response in (submit(caller, "one"), caller.get(EXECUTIONS)):
            assert problem(response) == (503, "service_unavailable")
            assert int(response.headers["retry-after"]) > 0
        with database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden RENAME TO eval_jobs")
        assert submit(caller, "one").status_code == 202
    database.close()
