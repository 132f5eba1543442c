"""PostgreSQL ends connections of the gateway at the worst moments."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.gateways import client, running_gateway, submit
from tests.support.manual_replica import ManualReplica
from tests.support.servers import wait_until
from worker.gateway.group_commit import MAX_GROUP_INPUTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from worker.store.database import Database


@pytest.fixture
def url(database_of_postgres: Database) -> Iterator[str]:
    with running_gateway(database_of_postgres) as found:
        yield found


def test_a_connection_lost_between_a_job_and_its_inputs_leaves_one_whole_job(
    database_of_postgres: Database,
) -> None:
    """Many inputs are inserted by COPY, whose errors must be recognized as transient, too."""
    database = database_of_postgres
    broken: list[str] = []
    texts = [str(number) for number in range(MAX_GROUP_INPUTS + 1)]

    def cut(connection: sa.Connection, _: Any, statement: str, *__: Any) -> None:
        if statement.startswith("INSERT INTO eval_jobs") and not broken:
            broken.append(statement)
            end_sessions(database, connection)

    with running_gateway(database, max_inputs=len(texts)) as url, client(url) as caller:
        sa.event.listen(database.engine, "after_cursor_execute", cut)
        response = submit(caller, *texts)
        sa.event.remove(database.engine, "after_cursor_execute", cut)
    assert broken
    assert response.status_code == 202, response.text
    replica = ManualReplica(database, FakeJudgeAPI())
    assert replica.one("SELECT count(*) FROM eval_jobs") == 1
    assert replica.one("SELECT count(*) FROM eval_items") == len(texts)


def test_connections_lost_during_submissions_leave_whole_jobs(
    database_of_postgres: Database, url: str
) -> None:
    replica = ManualReplica(database_of_postgres, FakeJudgeAPI())
    waits = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )

    def send(number: int) -> int:
        with client(url) as caller:
            return submit(caller, f"{number}", "second").status_code

    with ThreadPoolExecutor(8) as pool:
        with database_of_postgres.engine.begin() as held:  # allows inserting jobs, but not inputs
            held.exec_driver_sql("LOCK TABLE eval_items IN SHARE ROW EXCLUSIVE MODE")
            sent = [pool.submit(send, number) for number in range(8)]
            for _ in range(2):
                wait_until(lambda: replica.one(waits) == 1)
                end_sessions(database_of_postgres, waiting=True)
            wait_until(lambda: replica.one(waits) == 1)
        assert [one.result() for one in sent] == [202] * 8
    assert replica.one("SELECT count(*) FROM eval_jobs") == 8
    assert replica.one("SELECT count(*) FROM eval_items") == 16
    assert replica.events() == ["job.taken"] * 8


def test_polls_survive_the_loss_of_all_connections(
    database_of_postgres: Database, url: str
) -> None:
    with client(url) as caller:
        status_url = submit(caller, "one").json()["status_url"]

        def ask(_: int) -> httpx.Response:
            return caller.get(status_url)

        for _ in range(3):
            with ThreadPoolExecutor(8) as pool:  # so that every thread has a connection
                assert {response.status_code for response in pool.map(ask, range(40))} == {200}
            end_sessions(database_of_postgres)
        assert caller.get("/v1/judges/batch-executions/").status_code == 200


def end_sessions(
    database: Database, one: sa.Connection | None = None, *, waiting: bool = False
) -> None:
    """End all sessions of this database, only that of `one`, or those waiting for a lock."""
    found = "datname = current_database() AND pid <> pg_backend_pid()"
    if one is not None:
        driver: Any = one.connection.dbapi_connection
        found = f"pid = {driver.info.backend_pid}"
    if waiting:
        found += " AND wait_event_type = 'Lock'"
    dsn = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {found}")
