"""The sandbox shows a batch as late, wrong or lost as its options say, over the judge service."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from worker.http_server import bind_socket, serve_in_background
from worker.judge.ledger import Ledger
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import sandbox_app

RUNS = "/v1/judges/batch-executions/"
INPUT = {"request": "q", "response": "a", "expected_output": "a"}


class Client(httpx.Client):
    """Submits to a sandbox whose time stands still until it is moved."""

    now = 1_800_000_000.0

    def submit(self, count: int = 4) -> httpx.Response:
        body = {"inputs": [INPUT] * count, "tags": ["t"]}
        return self.post("/v1/judges/answer-quality/batch-execute/", json=body)

    def execution(self, submitted: httpx.Response) -> Any:
        return self.get(submitted.raise_for_status().json()["status_url"]).json()

    def listed(self, **query: str) -> list[Any]:
        rows: list[Any] = self.get(RUNS, params=query).raise_for_status().json()["results"]
        return rows


@contextlib.contextmanager
def sandbox(**options: Any) -> Iterator[Client]:
    fields = {"latency": (10.0, 10.0), **options}
    with (
        bind_socket("127.0.0.1", 0) as listener,
        Client(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            headers={"Authorization": "Api-Key sandbox-key"},
        ) as client,
        contextlib.closing(Ledger(clock=lambda: client.now)) as ledger,
        serve_in_background(sandbox_app(SandboxOptions(**fields), ledger), listener, name="judge"),
    ):
        yield client


def statuses(execution: Any) -> list[str]:
    return [item["status"] for item in execution["items"]]


def test_items_end_one_after_the_other_and_the_list_says_the_same() -> None:
    with sandbox() as client:
        submitted = client.submit()
        begun = client.execution(submitted)
        client.now += 5.0
        half = client.execution(submitted)
        (running,) = client.listed(status="processing")
        assert client.listed(status="completed") == []
        client.now += 5.0
        ended = client.execution(submitted)
        (listed,) = client.listed(status="completed")
        assert client.listed(status="processing") == []
    assert statuses(begun) == ["processing"] * 4
    assert statuses(half) == ["completed", "completed", "processing", "processing"]
    assert (half["status"], half["completed_count"], half["completed_at"]) == (
        "processing",
        2,
        None,
    )
    assert half["items"][0]["completed_at"] == "2027-01-15T08:00:02.500000Z"
    assert half["items"][2]["evaluator_results"] is None
    assert (running["status"], running["completed_count"]) == ("processing", 0)
    assert statuses(ended) == ["completed"] * 4
    assert ended["completed_at"] == "2027-01-15T08:00:10Z"
    assert {**listed, "items": ended["items"]} == ended


def test_pages_of_one_status_follow_each_other() -> None:
    with sandbox() as client:
        first, second = (client.submit(1).json()["batch_execution_id"] for _ in range(2))
        client.now += 10.0
        client.submit(1)
        pages = [client.get(RUNS, params={"status": "completed", "page_size": "1"}).json()]
        while pages[-1]["next"]:
            pages.append(client.get(pages[-1]["next"]).json())
    rows = [row["batch_execution_id"] for page in pages for row in page["results"]]
    assert rows == [second, first]


@pytest.mark.parametrize(("shown", "count"), [("all", 4), ("partial", 2), ("none", 0)])
def test_a_running_batch_shows_items_as_it_is_told_to(shown: str, count: int) -> None:
    with sandbox(items_while_running=shown) as client:
        submitted = client.submit()
        client.now += 5.0
        assert len(client.execution(submitted)["items"]) == count
        client.now += 5.0
        assert len(client.execution(submitted)["items"]) == 4


def test_items_come_in_another_order_and_tags_are_left_out() -> None:
    with sandbox(shuffle_items=True, show_tags=False, latency=(0.0, 0.0)) as client:
        execution = client.execution(client.submit(20))
        indexes = [item["index"] for item in execution["items"]]
    assert sorted(indexes) == list(range(20)) != indexes
    assert "tags" not in execution


def test_a_share_of_items_fails_and_an_input_that_lacks_a_field_does() -> None:
    with sandbox(fail_items=0.5, latency=(0.0, 0.0)) as client:
        execution = client.execution(client.submit(100))
        path = "/v1/judges/answer-quality/batch-execute/"
        lacking = client.execution(client.post(path, json={"inputs": [{"request": "q"}]}))
    failed = [item for item in execution["items"] if item["status"] == "failed"]
    assert 30 < len(failed) == execution["failed_count"] < 70
    assert {item["error_message"] for item in failed} == {"The evaluator did not answer in time."}
    assert lacking["failed_count"] == 1


def test_throttles_outages_and_lost_responses_are_counted() -> None:
    with sandbox(max_running=1) as client:
        assert [client.submit().status_code for _ in range(2)] == [202, 429]
        client.now += 10.0
        assert client.submit().status_code == 202
        account = client.get("/sandbox/account/").json()
    assert account == {
        "batches": 2,
        "inputs_evaluated": 8,
        "distinct_inputs": 1,
        "evaluated_again": 7,
        "requests": {"submit 202": 2, "submit 429": 1},
    }
    with sandbox(requests_per_second=2) as client:
        responses = [client.get(RUNS) for _ in range(3)]
        assert [response.status_code for response in responses] == [200, 200, 429]
        assert responses[-1].headers["retry-after"] == "1"
    with sandbox(server_errors=1.0) as client:
        assert client.submit().status_code == 503
    with sandbox(lose_answers=1.0) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.submit()
        assert len(client.listed()) == 1
    with sandbox(serve_list=False) as client:
        assert client.get(RUNS).status_code == 404
    with sandbox(max_body_bytes=100) as client:
        assert client.submit().status_code == 413


def test_nobody_is_let_in_without_the_key() -> None:
    with sandbox() as client:
        for path in (RUNS, "/v1/judges/", "/sandbox/account/", "/metrics"):
            assert client.get(path, headers={"Authorization": "Api-Key other"}).status_code == 401
