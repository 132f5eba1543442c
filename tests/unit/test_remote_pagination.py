"""How the remote's list is read page by page, and when reading stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from worker.domain.outcomes import Denied, Listed, ListOutcome, NotFound, Throttled, Unavailable
from worker.remote import JudgeAPI
from worker.remote.pagination import Incomplete, list_pages

Response = Callable[[httpx.Request], httpx.Response]


def page(*ids: str, cursor: str | None = None) -> httpx.Response:
    rows = [{"batch_execution_id": name, "status": "completed"} for name in ids]
    following = cursor and f"https://judge.test/v1/?cursor={cursor}"
    return httpx.Response(200, json={"next": following, "results": rows})


def pages_of(
    respond: Response,
    *,
    max_pages: int = 10,
    max_seconds: float = 10.0,
    monotonic: Callable[[], float] = lambda: 0.0,
    **query: Any,
) -> Iterator[ListOutcome | Incomplete]:
    transport = httpx.MockTransport(respond)
    with JudgeAPI(
        base_url="https://judge.test", api_key="key", transport=transport, spacing=0.0
    ) as api:
        yield from list_pages(
            lambda cursor: api.list_executions(**query, cursor=cursor),
            max_pages=max_pages,
            max_seconds=max_seconds,
            monotonic=monotonic,
        )


def ids_of(outcome: ListOutcome | Incomplete) -> list[str]:
    assert isinstance(outcome, Listed)
    return [execution.batch_execution_id for execution in outcome.executions]


def endless(request: httpx.Request) -> httpx.Response:
    number = int(request.url.params.get("cursor", 0))
    return page(f"b{number}", cursor=str(number + 1))


def test_pages_are_read_until_there_is_no_next_cursor() -> None:
    by_cursor = {None: page("a", "b", cursor="2"), "2": page(cursor="3"), "3": page("c")}
    outcomes = pages_of(lambda request: by_cursor[request.url.params.get("cursor")])
    assert [ids_of(outcome) for outcome in outcomes] == [["a", "b"], [], ["c"]]


def test_each_page_is_requested_with_the_same_query() -> None:
    queries: list[dict[str, str]] = []

    def respond(request: httpx.Request) -> httpx.Response:
        queries.append(dict(request.url.params))
        return page(cursor=None if "cursor" in request.url.params else "2")

    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)
    query: dict[str, Any] = {"judge_id": "j", "status": "completed", "page_size": 100}
    list(pages_of(respond, date_from=noon, date_to=noon, **query))
    moment = "2026-11-01T12:00:00+00:00"
    first = {"judge_id": "j", "status": "completed", "page_size": "100"}
    first |= {"date_from": moment, "date_to": moment}
    assert queries == [first, first | {"cursor": "2"}]


@pytest.mark.parametrize(
    ("status", "outcome"), [(404, NotFound), (429, Throttled), (403, Denied), (503, Unavailable)]
)
def test_a_failure_is_the_last_outcome(status: int, outcome: type) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"detail": "in its own words"})

    (only,) = pages_of(respond)
    assert isinstance(only, outcome)


def test_a_failure_on_a_later_page_follows_the_pages_before_it() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503) if "cursor" in request.url.params else page("a", cursor="2")

    first, second = pages_of(respond)
    assert ids_of(first) == ["a"]
    assert isinstance(second, Unavailable)


def test_a_list_with_more_pages_than_the_limit_is_incomplete() -> None:
    *pages, last = pages_of(endless, max_pages=3)
    assert [ids_of(outcome) for outcome in pages] == [["b0"], ["b1"], ["b2"]]
    assert last == Incomplete("the list has more than 3 pages")


def test_a_list_with_exactly_as_many_pages_as_the_limit_is_complete() -> None:
    by_cursor = {None: page("a", cursor="2"), "2": page("b")}
    outcomes = pages_of(lambda request: by_cursor[request.url.params.get("cursor")], max_pages=2)
    assert [ids_of(outcome) for outcome in outcomes] == [["a"], ["b"]]


def test_no_request_begins_after_the_time_budget() -> None:
    now = [100.0]

    def respond(request: httpx.Request) -> httpx.Response:
        now[0] += 4.0
        return endless(request)

    *pages, last = pages_of(respond, max_seconds=10.0, monotonic=lambda: now[0])
    assert len(pages) == 3, "the third began at 8 s and ended at 12 s"
    assert last == Incomplete("the list could not be read within 10 s")


def test_a_caller_that_stops_reading_costs_no_further_request() -> None:
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return endless(request)

    next(pages_of(respond))
    assert len(requests) == 1
