"""Producers, readers, operators, the gateway and the worker do all their work under their roles."""

from __future__ import annotations

import asyncio
import contextlib
import json
from uuid import UUID

import httpx
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.consoles import open_console
from tests.support.database_logins import CALL, PUT_A_JOB, PUT_AN_INPUT, QUESTION, Logins
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.processes import environment, evalworker
from tests.support.scored_jobs import add_scored_job
from tests.support.servers import free_port
from tests.support.webhook_receiver import SECRET, running_receiver
from tests.support.worker_thread import settings_for
from worker import InvalidInputs, enqueue
from worker.app import App
from worker.config import load_settings
from worker.domain.verdict import Verdict
from worker.gateway.server import serving_gateway
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox
from worker.store import batch_commands, job_commands
from worker.store.comparison_queries import compare_jobs
from worker.store.database import Database
from worker.store.tables import metadata


def test_a_producer_that_may_only_insert_enqueues_from_python(logins: Logins) -> None:
    engine = logins.engine("producer")
    with engine.begin() as connection:
        one = enqueue(connection, judge_id="judge", inputs=[QUESTION], idempotency_key="k")
        assert enqueue(connection, judge_id="judge", inputs=[QUESTION], idempotency_key="k") == one
        enqueue(connection, judge_id="judge", inputs=[QUESTION] * 2500, metadata={"order": 1})
    engine.dispose()
    assert logins.run("worker", "SELECT count(*) FROM eval_items") == [(1 + 1 + 2500,)]


def test_an_async_producer_that_may_only_insert_enqueues_too(logins: Logins) -> None:
    async def produce() -> None:
        engine = create_async_engine(
            load_settings(database_url=logins.of("producer")).sqlalchemy_url
        )
        async with engine.begin() as connection:
            await enqueue(connection, judge_id="judge", inputs=[QUESTION] * 1200)
        await engine.dispose()

    asyncio.run(produce())
    assert logins.run("worker", "SELECT count(*) FROM eval_items") == [(1 + 1200,)]


@pytest.mark.parametrize("good", [0, 1, 1500], ids="after {} good inputs".format)
def test_a_refused_job_of_a_producer_that_cannot_delete_leaves_nothing(
    logins: Logins, good: int
) -> None:
    engine = logins.engine("producer")
    with engine.begin() as connection:
        with pytest.raises(InvalidInputs, match=rf"inputs\[{good}\]"):
            enqueue(connection, judge_id="judge", inputs=[QUESTION] * good + [{"request": 5}])
        enqueue(connection, judge_id="judge", inputs=[QUESTION])  # the transaction is of use
    engine.dispose()
    assert logins.run("worker", "SELECT count(*) FROM eval_items") == [(1 + 1,)]
    assert logins.run("worker", "SELECT count(*) FROM eval_jobs") == [(1 + 1,)]


def test_a_whole_job_with_each_part_under_its_own_role(logins: Logins) -> None:
    """Enqueued in three ways, worked on with messages over the same database, told, and read."""
    url = logins.of("worker")
    put_a_job, call = (text.replace("'judge'", "'response-checks'") for text in (PUT_A_JOB, CALL))
    with (
        running_sandbox(SandboxOptions(latency=(0.05, 0.1))) as judge,
        running_receiver() as receiver,
    ):
        settings = settings_for(url, url, judge, webhook_secret=SECRET, webhook_allow_private=True)
        engine = logins.engine("producer")
        with engine.begin() as connection:
            enqueue(
                connection,
                judge_id="response-checks",
                inputs=[QUESTION] * 3,
                tags=["a"],
                callback_url=receiver.url,
            )
        engine.dispose()
        logins.run("producer", put_a_job)
        logins.run("producer", PUT_AN_INPUT)  # a transaction of its own: the job is its own
        logins.run("producer", f"{call})")
        with App(settings) as app:
            app.run(until=app.is_drained)
    counted = logins.run("reader", "SELECT status, total, completed FROM eval_job_progress")
    assert sorted(counted) == [("completed", 1, 1)] * 3 + [("completed", 3, 3)]
    told = logins.run("reader_without_texts", "SELECT state, attempts FROM eval_job_notices")
    assert (told, len(receiver.ids)) == ([("sent", 1)], 1)
    assert logins.run("reader_without_texts", "SELECT count(score) FROM eval_scores") == [(1 + 10,)]


def test_the_commands_of_operators_and_the_gateway_work_under_the_workers_role(
    logins: Logins,
) -> None:
    database = Database(load_settings(database_url=logins.of("worker")).sqlalchemy_url)
    keys = {"team-a": {"key": "a-secret-of-team-a"}}
    settings = load_settings(
        database_url=logins.of("worker"), gateway_port=free_port(), gateway_keys=json.dumps(keys)
    )
    with contextlib.closing(database), serving_gateway(settings, database):
        taken = httpx.post(
            f"http://127.0.0.1:{settings.gateway_port}/v1/judges/judge/batch-execute/",
            json={"inputs": [QUESTION]},
            headers={"Authorization": "Api-Key a-secret-of-team-a"},
        )
        job_id = UUID(taken.json()["batch_execution_id"])
        assert database.run(lambda tx: job_commands.cancel(tx, job_id)) == 1
        assert database.run(lambda tx: job_commands.retry(tx, job_id)) == 0
        assert database.run(lambda tx: batch_commands.resolve(tx, job_id, resubmit=True)) is None


@pytest.mark.parametrize("table", metadata.tables)
def test_no_table_is_forgotten_in_what_the_worker_may(standing: Logins, table: str) -> None:
    standing.attempt("worker", f"SELECT * FROM {table}")


def test_a_worker_operates_but_does_not_prune(logins: Logins) -> None:
    env = environment(database_url=logins.of("worker"))
    for command in (("pause",), ("resume",), ("batches",), ("status",)):
        assert evalworker(*command, env=env).returncode == 0
    database = Database(load_settings(database_url=logins.of("worker")).sqlalchemy_url)
    with contextlib.closing(database):
        replica = ManualReplica(database, FakeJudgeAPI())
        replica.enqueue(["a"])
        replica.finish()
    refused = evalworker("prune", "--older-than", "0s", env=env)
    assert refused.returncode == 1
    assert refused.stderr.startswith("evalworker: the database says: permission denied for table")
    assert refused.stderr.endswith("docs/roles.md says what this login has to be a member of\n")
    assert len(refused.stderr.splitlines()) == 1


def test_a_login_without_rights_is_told_so_and_not_that_the_database_is_away(
    logins: Logins,
) -> None:
    env = environment(database_url=logins.of("producer"))
    watched = evalworker("status", "--until-drained", env=env)
    assert watched.returncode == 1
    assert "permission denied" in watched.stderr
    checked = evalworker("check", env=env)
    assert checked.returncode == 1
    assert "database: permission denied" in checked.stdout
    assert "broker: ok" in checked.stdout
    database = Database(load_settings(database_url=logins.of("producer")).sqlalchemy_url)
    with contextlib.closing(database), open_console(database) as client:
        page = client.get("/")
    assert page.status_code == 503
    assert "permission denied" in page.text
    assert "docs/roles.md" in page.text


def test_a_reader_can_compare_two_jobs(logins: Logins) -> None:
    with logins.owning() as owner, owner.engine.begin() as connection:
        first, second = (
            add_scored_job(connection, {"length": [score] * 10}) for score in (0.1, 0.5)
        )
    engine = logins.engine("reader")
    with engine.connect() as connection:
        (length,) = compare_jobs(connection, first, second).evaluators
    engine.dispose()
    assert length.verdict is Verdict.BETTER
