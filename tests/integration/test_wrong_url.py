"""A URL that is wrong makes all work wait; a judge that is not there fails its own inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.fake_judge_api import EXECUTIONS, FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.store import gates

pytestmark = pytest.mark.one_database("sqlite")

OF_THE_API = {"type": "about:blank", "title": "Not found.", "code": "not_found"}
PAGE = {"html": "<html><h1>404 Not Found</h1>nginx</html>"}
FASTAPI = {"json": {"detail": "Not Found"}}


def always(
    remote: FakeJudgeAPI,
    response: dict[str, Any],
    *,
    status: int = 404,
    when: Callable[[httpx.Request], bool] = lambda _: True,
) -> None:
    """Answer every such request with this response, until `remote.answers` is cleared."""

    def answer(request: httpx.Request) -> httpx.Response | None:
        remote.answers.insert(0, answer)
        return httpx.Response(status, **response) if when(request) else None

    remote.next_answer(answer)


def is_list(request: httpx.Request) -> bool:
    return request.url.path == EXECUTIONS


@pytest.mark.parametrize(
    ("status", "response"),
    [
        (404, PAGE),
        (404, {"content": b""}),
        (404, FASTAPI),
        (404, {"json": {"message": "no Route matched with those values"}}),
        (404, {"json": OF_THE_API}),
        (404, {"json": {"detail": "Not found."}}),
        (400, {"html": "The plain HTTP request was sent to HTTPS port"}),
    ],
)
def test_with_a_wrong_url_all_waits_and_goes_on_at_once_when_it_is_mended(
    replica: ManualReplica, remote: FakeJudgeAPI, status: int, response: dict[str, Any]
) -> None:
    for judge_id in ("one", "two", "three"):
        replica.enqueue(["a", "b"], judge_id=judge_id)
    always(remote, response, status=status)
    for _ in range(4):
        replica.step()
        replica.pass_time()
    assert remote.posts() <= 5  # one probe each time
    assert replica.one("SELECT scope FROM eval_gates") == "api"
    assert "EVALWORKER_API_URL" in replica.one("SELECT reason FROM eval_gates")
    assert replica.one("SELECT count(*) FROM eval_items WHERE attempts > 0 OR error <> ''") == 0

    replica.step()  # the gate has just been closed again, for a while
    remote.answers.clear()
    restarted = ManualReplica(replica.database, remote)
    restarted.database.run(gates.probe_now)
    for _ in range(3):
        restarted.step()
        for batch_id, state in restarted.rows("SELECT id, state FROM eval_batches"):
            if state == "planned":
                restarted.submit(batch_id)
    assert replica.one("SELECT count(*) FROM eval_batches WHERE state = 'planned'") == 0
    restarted.finish()
    assert replica.one("SELECT count(*) FROM eval_jobs WHERE status = 'completed'") == 3


def test_a_judge_that_is_not_there_fails_also_where_there_is_no_list(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.has_list = False
    always(remote, {"json": OF_THE_API}, when=lambda request: "/nobody/" in request.url.path)
    replica.enqueue(["a"], judge_id="somebody")
    replica.finish()
    replica.enqueue(["a"], judge_id="nobody")
    replica.finish()
    assert replica.one("SELECT status FROM eval_jobs WHERE judge_id = 'nobody'") == "failed"


@pytest.mark.parametrize("response", [PAGE, FASTAPI, {"content": b""}])
def test_a_404_that_is_not_the_apis_stops_its_judge_alone_while_the_list_is_there(
    replica: ManualReplica, remote: FakeJudgeAPI, response: dict[str, Any]
) -> None:
    always(remote, response, when=lambda request: "/one/" in request.url.path)
    replica.enqueue(["a"], judge_id="one")
    replica.enqueue(["a"], judge_id="two")
    for _ in range(3):
        replica.step()
        replica.pass_time()
    assert replica.one("SELECT status FROM eval_jobs WHERE judge_id = 'two'") == "completed"
    assert replica.one("SELECT scope FROM eval_gates") == "judge:one"
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'failed'") == 0


@pytest.mark.parametrize("response", [PAGE, FASTAPI, {"json": OF_THE_API}])
def test_a_batch_is_not_lost_because_a_worker_was_restarted_with_a_wrong_url(
    replica: ManualReplica, remote: FakeJudgeAPI, response: dict[str, Any]
) -> None:
    remote.done = False
    replica.enqueue(["a"])
    replica.step()
    always(remote, response)
    mistaken = ManualReplica(replica.database, remote)
    for _ in range(5):
        mistaken.pass_time(seconds=300)
        mistaken.step()
        mistaken.step()
    assert replica.states() == ["submitted"]
    remote.answers.clear()
    remote.done = True
    replica.pass_time()
    replica.finish()
    assert remote.posts() == 1
    assert replica.one("SELECT attempts FROM eval_items") == 1


@pytest.mark.parametrize("response", [PAGE, FASTAPI, {"json": OF_THE_API}])
def test_a_batch_in_doubt_is_not_sent_again_because_of_a_wrong_url(
    replica: ManualReplica, remote: FakeJudgeAPI, response: dict[str, Any]
) -> None:
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(["a"])
    replica.step()
    always(remote, response)
    mistaken = ManualReplica(replica.database, remote)
    for _ in range(8):
        mistaken.pass_time()
        mistaken.step()
    assert replica.states() == ["unknown"]
    assert "EVALWORKER_API_URL" in replica.batches()[0].error
    remote.answers.clear()
    restarted = ManualReplica(replica.database, remote)
    restarted.pass_time()
    restarted.finish()
    assert replica.states() == ["finished"]
    assert remote.posts() == 1


def test_a_throttled_list_decides_later_and_is_left_alone_for_its_time(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    def throttle_the_list(request: httpx.Request) -> httpx.Response | None:
        remote.answers.insert(0, throttle_the_list)
        if is_list(request):
            headers = {"Retry-After": "30"}
            return httpx.Response(429, json={"detail": "throttled"}, headers=headers)
        return httpx.Response(404, json=OF_THE_API)

    remote.next_answer(throttle_the_list)
    for judge_id in ("one", "two"):
        replica.enqueue(["a"], judge_id=judge_id)
    replica.step()
    replica.step()
    assert sum(is_list(request) for request in remote.requests) == 1
    assert replica.one("SELECT scope FROM eval_gates") == "api:status"
    assert replica.states() == ["planned", "planned"]
    remote.answers.clear()
    always(remote, {"json": OF_THE_API}, when=lambda request: request.method == "POST")
    replica.finish()
    assert replica.one("SELECT count(*) FROM eval_jobs WHERE status = 'failed'") == 2
