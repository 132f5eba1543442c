"""`evalworker judges` lists what the API can tell, and says so where it cannot."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.support.processes import environment, evalworker
from worker.domain.outcomes import JudgeEntry, JudgesListed, JudgesOutcome, NotFound, Unavailable
from worker.remote import JudgeAPI
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox, sandbox_definitions


def test_the_judges_of_the_sandbox_are_listed() -> None:
    with running_sandbox(SandboxOptions()) as judge:
        env = environment(api_url=judge.url, api_key=judge.api_key)
        table = evalworker("judges", env=env)
        listed = evalworker("judges", "--json", env=env)
        refused = evalworker("judges", env=env | {"EVALWORKER_API_KEY": "another-key"})
    assert (table.returncode, table.stderr) == (0, "")
    assert "answer-quality" in table.stdout
    known = {judge.id: judge.name for judge in sandbox_definitions().judges}
    assert {row["id"]: row["name"] for row in json.loads(listed.stdout)} == known
    assert refused.returncode == 1
    assert "401" in refused.stderr


def judges_of(*responses: httpx.Response) -> list[JudgesOutcome]:
    left = list(responses)
    transport = httpx.MockTransport(lambda _: left.pop(0))
    with JudgeAPI(base_url="http://judge", api_key="key", transport=transport) as api:
        return [api.list_judges() for _ in responses]


def test_a_page_is_read_leniently_and_names_the_next_one() -> None:
    body = {
        "next": "http://judge/v1/judges/?cursor=c2",
        "results": [{"id": "1", "name": "one", "intent": 5}, {"name": "no id"}, "no object"],
    }
    (page,) = judges_of(httpx.Response(200, json=body))
    assert page == JudgesListed((JudgeEntry("1", "one", None),), "c2")


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (httpx.Response(404, json={"detail": "Not found."}), NotFound),
        (httpx.Response(404, text="<html>"), NotFound),
        (httpx.Response(405), NotFound),
        (httpx.Response(200, json=[]), Unavailable),
        (httpx.Response(200, text="no JSON"), Unavailable),
        (httpx.Response(503), Unavailable),
    ],
)
def test_a_server_without_a_list_of_judges_is_told_from_one_in_trouble(
    response: httpx.Response, outcome: type
) -> None:
    assert [type(page) for page in judges_of(response)] == [outcome]


def test_where_the_api_cannot_tell_one_sentence_says_so() -> None:
    with running_sandbox(SandboxOptions()) as judge:
        env = environment(api_url=f"{judge.url}/elsewhere", api_key=judge.api_key)
        done = evalworker("judges", env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"evalworker: {judge.url}/elsewhere does not list its judges: "
        "ask whoever runs it for their ids\n"
    )
