"""Whoever asked is told of each end of a job, once and by a signed notice."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.notices import plain_job, states, tell
from tests.support.processes import environment, evalworker
from tests.support.webhook_receiver import WebhookReceiver
from worker.domain.lifecycle import Status
from worker.store import job_commands, job_completion
from worker.store.views import job_progress
from worker.webhooks.client import NO_SECRET, WebhookClient

if TYPE_CHECKING:
    from worker.store.database import Database
    from worker.store.transaction import Transaction


def test_the_end_of_a_job_is_told_once_with_what_came_of_it(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    job_id = replica.enqueue(["good", "fail"], callback_url=receiver.url, metadata={"order": 17})
    replica.enqueue(["nobody is told of this one"])
    replica.finish()
    tell(replica, rounds=3)
    ((finished_at,),) = (
        replica.database.run(
            lambda tx: tx.execute(
                sa.select(job_progress.c.finished_at).where(job_progress.c.job_id == job_id)
            ).all()
        ),
    )
    assert receiver.payloads == [
        {
            "type": "job.finished",
            "timestamp": finished_at[0].isoformat(),
            "data": {
                "job_id": str(job_id),
                "judge_id": "judge",
                "status": "completed",
                "counts": {"total": 2, "completed": 1, "failed": 1, "cancelled": 0},
                "metadata": {"order": 17},
            },
        }
    ]
    assert receiver.paths == ["/notices?of=jobs"]
    assert receiver.headers[0]["content-type"] == "application/json"
    assert states(replica) == [("sent", 1, None)]
    assert replica.events()[-1] == "notice.sent"
    assert [UUID(sent).version for sent in receiver.ids] == [7]


def test_a_job_that_ends_again_gives_a_new_notice_with_a_new_id(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    job_id = replica.enqueue(["good", "fail"], callback_url=receiver.url)
    replica.finish()
    tell(replica)
    replica.database.run(lambda tx: job_commands.retry(tx, job_id))
    replica.finish()
    tell(replica)
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO eval_items (job_id, item_index, request)"
            f" VALUES ('{job_id}', 2, 'came late')"
        )
    replica.database.run(job_completion.wake_stray_jobs)
    replica.finish()
    tell(replica)
    assert [payload["data"]["counts"]["total"] for payload in receiver.payloads] == [2, 2, 3]
    assert len(set(receiver.ids)) == 3


@pytest.mark.parametrize("end", ["cancelled", "failed", "without inputs", "without a judge"])
def test_every_way_to_end_is_told(
    replica: ManualReplica, receiver: WebhookReceiver, end: str
) -> None:
    if end == "without inputs":
        plain_job(replica, receiver.url, created_at="2020-01-01 00:00:00+00:00")
    elif end == "without a judge":
        plain_job(replica, receiver.url, judge_id="")
    else:
        job_id = replica.enqueue(["fail"], callback_url=receiver.url)
        if end == "cancelled":
            replica.database.run(lambda tx: job_commands.cancel(tx, job_id))
    replica.finish()
    tell(replica)
    (payload,) = receiver.payloads
    assert payload["data"]["status"] == ("cancelled" if end == "cancelled" else "failed")


def test_a_notice_is_written_with_the_end_of_its_job_or_not_at_all(
    replica: ManualReplica, receiver: WebhookReceiver
) -> None:
    job_id = replica.enqueue(["q"], callback_url=receiver.url)
    with pytest.raises(ZeroDivisionError):
        replica.database.run(partial(end_and_break, job_id=job_id))
    assert states(replica) == []


def end_and_break(tx: Transaction, job_id: UUID) -> float:
    job_completion.end_job(tx, job_id, Status.FAILED, "why not")
    return 1 / 0


def test_nothing_is_sent_unsigned(
    replica: ManualReplica, receiver: WebhookReceiver, database_url: str
) -> None:
    replica.webhooks = WebhookClient([], allow_private=True)
    replica.enqueue(["q"], callback_url=receiver.url)
    env = environment(database_url=database_url, api_key="key", api_url="http://127.0.0.1:9")
    named = json.loads(evalworker("check", "--json", env=env).stdout)["checks"]["notices"]
    assert "EVALWORKER_WEBHOOK_SECRET is not set" in named
    replica.finish()
    tell(replica)
    assert receiver.ids == []
    assert states(replica) == [("failed", 1, NO_SECRET)]


def test_the_postgresql_function_takes_a_url_as_its_last_argument(
    database_of_postgres: Database, receiver: WebhookReceiver
) -> None:
    replica = ManualReplica(database_of_postgres, FakeJudgeAPI())
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "SELECT eval_enqueue('judge', '[{\"request\": \"q\"}]', '[]', NULL, 'k', 0, NULL,"
            f" '{receiver.url}')"
        )
        connection.exec_driver_sql("SELECT eval_enqueue('judge', '[{\"request\": \"q\"}]')")
    replica.finish()
    tell(replica)
    assert len(receiver.ids) == 1


def test_postgresql_notifies_whoever_listens_of_each_end_with_its_commit(
    database_of_postgres: Database, postgres_url: str
) -> None:
    replica = ManualReplica(database_of_postgres, FakeJudgeAPI())
    one, two = replica.enqueue(["q"]), replica.enqueue(["fail"])
    with psycopg.connect(postgres_url, autocommit=True) as listener:
        listener.execute("LISTEN eval_job_finished")
        with pytest.raises(ZeroDivisionError):  # rolled back
            replica.database.run(partial(end_and_break, job_id=one))
        replica.finish()
        heard = [notice.payload for notice in listener.notifies(timeout=5, stop_after=2)]
        assert sorted(heard) == sorted([str(one), str(two)])
        replica.database.run(lambda tx: job_commands.retry(tx, two))
        replica.finish()
        again = [notice.payload for notice in listener.notifies(timeout=5, stop_after=1)]
        assert again == [str(two)]
        assert list(listener.notifies(timeout=0.2)) == []
