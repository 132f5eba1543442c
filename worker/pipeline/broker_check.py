"""Try whether a broker takes and returns messages: one that only answers may still refuse them.

Redis may be out of memory, a read-only replica, or deny scripts to its user; RabbitMQ may block
publishers or deny queues; PostgreSQL may deny the tables.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import dramatiq
import dramatiq_postgres
import pika
import psycopg.sql
from dramatiq.brokers.redis import RedisBroker

from worker.config import hide_password
from worker.errors import EvalWorkerError
from worker.pipeline.brokers import (
    POSTGRES_SCHEMA,
    SEND_ERRORS,
    amqp_parameters,
    close_broker,
    make_broker,
    prepare_broker,
    queue_name,
    words_of,
)

Returned = TypeVar("Returned")

RETURN_SECONDS = 5.0  # for a message to come back
BLOCKED_SECONDS = 3  # that RabbitMQ may block the connection


def try_broker(url: str) -> None:
    """Send a message to a queue of its own, take it back, and leave nothing.

    Raises `Unreachable`, or another `EvalWorkerError` with the broker's words.
    """
    prepare_broker(url)
    name = f"{queue_name(url)}-check-{secrets.token_hex(4)}"
    try:
        match urlsplit(url).scheme:
            case "memory":
                return
            case "amqp" | "amqps":
                _try_amqp(url, name)
            case _:
                _try_other(url, name)
    except SEND_ERRORS as error:
        raise EvalWorkerError(
            f"messages cannot be sent over the broker at {hide_password(url)}: {words_of(error)}"
        ) from error


def _try_amqp(url: str, name: str) -> None:
    # Not by Dramatiq, whose queues outlive the connection, and which would wait for half a minute
    # while RabbitMQ blocks it.
    parameters = amqp_parameters(url)
    parameters.blocked_connection_timeout = BLOCKED_SECONDS
    connection = pika.BlockingConnection(parameters)
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(name, exclusive=True)  # it ends with the connection
        channel.basic_publish("", name, b"check", mandatory=True)
        _await_return(lambda: channel.basic_get(name, auto_ack=True)[0] is not None)
    finally:
        if connection.is_open:
            connection.close()


def _try_other(url: str, name: str) -> None:
    broker = make_broker(url)
    message: dramatiq.Message[None] = dramatiq.Message(
        queue_name=name, actor_name="check", args=(), kwargs={}, options={}
    )
    try:
        broker.declare_queue(name)
        broker.enqueue(message)
        consumer = broker.consume(name, prefetch=1, timeout=200)
        with contextlib.closing(consumer):
            returned = _await_return(lambda: next(consumer))
            consumer.ack(returned)
    finally:
        with contextlib.suppress(*SEND_ERRORS):
            _delete_traces(broker, name)
        close_broker(broker)


def _delete_traces(broker: dramatiq.Broker, name: str) -> None:
    """Delete what a failure has left, and the heartbeat of the consumer."""
    if isinstance(broker, RedisBroker):
        prefix = f"{broker.namespace}:"
        acks = f"{prefix}__acks__.{broker.broker_id}.{name}"
        broker.client.delete(f"{prefix}{name}", f"{prefix}{name}.msgs", acks)
        broker.client.zrem(f"{prefix}__heartbeats__", broker.broker_id)
    elif isinstance(broker, dramatiq_postgres.PostgresBroker):
        with broker.pool.connection() as connection:
            for table, column, value in (
                ("queue", "queue_name", name),
                ("worker", "worker_id", broker.worker_id),
            ):
                identifiers = map(psycopg.sql.Identifier, (POSTGRES_SCHEMA, table, column))
                statement = psycopg.sql.SQL("DELETE FROM {}.{} WHERE {} = %s")
                connection.execute(statement.format(*identifiers), [value])


def _await_return(take: Callable[[], Returned | None]) -> Returned:
    """Call `take` until it returns the message."""
    give_up_at = time.monotonic() + RETURN_SECONDS
    while time.monotonic() < give_up_at:
        if returned := take():
            return returned
    raise EvalWorkerError(
        f"a message did not come back from the broker within {RETURN_SECONDS:g} s"
    )
