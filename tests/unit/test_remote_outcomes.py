"""Each response of the judge API becomes the outcome that its status, body and headers call for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.remote_clients import BASE, ID, KEY, accepted, api_with
from worker.domain.outcomes import (
    Accepted,
    Denied,
    Found,
    Invalid,
    Listed,
    NotFound,
    Throttled,
    TooLarge,
    Unavailable,
)


def problem(status: int, code: str, detail: str) -> httpx.Response:
    body = {"type": "about:blank", "status": status, "title": "T", "detail": detail, "code": code}
    return httpx.Response(status, json=body | {"instance": None})


@pytest.mark.parametrize("status", [200, 201, 202, 207])
def test_any_2xx_with_an_id_is_accepted(status: int) -> None:
    with api_with(accepted(status=status)) as api:
        assert api.submit("j", [{}]) == Accepted(ID)


def test_an_id_that_is_a_number_is_taken_as_text() -> None:
    with api_with(httpx.Response(202, json={"batch_execution_id": 7})) as api:
        assert api.submit("j", [{}]) == Accepted("7")


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(202),
        httpx.Response(204),
        httpx.Response(202, text="<html>ok</html>"),
        httpx.Response(202, text='{"batch_execution_id": "0190'),
        httpx.Response(202, json={"error": "boom"}),
        httpx.Response(202, json=[ID]),
        httpx.Response(202, json={"batch_execution_id": ""}),
        httpx.Response(202, json={"batch_execution_id": True}),
        httpx.Response(202, json={"batch_execution_id": 7.5}),
        httpx.Response(202, json={"batch_execution_id": "x" * 5000}),
    ],
)
def test_a_2xx_without_an_id_may_have_started_a_batch(response: httpx.Response) -> None:
    with api_with(response) as api:
        outcome = api.submit("j", [{}])
    assert isinstance(outcome, Unavailable)
    assert outcome.sent is True


@pytest.mark.parametrize(("status", "is_blamed"), [(408, True), (425, False), (500, True)])
def test_a_timeout_at_the_server_may_be_the_fault_of_an_input_like_a_5xx(
    status: int, is_blamed: bool
) -> None:
    with api_with(httpx.Response(status, text="too slow")) as api:
        expected = Unavailable(f"{status}: too slow", is_server_error=is_blamed)
        assert api.submit("j", [{}]) == expected


Outcome = type[Any]


@pytest.mark.parametrize(
    ("status", "submit", "poll", "listing"),
    [
        (400, Invalid, Unavailable, NotFound),
        (401, Denied, Denied, Denied),
        (402, Denied, Denied, Denied),
        (403, Denied, Denied, Denied),
        (404, NotFound, NotFound, NotFound),
        (405, Denied, Denied, NotFound),
        (408, Unavailable, Unavailable, Unavailable),
        (409, Denied, Denied, Denied),
        (413, TooLarge, Unavailable, Unavailable),
        (418, Denied, Denied, Denied),
        (422, Invalid, Unavailable, NotFound),
        (425, Unavailable, Unavailable, Unavailable),
        (429, Throttled, Throttled, Throttled),
        (500, Unavailable, Unavailable, Unavailable),
        (501, Unavailable, Unavailable, NotFound),
        (502, Unavailable, Unavailable, Unavailable),
        (503, Unavailable, Unavailable, Unavailable),
        (599, Unavailable, Unavailable, Unavailable),
    ],
)
def test_each_status_code_has_its_outcome(
    status: int, submit: Outcome, poll: Outcome, listing: Outcome
) -> None:
    code = "not_found" if status == 404 else "a_code"
    with api_with(lambda _: problem(status, code, "in its own words")) as api:
        outcomes = (api.submit("j", [{}]), api.status(ID), api.list_executions())
    assert tuple(type(outcome) for outcome in outcomes) == (submit, poll, listing)
    for outcome in outcomes:
        assert not isinstance(outcome, Accepted | Found | Listed)
        assert f"{status} {code}: in its own words" in outcome.reason
        assert getattr(outcome, "sent", True) is True


def test_a_missing_permission_concerns_the_judge_and_a_wrong_key_everything() -> None:
    with api_with(problem(403, "permission_denied", "no")) as api:
        assert api.submit("j", [{}]) == Denied("403 permission_denied: no", judge_only=True)
    with api_with(problem(401, "authentication_failed", "no")) as api:
        refused = Denied("401 authentication_failed: no", key_refused=True)
        assert api.submit("j", [{}]) == refused
    for code in ("authentication_failed", "not_authenticated"):  # as some servers say it
        with api_with(problem(403, code, "no")) as api:
            assert api.submit("j", [{}]) == Denied(f"403 {code}: no", key_refused=True)


@pytest.mark.parametrize("status", [400, 404])
def test_a_list_that_refuses_its_own_cursor_is_not_a_missing_list(status: int) -> None:
    with api_with(lambda _: problem(status, "invalid", "Invalid cursor")) as api:
        assert isinstance(api.list_executions(), NotFound)
        outcome = api.list_executions(cursor="c")
    assert isinstance(outcome, Unavailable)
    assert "Invalid cursor" in outcome.reason


@pytest.mark.parametrize(
    "location", ["https://evil.example.net/", "http://[", "", "x:y:z", "/\ud7ff"]
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_named_and_not_followed(status: int, location: str) -> None:
    requests: list[httpx.Request] = []
    headers = [(b"location", location.encode())]
    with api_with(lambda _: httpx.Response(status, headers=headers), requests=requests) as api:
        outcomes = (api.submit("j", [{}]), api.status(ID), api.list_executions())
    assert len(requests) == 3
    for outcome in outcomes:
        assert isinstance(outcome, Denied)
        assert outcome.reason.startswith(f"{status}: redirected to")
        if location.isascii():
            assert location in outcome.reason


@pytest.mark.parametrize("status", [302, 303])
def test_a_redirect_to_a_batch_may_have_started_it(status: int) -> None:
    headers = {"location": f"/v1/judges/batch-executions/{ID}/"}
    with api_with(httpx.Response(status, headers=headers)) as api:
        outcome = api.submit("j", [{}])
    assert isinstance(outcome, Unavailable)
    assert outcome.sent is True


@pytest.mark.parametrize("status", [301, 403, 404])
def test_where_the_status_url_leads_nowhere_the_documented_path_is_asked(status: int) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/v2"):
            return httpx.Response(status, headers={"location": "/elsewhere"})
        return httpx.Response(200, json=execution)

    execution = {"batch_execution_id": ID, "status": "pending"}
    with api_with(respond) as api:
        assert isinstance(api.status(ID, f"{BASE}/v2/{ID}/"), Found)


def test_the_key_is_hidden_in_what_is_said_of_an_item() -> None:
    item = {"index": 0, "status": "failed", "error_message": f"key {KEY} has no budget"}
    execution = {"batch_execution_id": ID, "status": "completed", "items": [item]}
    with api_with(httpx.Response(200, json=execution)) as api:
        outcome = api.status(ID)
    assert isinstance(outcome, Found)
    assert outcome.execution.items[0].error_message == "key *** has no budget"


def test_a_3xx_that_leads_nowhere_is_denied_too() -> None:
    with api_with(httpx.Response(304)) as api:
        assert api.status(ID) == Denied("304: redirected to nowhere, which is not followed")


@pytest.mark.parametrize(
    "body",
    [
        {"html": "<html><h1>404 Not Found</h1><hr>nginx</html>"},
        {"text": "404 page not found"},
        {"content": b""},
        {"json": {"detail": "Not Found"}},  # FastAPI and Starlette
        {"json": {"message": "no Route matched with those values"}},  # Kong
        {"json": {"statusCode": 404, "message": "Cannot POST /v1", "error": "Not Found"}},  # Nest
        {"json": {"timestamp": "…", "status": 404, "error": "Not Found", "path": "/v1"}},  # Spring
        {"json": {"type": "…", "title": "Not Found", "status": 404, "traceId": "00"}},  # ASP.NET
        {"json": {"code": 5, "message": "Method does not exist."}},
        {"json": ["not found"]},
        {"json": None},
    ],
)
def test_a_proxys_or_frameworks_404_is_not_the_judge_apis(body: dict[str, Any]) -> None:
    """It says nothing about a judge or a batch, so no input or batch fails because of it."""
    with api_with(lambda _: httpx.Response(404, **body)) as api:
        submitted, polled, listed = api.submit("j", [{}]), api.status(ID), api.list_executions()
    assert isinstance(submitted, NotFound)
    assert submitted.is_foreign
    assert isinstance(polled, Unavailable)
    assert isinstance(listed, NotFound)
    assert not listed.is_path_known


@pytest.mark.parametrize(
    "body",
    [
        {"type": "about:blank", "status": 404, "title": "Not found.", "code": "not_found"},
        {"detail": "Not found."},
        {"detail": "No Judge matches the given query."},
    ],
)
def test_the_judge_apis_own_404_is_known(body: dict[str, Any]) -> None:
    with api_with(lambda _: httpx.Response(404, json=body)) as api:
        submitted, polled = api.submit("j", [{}]), api.status(ID)
    assert isinstance(submitted, NotFound)
    assert not submitted.is_foreign
    assert isinstance(polled, NotFound)


DATE = "Sun, 01 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "17"}, 17.0),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "99999999"}, 3600.0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "1e999"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "Sun, 01 Nov 2026 12:00:30 GMT", "Date": DATE}, 30.0),
        ({"Retry-After": "Sun, 01 Nov 2026 12:00:30 -0000", "Date": DATE}, 30.0),
        ({"Retry-After": "Sun, 01 Nov 2026 11:00:00 GMT", "Date": DATE}, None),
        ({"Retry-After": "Sun, 99 Nov 2026 11:00:00 GMT", "Date": DATE}, None),
        ({"Retry-After": "Fri, 01 Nov 2999 12:00:00 GMT", "Date": "today"}, 3600.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(
    headers: dict[str, str], seconds: float | None
) -> None:
    with api_with(httpx.Response(429, headers=headers)) as api:
        outcome = api.status(ID)
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after == seconds


def test_a_retry_date_without_the_remotes_own_clock_is_read_by_ours() -> None:
    then = datetime.now(UTC) + timedelta(seconds=100)
    headers = {"Retry-After": then.strftime("%a, %d %b %Y %H:%M:%S GMT")}
    with api_with(httpx.Response(429, headers=headers)) as api:
        outcome = api.status(ID)
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after == pytest.approx(100, abs=5)
