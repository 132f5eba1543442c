"""Which outcome each response of the judge API becomes. The network is replaced by a transport."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

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
from worker.errors import ConfigurationError
from worker.remote import JudgeAPI
from worker.remote.response_budget import ResponseBudget

BASE = "https://api.example.com"
KEY = "sk-very-secret-0123456789"
ID = "0190c7a2-0000-7000-8000-000000000001"
OTHER = "0190c7a2-0000-7000-8000-000000000002"
STANDARD = f"{BASE}/v1/judges/batch-executions/{ID}/"


def api_with(
    response: httpx.Response | Exception | Callable[[httpx.Request], httpx.Response],
    *,
    requests: list[httpx.Request] | None = None,
    base_url: str = BASE,
    **options: Any,
) -> JudgeAPI:
    def handle(request: httpx.Request) -> httpx.Response:
        if requests is not None:
            requests.append(request)
        if isinstance(response, Exception):
            raise response
        return response if isinstance(response, httpx.Response) else response(request)

    transport = httpx.MockTransport(handle)
    return JudgeAPI(base_url=base_url, api_key=KEY, transport=transport, **options)


def accepted(status_url: object = None, status: int = 202) -> httpx.Response:
    return httpx.Response(status, json={"batch_execution_id": ID, "status_url": status_url})


def problem(status: int, code: str, detail: str) -> httpx.Response:
    body = {"type": "about:blank", "status": status, "title": "T", "detail": detail, "code": code}
    return httpx.Response(status, json=body | {"instance": None})


# --- requests ---------------------------------------------------------------------------------


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


# --- submit -----------------------------------------------------------------------------------


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


# --- status codes -----------------------------------------------------------------------------


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


def test_a_3xx_that_leads_nowhere_is_denied_too() -> None:
    with api_with(httpx.Response(304)) as api:
        assert api.status(ID) == Denied("304: redirected to nowhere, which is not followed")


# --- throttling -------------------------------------------------------------------------------

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


# --- transport --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (httpx.ConnectError("refused"), False),
        (httpx.ConnectTimeout("slow"), False),
        (httpx.PoolTimeout("full"), False),
        (httpx.ProxyError("407"), False),
        (httpx.UnsupportedProtocol("x"), False),
        (httpx.ReadTimeout("slow"), True),
        (httpx.WriteTimeout("slow"), True),
        (httpx.ReadError("reset"), True),
        (httpx.WriteError("reset"), True),
        (httpx.CloseError("reset"), True),
        (httpx.RemoteProtocolError("garbage"), True),
        (httpx.LocalProtocolError("garbage"), True),
        (httpx.DecodingError("garbage"), True),
        (OSError("broken"), True),
        (ValueError("broken"), True),
    ],
)
def test_a_transport_error_shows_whether_the_request_may_have_arrived(
    error: Exception, sent: bool
) -> None:
    with api_with(error) as api:
        outcomes = (api.submit("j", [{}]), api.status(ID), api.list_executions())
    for outcome in outcomes:
        assert isinstance(outcome, Unavailable)
        assert outcome.sent is sent
        assert str(error) in outcome.reason


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP, identity", "x"])
def test_an_encoded_response_is_unusable(encoding: str) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        response = httpx.Response(202, headers={"Content-Encoding": encoding})
        response.stream = httpx.ByteStream(gzip.compress(b'{"results": []}'))
        return response

    with api_with(respond) as api:
        outcome = api.submit("j", [{}])
    assert isinstance(outcome, Unavailable)
    assert outcome.sent is True
    assert f"encoded as '{encoding.lower()}'" in outcome.reason


def test_the_status_of_an_encoded_error_counts() -> None:
    response = httpx.Response(429, headers={"Content-Encoding": "br", "Retry-After": "7"})
    response.stream = httpx.ByteStream(b"compressed")
    with api_with(response) as api:
        outcome = api.submit("j", [{}])
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after == 7


def test_a_response_that_says_that_it_is_not_encoded_is_read() -> None:
    content = json.dumps({"batch_execution_id": ID}).encode()
    response = httpx.Response(202, content=content, headers={"Content-Encoding": "Identity"})
    with api_with(response) as api:
        assert api.submit("j", [{}]) == Accepted(ID)


def test_a_response_is_limited_in_size() -> None:
    with api_with(httpx.Response(200, content=b" " * 101), max_response_bytes=100) as api:
        assert api.status(ID) == Unavailable("the response is longer than 100 bytes")


# --- reasons ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"detail": "D", "title": "T"}, "D"),
        ({"title": "T"}, "T"),
        ({"error": "E"}, "E"),
        ({"message": "M"}, "M"),
        ({"error": {"code": 7, "message": "M"}}, "M"),
        ({"detail": ["one", "two"]}, "one; two"),
        ({"tags": ["empty"]}, "tags: empty"),
        ({"inputs": [{}, {"contexts": ["too few"]}]}, "inputs[1].contexts: too few"),
        ({"title": "Invalid.", "inputs": {"0": ["bad"]}}, "Invalid.; inputs.0: bad"),
        (["plain", "list"], "plain; list"),
        (
            {
                "detail": [
                    {"type": "t", "loc": ["body", "inputs", 1, "request"], "msg": "too short"},
                    {"loc": ["body"], "msg": "no object", "input": "private"},
                ]
            },
            "inputs[1].request: too short; no object",
        ),
        ({"detail": "two\nlines\x07 \x00"}, "two lines \\u0000"),
        ("only text", "only text"),
    ],
)
def test_a_reason_is_one_line_in_the_apis_own_words(body: object, words: str) -> None:
    with api_with(httpx.Response(400, json=body)) as api:
        assert api.submit("j", [{}]) == Invalid(f"400: {words}")


def test_a_page_that_is_not_json_is_shown_without_markup() -> None:
    page = "<html>\n<h1>502 Bad\tGateway</h1><hr>nginx</html>"
    with api_with(httpx.Response(502, text=page)) as api:
        assert api.status(ID) == Unavailable("502: 502 Bad Gateway nginx", is_server_error=True)


def test_a_reason_is_bounded() -> None:
    for response in (
        httpx.Response(400, json={"detail": "x" * 100_000}),
        httpx.Response(400, json={f"f{i}": ["y" * 50] for i in range(10_000)}),
        httpx.Response(400, text="z" * 100_000),
        httpx.Response(200, json={"error": "x" * 100_000}),
    ):
        with api_with(response) as api:
            outcome = api.submit("j", [{}])
        assert isinstance(outcome, Invalid | Unavailable)
        assert len(outcome.reason) <= 500


@pytest.mark.parametrize("padding", [0, 480, 490, 1980, 1990, 2004, 3990])
def test_the_key_shows_in_no_reason(padding: int) -> None:
    echo = "x" * padding + KEY + "y" * 5000
    spaced = " " * padding + f"Api-Key {KEY}" + " " * 5000
    responses: list[httpx.Response | Exception] = [
        httpx.Response(401, json={"detail": echo}),
        httpx.Response(401, json={"detail": spaced}),
        httpx.Response(401, json={"detail": KEY[:9] + "\x07" + KEY[9:]}),
        httpx.Response(401, json={KEY: ["field"]}),
        httpx.Response(500, text=echo),
        httpx.Response(500, text=spaced),
        httpx.Response(200, json={KEY: 1}),
        httpx.Response(302, headers={"Location": f"https://x/?k={KEY}"}),
        httpx.ReadError(echo),
    ]
    for response in responses:
        with api_with(response) as api:
            for outcome in (api.submit("j", [{}]), api.status(ID), api.list_executions()):
                assert not isinstance(outcome, Accepted | Found | Listed)
                assert KEY[:9] not in outcome.reason


def test_a_batch_that_was_not_requested_is_not_quoted() -> None:
    body = {"batch_execution_id": OTHER, "status": "completed", "items": [{"input": "private"}]}
    with api_with(httpx.Response(200, json=body)) as api:
        outcome = api.status(ID)
    assert isinstance(outcome, Unavailable)
    assert f"the response is about another batch: {OTHER}" in outcome.reason
    assert "private" not in outcome.reason


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


def test_a_response_counts_against_the_budget_until_it_is_recorded() -> None:
    with api_with(httpx.Response(200, json={"batch_execution_id": ID, "status": "pending"})) as api:
        api.budget = ResponseBudget(10)
        reader = threading.Thread(target=read_in_block, args=(api,))
        with api.budget.block():
            api.status(ID)
            reader.start()
            reader.join(0.1)
            assert reader.is_alive()
        reader.join()


def read_in_block(api: JudgeAPI) -> None:
    with api.budget.block():
        api.status(ID)
