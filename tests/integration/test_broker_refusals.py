"""A broker that answers, but takes no messages, is named by `check`, `status` and `/readyz`."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import httpx
import pika
import psycopg
import pytest
import redis

from tests.support.servers import AMQP, ValkeyServer, wait_until
from tests.support.worker_thread import (
    RECOVERY_SECONDS,
    enqueue_inputs,
    running_worker,
    settings_for,
)
from worker.admin import Admin
from worker.errors import EvalWorkerError
from worker.health import worker_operations
from worker.http_server import bind_socket, serve_in_background
from worker.pipeline.broker_check import try_broker
from worker.pipeline.brokers import prepare_broker, queue_name
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import PostgresServer
    from worker.store.database import Database


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def client(own_valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=own_valkey.port) as connected:
        yield connected
        connected.config_set("maxmemory", "0")
        connected.replicaof("NO", "ONE")


def refusal(url: str) -> str:
    with pytest.raises(EvalWorkerError) as refused:
        try_broker(url)
    text = str(refused.value)
    assert text.startswith("messages cannot be sent over the broker at ")
    assert "\n" not in text
    assert "s3cret" not in text
    return text


def test_a_good_broker_returns_the_message_and_keeps_nothing(broker_url: str) -> None:
    try_broker(broker_url)
    try_broker(broker_url)
    name = queue_name(broker_url)
    if broker_url.startswith("redis"):
        with redis.Redis.from_url(broker_url.partition("?")[0]) as connected:
            assert connected.keys(f"{name}*") == []
    elif broker_url.startswith("postgres"):
        with psycopg.connect(broker_url) as connection:
            for table in ("queue", "worker"):
                found = connection.execute(f"SELECT 1 FROM eval_dramatiq.{table}".encode())
                assert found.fetchall() == []
    elif broker_url.startswith("amqp"):
        connection = pika.BlockingConnection(pika.URLParameters(AMQP))
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no queue"):
            connection.channel().queue_declare(name, passive=True)
        connection.close()


def test_a_redis_that_is_full_is_named(own_valkey: ValkeyServer, client: redis.Redis) -> None:
    client.config_set("maxmemory", "1mb")
    assert "used memory > 'maxmemory'" in refusal(own_valkey.url("full"))
    assert client.keys("full*") == []


def test_a_replica_that_is_read_only_is_named(
    own_valkey: ValkeyServer, client: redis.Redis
) -> None:
    client.replicaof("127.0.0.1", "1")  # nobody is there, but it is a replica from now on
    assert "read only replica" in refusal(own_valkey.url("replica"))


@pytest.mark.parametrize(
    ("rights", "words"),
    [
        ("~* +@read +@connection", "no permissions to run the 'evalsha' command"),
        ("~* +@all -@scripting", "no permissions to run the 'evalsha' command"),
        ("~other:* +@all", "No permissions to access a key"),
        ("~* +@all -lpop", "no permissions to run the 'lpop' command"),
    ],
)
def test_a_missing_right_of_redis_is_named(
    own_valkey: ValkeyServer, client: redis.Redis, rights: str, words: str
) -> None:
    user = f"u{uuid.uuid4().hex}"
    arguments = ("ACL", "SETUSER", user, "on", ">s3cret", *rights.split())
    client.execute_command(*arguments)  # type: ignore[no-untyped-call]
    url = own_valkey.url("denied").replace("redis://", f"redis://{user}:s3cret@")
    assert words in refusal(url)
    assert client.keys("denied*") == []


def test_a_missing_right_of_postgresql_is_named(
    postgres: PostgresServer, postgres_url: str
) -> None:
    prepare_broker(postgres_url)
    role = f"r{uuid.uuid4().hex}"
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for right in (
            f"GRANT USAGE ON SCHEMA eval_dramatiq TO {role}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA eval_dramatiq TO {role}",
        ):
            connection.execute(right.encode())
        assert "permission denied for table queue" in refusal(
            postgres_url.replace("postgres@", f"{role}@")
        )
        connection.execute(f"DROP OWNED BY {role}".encode())
        connection.execute(f"DROP ROLE {role}".encode())


def test_a_broker_that_fills_up_is_named_everywhere_and_work_goes_on_when_it_has_room(
    postgres_url: str, database_of_postgres: Database, own_valkey: ValkeyServer, client: redis.Redis
) -> None:
    with (
        running_sandbox(SandboxOptions(latency=(0.0, 0.1))) as judge,
        running_worker(settings_for(postgres_url, own_valkey.url("fills"), judge)) as app,
        bind_socket("127.0.0.1", 0) as listener,
        serve_in_background(worker_operations(app), listener, name="operations"),
    ):
        readyz = f"http://127.0.0.1:{listener.getsockname()[1]}/readyz"
        client.config_set("maxmemory", "1mb")
        enqueue_inputs(database_of_postgres, 2)
        wait_until(lambda: app.messages.failing is not None)
        response = httpx.get(readyz)
        assert response.status_code == 503
        assert "messages cannot be sent: " in response.json()["checks"]["broker"]
        assert "maxmemory" in response.json()["checks"]["broker"]
        with Admin(postgres_url) as admin:
            wait_until(lambda: bool(admin.status()["replicas"]))
            (replica,) = admin.status()["replicas"]
            assert replica["holder"] == app.context.holder
            assert "maxmemory" in replica["send_error"]
            client.config_set("maxmemory", "0")
            wait_until(app.is_drained, seconds=RECOVERY_SECONDS)
            wait_until(lambda: not admin.status()["replicas"])
        assert httpx.get(readyz).status_code == 200
    with database_of_postgres.read() as connection:
        assert connection.exec_driver_sql("SELECT * FROM eval_replicas").all() == []
