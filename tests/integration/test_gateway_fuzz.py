"""Fuzz the running gateway with requests that its OpenAPI document allows, and with others."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase

from scripts.generate_docs import OPENAPI, openapi_text
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.gateways import JSON_KEYS, KEY, client, running_gateway, submit
from tests.support.manual_replica import ManualReplica
from worker.config import load_settings
from worker.gateway.openapi import HAS_WORDS
from worker.store.database import Database

pytestmark = pytest.mark.one_database("postgres")

ORDINARY, LONG = 10, 2000  # examples for each operation and kind of data


def test_the_document_in_the_docs_is_current() -> None:
    assert OPENAPI.read_text("utf-8") == openapi_text(), "run `python -m scripts.generate_docs`"


def test_the_document_and_the_gateway_call_the_same_characters_white_space() -> None:
    characters = [chr(code) for code in range(0x10000)]
    blank = [character for character in characters if not re.search(HAS_WORDS, character)]
    assert blank == [character for character in characters if character.isspace()]


def test_the_document_is_served_without_a_key(sqlite_url: str) -> None:
    with (
        contextlib.closing(Database(sqlite_url)) as database,
        running_gateway(database, max_inputs=500) as url,
        client(url, None) as nobody,
    ):
        served = nobody.get("/openapi.json").json()
    assert served["components"]["schemas"]["Submission"]["properties"]["inputs"]["maxItems"] == 500
    assert served["paths"] == json.loads(openapi_text())["paths"]


@pytest.fixture
def url(database_url: str) -> Iterator[str]:
    """Serve jobs in several states."""
    database = Database(load_settings(database_url=database_url).sqlalchemy_url)
    replica = ManualReplica(database, FakeJudgeAPI())
    with running_gateway(database, keys=JSON_KEYS) as found:
        with client(found) as caller:
            submit(caller, "one", "fail two")
            replica.finish()
            submit(caller, "fail three")
            replica.finish()
            submit(caller, "four")
        yield found
    database.close()


def test_responses_conform_to_the_document(url: str) -> None:
    fuzz(url, examples=ORDINARY)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_responses_to_very_many_requests_conform_to_the_document(url: str) -> None:
    fuzz(url, examples=LONG)


def fuzz(url: str, *, examples: int) -> None:
    """Fuzz each operation with valid and with invalid data."""
    served = httpx.get(f"{url}/openapi.json").json()
    del served["security"]  # the key is always sent: without it every answer is 401
    # Imported late: it takes a second or two, which each process of a test run would pay.
    schemathesis = import_module("schemathesis")
    schema = schemathesis.openapi.from_dict(served)
    schema.config.update(base_url=url)
    known = _known_id(url)
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        for found in schema.get_all_operations():
            operation: Any = found
            _fuzz_operation(operation.ok(), mode, examples, known)


def _fuzz_operation(operation: Any, mode: Any, examples: int, known: str) -> None:
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        _ask(case)
        if mode.is_positive and "id" in (case.path_parameters or {}):  # also one that exists
            case.path_parameters["id"] = known
            _ask(case)

    ask()


def _ask(case: Any) -> None:
    headers = {"Authorization": f"Api-Key {KEY}"}
    response = case.call(headers=headers, timeout=60)
    checks = import_module("schemathesis.specs.openapi.checks")
    excluded = [checks.positive_data_acceptance] if _beyond_the_document(response) else []
    case.validate_response(response, headers=headers, excluded_checks=excluded)


def _beyond_the_document(response: Any) -> bool:
    """Return whether a rule refused the request that no schema can express.

    Such are characters that no database stores (NUL, halves of surrogate pairs), blank names,
    cursors that were never issued, and idempotency keys of earlier submissions.
    """
    words = ("cannot be stored", "Null characters", "must not be empty", "Invalid cursor")
    return response.status_code == 422 or (
        response.status_code == 400 and any(said in response.text for said in words)
    )


def _known_id(url: str) -> str:
    with client(url) as caller:
        rows = caller.get("/v1/judges/batch-executions/").json()["results"]
    return str(rows[-1]["batch_execution_id"])
