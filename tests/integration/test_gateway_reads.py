"""Clients of the gateway poll their jobs and list them, whatever else it has to do."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from tests.support.fake_judge_api import EXECUTIONS
from tests.support.gateways import client, ids, problem, running_gateway, submit
from tests.support.manual_replica import ManualReplica
from worker.gateway import app, responses
from worker.store import gateway_queries
from worker.store.database import Database
from worker.store.tables import jobs

if TYPE_CHECKING:
    from worker.store.gateway_queries import JobDetail


def test_the_list_has_pages_in_both_directions(
    caller: httpx.Client, replica: ManualReplica
) -> None:
    accepted = [submit(caller, f"q{n}").json()["batch_execution_id"] for n in range(5)]
    newest_first = accepted[::-1]
    page = caller.get(EXECUTIONS, params={"page_size": 2}).json()
    assert page["previous"] is None
    assert "items" not in page["results"][0]
    pages = [page]
    while pages[-1]["next"]:
        assert pages[-1]["next"].startswith(str(caller.base_url))
        pages.append(caller.get(pages[-1]["next"]).json())
    assert [ids(page) for page in pages] == [newest_first[:2], newest_first[2:4], newest_first[4:]]
    back = caller.get(pages[-1]["previous"]).json()
    assert ids(back) == newest_first[2:4]
    first = caller.get(back["previous"]).json()
    assert (ids(first), first["previous"]) == (newest_first[:2], None)
    assert ids(caller.get(first["next"]).json()) == newest_first[2:4]


def test_the_list_is_filtered(caller: httpx.Client, replica: ManualReplica) -> None:
    project = "01932f5e-0000-7000-8000-000000000001"
    one = submit(caller, "one", judge="a").json()["batch_execution_id"]
    replica.finish()
    two = submit(caller, "two", judge="b", project_id=project).json()["batch_execution_id"]
    shown = {row["batch_execution_id"]: row for row in caller.get(EXECUTIONS).json()["results"]}
    counted = [shown[one][name] for name in ("total_count", "completed_count", "failed_count")]
    assert counted == [1, 1, 0]
    assert shown[one]["judge"]["version_id"] == "version-that-ran"
    moment = shown[two]["created_at"]
    for params, expected in [
        ({"judge_id": "a"}, [one]),
        ({"judge_id": "c"}, []),
        ({"status": "completed"}, [one]),
        ({"status": "pending"}, [two]),
        ({"status": "processing"}, []),
        ({"project_id": project}, [two]),
        ({"date_from": moment}, [two]),
        ({"date_to": moment}, [two, one]),
        ({"date_to": "2020-01-01"}, []),
        ({"date_from": "0001-01-01T00:00:00+14:00"}, [two, one]),
        ({"judge_id": "a", "status": "pending"}, []),
    ]:
        assert ids(caller.get(EXECUTIONS, params=params).json()) == expected, params


def test_polls_are_answered_while_submissions_wait_for_their_commit(
    gateway_url: str, caller: httpx.Client, database: Database, replica: ManualReplica
) -> None:
    """Writes wait in a thread of their own, and cannot occupy the readers."""
    status_url = submit(caller, "one").json()["status_url"]
    with ThreadPoolExecutor(8) as pool:
        with database.engine.begin() as held:  # on SQLite, this alone blocks all writers
            if database.on_postgresql:
                held.exec_driver_sql("LOCK TABLE eval_jobs IN SHARE ROW EXCLUSIVE MODE")
            waiting = [pool.submit(_submit_alone, gateway_url) for _ in range(8)]
            for _ in range(20):
                assert caller.get(status_url).status_code == 200
            assert ids(caller.get(EXECUTIONS).json()) == [status_url.split("/")[-2]]
            assert not any(one.done() for one in waiting)
        assert [one.result() for one in waiting] == [202] * 8
    assert replica.one("SELECT count(*) FROM eval_jobs") == 9


def _submit_alone(gateway_url: str) -> int:
    with client(gateway_url) as own:
        return submit(own, "late").status_code


def test_polls_are_answered_while_a_very_large_job_is_serialized(
    database: Database, replica: ManualReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow_execution_body(detail: JobDetail) -> Any:
        if len(detail.items) > 1:
            assert go_on.wait(10)
        return responses.execution_body(detail)

    monkeypatch.setattr(app, "execution_body", slow_execution_body)
    texts = [str(number) for number in range(500)]
    with (
        running_gateway(database, max_inputs=len(texts)) as gateway_url,
        client(gateway_url) as caller,
    ):
        large, small = (submit(caller, *given).json() for given in (texts, ["one"]))
        replica.finish()
        with ThreadPoolExecutor() as pool:
            polled = pool.submit(caller.get, large["status_url"])
            assert caller.get(small["status_url"]).json()["completed_count"] == 1
            go_on.set()
            items = polled.result().json()["items"]
    assert [item["input"]["request"] for item in items] == texts
    assert all(len(item["evaluator_results"]) for item in items)


def test_polls_of_unknown_jobs_leak_no_connections(
    caller: httpx.Client, database: Database
) -> None:
    unknown = f"{EXECUTIONS}01932f5e-0000-7000-8000-000000000001/"
    gc.disable()  # it would return leaked connections to the pool
    try:
        for _ in range(30):
            assert caller.get(unknown).status_code == 404
        pool: Any = database.engine.pool
        assert pool.checkedout() <= 1
    finally:
        gc.enable()


def test_a_job_that_is_deleted_during_a_poll_gets_404(
    caller: httpx.Client,
    database: Database,
    replica: ManualReplica,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status_url = submit(caller, "one").json()["status_url"]
    replica.finish()
    job_results = gateway_queries.job_results

    def after_deletion(connection: sa.Connection, job_id: UUID) -> Any:
        with database.engine.begin() as other:
            other.execute(sa.delete(jobs).where(jobs.c.id == job_id))
        return job_results(connection, job_id)

    assert caller.get(status_url).json()["items"][0]["evaluator_results"]
    monkeypatch.setattr(gateway_queries, "job_results", after_deletion)
    assert problem(caller.get(status_url)) == (404, "not_found")
