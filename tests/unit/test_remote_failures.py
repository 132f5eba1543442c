"""A failed call shows whether its request may have arrived, and its reason in one safe line."""

from __future__ import annotations

import gzip
import json

import httpx
import pytest

from tests.support.remote_clients import ID, KEY, api_with
from worker.domain.outcomes import Accepted, Found, Invalid, Listed, Throttled, Unavailable


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


OTHER = "0190c7a2-0000-7000-8000-000000000002"


def test_a_batch_that_was_not_requested_is_not_quoted() -> None:
    body = {"batch_execution_id": OTHER, "status": "completed", "items": [{"input": "private"}]}
    with api_with(httpx.Response(200, json=body)) as api:
        outcome = api.status(ID)
    assert isinstance(outcome, Unavailable)
    assert f"the response is about another batch: {OTHER}" in outcome.reason
    assert "private" not in outcome.reason
