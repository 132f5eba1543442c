"""Messages that are doubled, delayed, reordered or deleted, over every broker, and its restart."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import pika
import psycopg
import pytest
import redis

from tests.support.servers import AMQP, BESIDES_MEMORY, PostgresServer, wait_until
from tests.support.worker_thread import (
    RECOVERY_SECONDS,
    all_results_are_recorded_once,
    count_rows,
    enqueue_inputs,
    running_worker,
    settings_for,
)
from worker.pipeline.brokers import POSTGRES_SCHEMA
from worker.pipeline.messages import MessageSender
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import RunningSandbox, running_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from worker.store.database import Database

INPUTS = 60
SUBMITTED = "eval_batches WHERE state = 'submitted' AND lease_holder IS NULL"


@pytest.fixture
def judge() -> Iterator[RunningSandbox]:
    with running_sandbox(SandboxOptions(latency=(0.5, 1.0))) as running:
        yield running


def test_messages_that_come_twice_late_and_in_another_order_change_nothing(
    postgres_url: str,
    database_of_postgres: Database,
    broker_url: str,
    judge: RunningSandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(5)
    send = MessageSender._send

    def misbehave(mailbox: MessageSender, actor: str, batch_id: UUID, delay: float) -> None:
        for _ in range(2):
            send(mailbox, actor, batch_id, delay + rng.uniform(0.0, 1.0))

    monkeypatch.setattr(MessageSender, "_send", misbehave)
    enqueue_inputs(database_of_postgres, INPUTS)
    with running_worker(settings_for(postgres_url, broker_url, judge, batch_size=5)) as app:
        wait_until(app.is_drained, seconds=RECOVERY_SECONDS)
    assert all_results_are_recorded_once(database_of_postgres, judge, INPUTS)
    assert (
        count_rows(database_of_postgres, "eval_events WHERE event = 'batch.finished'") == INPUTS / 5
    )


@pytest.mark.parametrize("broker_url", BESIDES_MEMORY, indirect=True)
def test_work_goes_on_when_somebody_deletes_all_messages(
    postgres_url: str, database_of_postgres: Database, broker_url: str, judge: RunningSandbox
) -> None:
    enqueue_inputs(database_of_postgres, INPUTS)
    settings = settings_for(postgres_url, broker_url, judge, batch_size=5, poll_min_seconds=2)
    with running_worker(settings) as app:
        wait_until(lambda: count_rows(database_of_postgres, SUBMITTED) > 0)
        delete_all_messages(broker_url)
        wait_until(app.is_drained, seconds=RECOVERY_SECONDS)
    assert all_results_are_recorded_once(database_of_postgres, judge, INPUTS)


def delete_all_messages(broker_url: str) -> None:
    namespace = broker_url.rpartition("namespace=")[2]
    match broker_url.partition(":")[0]:
        case "redis":
            with redis.Redis.from_url(broker_url.partition("?")[0]) as client:
                client.delete(*client.scan_iter(f"{namespace}:*"))
        case "amqp":
            with contextlib.closing(pika.BlockingConnection(pika.URLParameters(AMQP))) as amqp:
                for queue in (namespace, f"{namespace}.DQ"):
                    amqp.channel().queue_purge(queue)
        case "postgresql":
            with psycopg.connect(broker_url) as connection:
                connection.execute(f"DELETE FROM {POSTGRES_SCHEMA}.queue".encode())


def test_work_goes_on_when_the_postgresql_that_carries_messages_was_restarted(
    postgres_url: str, database_of_postgres: Database, judge: RunningSandbox
) -> None:
    server = PostgresServer()
    try:
        server.start()
        enqueue_inputs(database_of_postgres, INPUTS)
        settings = settings_for(postgres_url, server.url(), judge, batch_size=5, poll_min_seconds=2)
        with running_worker(settings) as app:
            wait_until(lambda: count_rows(database_of_postgres, SUBMITTED) > 0)
            server.restart(immediate=True)
            wait_until(app.is_drained, seconds=RECOVERY_SECONDS)
    finally:
        server.close()
    assert all_results_are_recorded_once(database_of_postgres, judge, INPUTS)
