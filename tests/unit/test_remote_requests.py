"""Requests carry what is given and nothing else, and go nowhere but to the judge API."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timedelta, timezone

import httpx
import pytest

from tests.support.remote_clients import BASE, ID, KEY, STANDARD, accepted, api_with
from worker.domain.outcomes import Accepted, Invalid, Unavailable
from worker.errors import ConfigurationError
from worker.remote import JudgeAPI


def test_a_submission_carries_key_inputs_tags_and_version() -> None:
    requests: list[httpx.Request] = []
    with api_with(accepted(), requests=requests) as api:
        api.submit("judge/1 ä", [{"request": "håndværk"}], tags=["a"], judge_version_id="v1")
    (request,) = requests
    assert request.method == "POST"
    assert request.url.raw_path == b"/v1/judges/judge%2F1%20%C3%A4/batch-execute/"
    assert request.headers["authorization"] == f"Api-Key {KEY}"
    assert request.headers["user-agent"].startswith("evalworker/")
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {
        "inputs": [{"request": "håndværk"}],
        "tags": ["a"],
        "judge_version_id": "v1",
    }


def test_what_is_not_given_is_not_sent() -> None:
    requests: list[httpx.Request] = []
    with api_with(accepted(), requests=requests) as api:
        api.submit("j", [{"response": "r"}])
    assert json.loads(requests[0].content) == {"inputs": [{"response": "r"}]}


@pytest.mark.parametrize("base_url", [f"{BASE}/judge-api", f"{BASE}/judge-api/"])
def test_a_base_url_may_carry_a_path(base_url: str) -> None:
    requests: list[httpx.Request] = []
    with api_with(accepted(), requests=requests, base_url=base_url) as api:
        api.submit("j", [{}])
        api.status(ID)
        api.list_executions()
    assert [request.url.path for request in requests] == [
        "/judge-api/v1/judges/j/batch-execute/",
        f"/judge-api/v1/judges/batch-executions/{ID}/",
        "/judge-api/v1/judges/batch-executions/",
    ]


@pytest.mark.parametrize("judge_id", ["..", ".", "../../admin", "a?b", "a#b"])
def test_no_judge_id_leads_to_another_path(judge_id: str) -> None:
    requests: list[httpx.Request] = []
    with api_with(accepted(), requests=requests) as api:
        api.submit(judge_id, [{}])
    raw = requests[0].url.raw_path
    assert raw.startswith(b"/v1/judges/")
    assert raw.endswith(b"/batch-execute/")
    assert raw.count(b"/") == 5


def test_half_a_surrogate_pair_in_an_input_is_sent_escaped() -> None:
    requests: list[httpx.Request] = []
    with api_with(accepted(), requests=requests) as api:
        api.submit("j", [{"request": "x\ud800"}])
    assert json.loads(requests[0].content) == {"inputs": [{"request": "x\ud800"}]}


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_an_input_that_is_not_json_is_invalid_and_nothing_is_sent(value: object) -> None:
    requests: list[httpx.Request] = []
    with api_with(accepted(), requests=requests) as api:
        outcome = api.submit("j", [{"request": value}])
    assert isinstance(outcome, Invalid)
    assert requests == []


def test_ids_that_no_url_can_carry_are_outcomes() -> None:
    with api_with(accepted()) as api:
        assert isinstance(api.submit("\ud800", [{}]), Invalid)
        assert isinstance(api.submit("j" * 100_000, [{}]), Invalid)
        for outcome in (
            api.status("x" * 100_000),
            api.status("\ud800"),
            api.list_executions(cursor="\ud800"),
            api.list_executions(cursor="c" * 100_000),
        ):
            assert isinstance(outcome, Unavailable)
            assert outcome.sent is False


def test_the_list_is_requested_in_utc_with_only_what_is_given() -> None:
    requests: list[httpx.Request] = []
    noon = datetime(2026, 11, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    with api_with(httpx.Response(200, json={"results": []}), requests=requests) as api:
        api.list_executions(judge_id="j&x", date_from=noon, cursor="c=+/")
        api.list_executions()
    assert dict(requests[0].url.params) == {
        "judge_id": "j&x",
        "date_from": "2026-11-01T10:00:00+00:00",
        "cursor": "c=+/",
    }
    assert requests[1].url == f"{BASE}/v1/judges/batch-executions/"


def test_threads_that_want_the_list_together_send_one_after_the_other() -> None:
    sent_at: list[float] = []

    def respond(_: httpx.Request) -> httpx.Response:
        sent_at.append(time.monotonic())
        return httpx.Response(200, json={"results": []})

    transport = httpx.MockTransport(respond)
    with JudgeAPI(base_url=BASE, api_key=KEY, transport=transport, spacing=0.05) as api:
        threads = [threading.Thread(target=api.list_executions) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(sent_at) == 4
    assert max(sent_at) - min(sent_at) >= 0.1, "three spacings, less how late the first one was"


def test_no_cookie_is_kept() -> None:
    requests: list[httpx.Request] = []
    response = httpx.Response(200, json={"results": []}, headers={"Set-Cookie": "a=b; Path=/"})
    with api_with(response, requests=requests) as api:
        api.list_executions()
        api.list_executions()
    assert "cookie" not in requests[1].headers


@pytest.mark.parametrize("key", ["", "  ", "a\nb", "ключ"])
def test_a_key_that_no_header_carries_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        JudgeAPI(base_url=BASE, api_key=key)
    assert "header" in str(caught.value)
    assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://u:pw@api.example.com",
        "ftp://api.example.com",
        "api",
        "https://[::1",
        f"https://{'a' * 64}.example.com",
        "https://api..example.com",
    ],
)
def test_a_base_url_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        JudgeAPI(base_url=url, api_key=KEY)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (f"/v1/judges/batch-executions/{ID}/", STANDARD),
        (STANDARD, STANDARD),
        (f"HTTPS://API.example.com:443/v1/x/{ID}/", f"{BASE}/v1/x/{ID}/"),
        (f"v1/x/{ID}/", f"{BASE}/v1/x/{ID}/"),
    ],
)
def test_a_status_url_of_this_api_is_kept(given: str, kept: str) -> None:
    with api_with(accepted(given)) as api:
        assert api.submit("j", [{}]) == Accepted(ID, kept)


FOREIGN = [
    "https://evil.example.net/x/",
    "//evil.example.net/x/",
    "///evil.example.net",
    "/\\evil.example.net/x/",
    "\\\\evil.example.net/x/",
    "https://api.example.com@evil.example.net/x/",
    "https://evil.example.net\\@api.example.com/x/",
    "https://user:pw@api.example.com/x/",
    "https://api.example.com.evil.example.net/x/",
    "https://api.example.com:8443/x/",
    "http://api.example.com/x/",
    "http://api.example.com:443/x/",
    "ftp://api.example.com/x/",
    "javascript:alert(1)",
    "file:///etc/passwd",
    "https://",
    "https://[/x/",
    "https://api.example.com:notaport/",
    "/v1/\r\nX-Evil: 1",
    "\thttps://evil.example.net/",
    "/v1/\ud800/",
    "/" + "x" * 70_000,
]


@pytest.mark.parametrize("given", [*FOREIGN, "", 7, None, ["/x/"], {"a": 1}])
def test_no_other_status_url_is_kept(given: object) -> None:
    body = json.dumps({"batch_execution_id": ID, "status_url": given})
    with api_with(httpx.Response(202, text=body)) as api:
        outcome = api.submit("j", [{}])
    assert outcome == Accepted(ID)


@pytest.mark.parametrize("given", FOREIGN)
def test_the_key_never_leaves_the_origin(given: str) -> None:
    requests: list[httpx.Request] = []
    with api_with(httpx.Response(500), requests=requests) as api:
        api.status(ID, given)
    assert [str(request.url) for request in requests] == [STANDARD]


def test_a_status_url_outside_the_base_path_is_not_used() -> None:
    requests: list[httpx.Request] = []
    base = f"{BASE}/judge-api"
    with api_with(accepted("/v1/x/"), requests=requests, base_url=base) as api:
        assert api.submit("j", [{}]) == Accepted(ID)
        api.status(ID, "/other-app/x/")
        api.status(ID, "/judge-api/x/")
    paths = [request.url.path for request in requests[1:]]
    assert paths == [f"/judge-api/v1/judges/batch-executions/{ID}/", "/judge-api/x/"]
