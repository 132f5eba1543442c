"""Items of a batch that a server shows page by page."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

import worker.remote.deadline
from worker.domain.outcomes import BatchExecution, Found, StatusOutcome, Throttled, Unavailable
from worker.remote import JudgeAPI

ID = "b4f3"
PATH = f"/v1/judges/batch-executions/{ID}/"
BASE = "https://judge.test/api"
HEAD = {"batch_execution_id": ID, "status": "completed", "total_count": 5}
SIZE = 2  # items on a page


def page_at(start: int) -> list[dict[str, Any]]:
    return [{"index": n, "status": "completed"} for n in range(5)][start : start + SIZE]


def read(next_url: str, *, inside: bool, third: httpx.Response | None = None) -> StatusOutcome:
    """Read a batch of which `next_url` with a number leads to the next page."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.host == "judge.test", "the key went elsewhere"
        start = int(request.url.params.get("start", 0))
        if third is not None and start == 2 * SIZE:
            return third
        following = next_url.format(start + SIZE) if start + SIZE < 5 else None
        page: dict[str, Any] = {"next": following, "items": page_at(start)}
        if inside:
            page = {"items": {"next": following, "results": page_at(start)}}
        return httpx.Response(200, json={**HEAD, **page})

    transport = httpx.MockTransport(answer)
    with JudgeAPI(base_url=BASE, api_key="key", transport=transport) as api:
        return api.status(ID)


def execution(outcome: StatusOutcome) -> BatchExecution:
    assert isinstance(outcome, Found), outcome
    return outcome.execution


@pytest.mark.parametrize("more", [{"next": 2}, {"next_cursor": "abc"}, {"has_more": True}])
def test_a_page_that_cannot_be_requested_is_missing(more: dict[str, Any]) -> None:
    body = {**HEAD, "items": page_at(0), **more}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    with JudgeAPI(base_url=BASE, api_key="key", transport=transport) as api:
        (reason,) = execution(api.status(ID)).unreadable
    assert reason == "the items go on at a page that cannot be requested"


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "next_url",
    [
        f"{BASE}{PATH}?start={{}}",
        f"/api{PATH}?start={{}}",
        "?start={}",
        f"http://internal:8000{PATH}?page_size=2&start={{}}",
    ],
)
def test_all_pages_are_put_together_on_our_own_origin(next_url: str, inside: bool) -> None:
    whole = execution(read(next_url, inside=inside))
    assert [item.index for item in whole.items] == [0, 1, 2, 3, 4]
    assert (whole.oddities, whole.unreadable) == ((), ())


@pytest.mark.parametrize(
    "next_url", ["?start=0#{}", "page {}", "https://elsewhere.test/{}", "\\\\{}"]
)
def test_pages_that_lead_nowhere_or_in_a_circle_are_told(next_url: str) -> None:
    part = execution(read(next_url, inside=False))
    assert part.unreadable == ("the items go on at a page that cannot be requested",)


def test_a_page_that_is_throttled_is_a_throttle() -> None:
    response = httpx.Response(429, json={"detail": "slow"}, headers={"Retry-After": "7"})
    outcome = read("?start={}", inside=False, third=response)
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after == 7.0


@pytest.mark.parametrize("response", [httpx.Response(404, json={}), httpx.Response(200, json=[])])
def test_a_page_that_is_not_there_says_nothing_of_the_batch(response: httpx.Response) -> None:
    assert isinstance(read("?start={}", inside=False, third=response), Unavailable)


def test_all_pages_together_have_the_time_of_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would take longer than the lease of the batch, and another process reads it."""
    now = [0.0]
    monkeypatch.setattr(worker.remote.deadline, "clock", lambda: now[0])

    def answer(request: httpx.Request) -> httpx.Response:
        now[0] += 8.0
        following = f"?start={now[0]}"
        return httpx.Response(200, json={**HEAD, "next": following, "items": page_at(0)})

    transport = httpx.MockTransport(answer)
    with JudgeAPI(base_url=BASE, api_key="key", transport=transport, deadline=20.0) as api:
        outcome = api.status(ID)
    assert isinstance(outcome, Unavailable)
    assert outcome.reason == "no complete response within 20 s"
    assert now == [24.0]
