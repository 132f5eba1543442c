"""Build the broker that a URL names, and the Dramatiq worker on it.

Dramatiq is a wake-up bus here: rows say what is to be done, messages only that something is. So
brokers are tuned for prompt delivery, and recovery after a crash does not rely on them.

A `namespace` in the URL's query separates installations that share a broker.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import dramatiq
import dramatiq_postgres
import dramatiq_postgres.schema
import pika.exceptions
import psycopg
import psycopg.conninfo
import psycopg_pool
import redis
import structlog
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import BrokerError
from dramatiq.middleware import Retries, TimeLimit
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from worker.config import hide_password
from worker.errors import Unreachable
from worker.store.engines import TCP_KEEPALIVE
from worker.store.postgres_session import open_session
from worker.store.scripts import read_script

NAMESPACE = "evalworker"
POSTGRES_SCHEMA = "eval_dramatiq"  # of the queue's own tables, beside the producer's

# What the libraries raise when the broker is away; some errors reach the caller unwrapped.
SEND_ERRORS: tuple[type[Exception], ...] = (
    BrokerError,
    redis.RedisError,
    pika.exceptions.AMQPError,
    psycopg.Error,
    psycopg_pool.PoolTimeout,
    OSError,
)

# What is no broker, or not of this kind, at the other end; and options of a URL that do not exist.
_CONNECT_ERRORS: tuple[type[Exception], ...] = (
    *SEND_ERRORS,
    AMQPConnectorException,
    TypeError,
    ValueError,
)
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument ('\w+')")

# Delayed messages wait in the worker's memory, in the order in which they were fetched. A message
# behind a full buffer of later ones would be late, so the buffer is large enough never to be full.
DELAY_PREFETCH = 60_000
# How long an idle consumer sleeps between fetches; with Dramatiq's second, people notice the delay.
WORKER_TIMEOUT_MS = 200
# Of a million fetches, this many also recover messages of dead workers. A consumer fetches about
# five times a second, so that is every ten seconds instead of every few minutes.
REDIS_MAINTENANCE_CHANCE = 20_000
# Each fetch, five a second, is a heartbeat: a consumer without one for half a minute is dead.
REDIS_HEARTBEAT_MS = 30_000
# RabbitMQ stops reading during an alarm: without `blocked_connection_timeout`, a send would wait
# for ever and block the dispatcher. Dramatiq tries six times. The heartbeat notices a peer that
# disappeared.
AMQP_DEFAULTS = {"heartbeat": "30", "blocked_connection_timeout": "3"}
SOCKET_SECONDS = 10.0

POSTGRES_CONNECTIONS = 16
POSTGRES_DEFAULTS: Mapping[str, Any] = {
    "application_name": "evalworker messages",
    "connect_timeout": 10,
    **TCP_KEEPALIVE,
}


def words_of(error: Exception) -> str:
    """Return the broker's words of an error, on one line."""
    words = (str(error).strip() or repr(error)).partition("\n")[0]
    if isinstance(error, TypeError) and (option := _UNKNOWN_OPTION.search(words)):
        return f"its URL has the unknown option {option[1]}"
    if words.startswith("Blocked connection"):  # as pika calls it
        return "RabbitMQ blocks publishers: it has a memory or disk alarm"
    return words


def queue_name(url: str) -> str:
    """Return the queue of this installation: its namespace, as queues of RabbitMQ are global."""
    return dict(parse_qsl(urlsplit(url).query)).get("namespace", NAMESPACE)


def make_broker(url: str) -> dramatiq.Broker:
    """Build the broker. Only PostgreSQL is connected to, to find out whether a pooler is between.

    There are no retries, no age limit and no callbacks, as an actor's outcome is a row and never a
    message. `Retries` is there because it owns the option `max_retries` and rejects messages whose
    actor raised.
    """
    chain = [TimeLimit(), Retries(max_retries=0), LogContext()]
    plain, name = _without_namespace(url), queue_name(url)
    match urlsplit(url).scheme:
        case "memory":
            return StubBroker(middleware=chain)
        case "redis" | "rediss" | "unix":
            return RedisBroker(  # type: ignore[no-untyped-call]
                client=_redis(plain),
                namespace=name,
                maintenance_chance=REDIS_MAINTENANCE_CHANCE,
                heartbeat_timeout=REDIS_HEARTBEAT_MS,
                middleware=chain,
            )
        case "amqp" | "amqps":
            # Without confirms, a publish into a dying connection is lost without an error.
            return RabbitmqBroker(url=_amqp(plain), confirm_delivery=True, middleware=chain)
        case "postgresql" | "postgres":
            broker: dramatiq.Broker = _postgres_broker(plain, chain)
            return broker
        case scheme:
            raise ValueError(f"no broker for {scheme}://")


def prepare_broker(url: str) -> None:
    """Connect once and create what the broker needs; raises `Unreachable`."""
    check_broker(url, prepare=True)


def check_broker(url: str, *, prepare: bool = False) -> None:
    """Connect once; raises `Unreachable`."""
    plain = _without_namespace(url)
    try:
        match urlsplit(url).scheme:
            case "redis" | "rediss" | "unix":
                client = _redis(plain)
                client.ping()
                client.close()
            case "amqp" | "amqps":
                pika.BlockingConnection(amqp_parameters(url)).close()
            case "postgresql" | "postgres":
                with _postgres_connection(plain) as connection:
                    if prepare:
                        dramatiq_postgres.schema.init(connection.cursor(), schema=POSTGRES_SCHEMA)
    except _CONNECT_ERRORS as error:
        raise Unreachable("broker", hide_password(url), words_of(error)) from error


def grant_queue(url: str) -> None:
    """Create the queue on PostgreSQL and grant it to the worker's role; do nothing elsewhere."""
    if urlsplit(url).scheme not in ("postgresql", "postgres"):
        return
    prepare_broker(url)
    with _postgres_connection(_without_namespace(url)) as connection:
        connection.execute(read_script("roles_broker.sql").encode())


def close_broker(broker: dramatiq.Broker) -> None:
    """Close its connections, and wait for the one of PostgreSQL's listening thread."""
    broker.close()
    if isinstance(broker, dramatiq_postgres.PostgresBroker):
        if broker.notifier is not None and broker.notifier.is_alive():
            broker.notifier.join(timeout=5)
        broker.pool.close()


def make_worker(broker: dramatiq.Broker, *, threads: int) -> dramatiq.Worker:
    """Build a Dramatiq worker without starting it."""
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=WORKER_TIMEOUT_MS)
    worker.delay_prefetch = DELAY_PREFETCH
    if isinstance(broker, StubBroker):
        # The stub broker applies the limit of ordinary queues to its delay queues. No other process
        # could take its messages, so a high limit does no harm.
        worker.queue_prefetch = DELAY_PREFETCH
    return worker


def start_worker(worker: dramatiq.Worker) -> None:
    """Start a worker; outside Dramatiq's command line, time limits need the signal sent here."""
    worker.broker.emit_after("process_boot")
    worker.start()


def pause_fetching(worker: dramatiq.Worker, *, paused: bool) -> None:
    """Leave new messages to the workers of other processes, or fetch them again.

    Not on RabbitMQ: it pushes messages to a consumer that is paused as well.
    """
    if isinstance(worker.broker, RabbitmqBroker):
        return
    for consumer in list(worker.consumers.values()):
        if consumer.paused is not paused:
            (consumer.pause if paused else consumer.resume)()


def dead_threads(worker: dramatiq.Worker) -> list[str]:
    """Return consumers and workers whose thread has died: the process looks healthy, but is not.

    While the worker starts, some of its threads have not begun.
    """
    threads: dict[str, threading.Thread] = {
        **{f"consumer {name}": thread for name, thread in worker.consumers.items()},
        **{f"worker {number}": thread for number, thread in enumerate(worker.workers)},
    }
    return [
        name
        for name, thread in threads.items()
        if thread.ident is not None and not thread.is_alive()
    ]


def _postgres_broker(
    url: str, middleware: Sequence[dramatiq.Middleware]
) -> dramatiq_postgres.PostgresBroker:
    """Build the broker with a pool of ours, whose connections are prepared as ours are.

    A pooler passes on no notifications: there, consumers ask for messages five times a second.
    """
    with psycopg.connect(**_postgres_arguments(url), autocommit=True) as connection:
        listen = not open_session(connection).is_pooled
    pool = psycopg_pool.ConnectionPool(
        kwargs=_postgres_arguments(url),
        configure=_configure,
        check=psycopg_pool.ConnectionPool.check_connection,
        min_size=0,
        max_size=POSTGRES_CONNECTIONS,
        open=True,
    )
    return PromptPostgresBroker(
        pool=pool, results=False, schema=POSTGRES_SCHEMA, listen=listen, middleware=middleware
    )


def _postgres_arguments(url: str) -> dict[str, Any]:
    # Parsed by libpq: others would drop the slashes of `postgresql:///name`.
    given = psycopg.conninfo.conninfo_to_dict(url)
    return {**POSTGRES_DEFAULTS, **given, "client_encoding": "utf8"}


def _postgres_connection(url: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(**_postgres_arguments(url))
    try:
        _configure(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: psycopg.Connection[Any]) -> None:
    """Make a connection independent of the defaults of its role, database or server."""
    connection.autocommit = True
    open_session(connection)
    connection.autocommit = False
    # Of each transaction, as a pooler may give each to another connection of its own.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.read_only = False


def _redis(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=SOCKET_SECONDS,
        health_check_interval=15,
    )


def amqp_parameters(url: str) -> pika.URLParameters:
    """Return how to connect to RabbitMQ."""
    return pika.URLParameters(_amqp(_without_namespace(url)))


def _amqp(url: str) -> str:
    given = dict(parse_qsl(urlsplit(url).query))
    missing = [f"{name}={value}" for name, value in AMQP_DEFAULTS.items() if name not in given]
    return "&".join([url if "?" in url else f"{url}?", *missing]).replace("?&", "?")


def _without_namespace(url: str) -> str:
    # Not by `urlunsplit`, which drops the slashes of `postgresql:///name`. Nor by decoding and
    # encoding the query, which turns a blank into '+', and libpq takes that literally.
    base, _, query = url.partition("?")
    kept = [part for part in query.split("&") if part and not part.startswith("namespace=")]
    return f"{base}?{'&'.join(kept)}" if kept else base


class PromptPostgresBroker(dramatiq_postgres.PostgresBroker):  # type: ignore[misc]
    """Gives a message up at its first error, such as a missing right.

    The library would try for a minute and more, and block the dispatcher, which sends again anyway.
    """

    def enqueue(
        self, message: dramatiq.Message[Any], *, delay: int | None = None
    ) -> dramatiq.Message[Any]:
        enqueue_once = inspect.unwrap(dramatiq_postgres.PostgresBroker.enqueue)
        sent: dramatiq.Message[Any] = enqueue_once(self, message, delay=delay)
        return sent


class LogContext(dramatiq.Middleware):
    """Binds the message's id and actor to every log line of its actor."""

    def before_process_message(
        self,
        broker: dramatiq.Broker,  # noqa: ARG002 (Dramatiq's signature)
        message: dramatiq.MessageProxy,
    ) -> None:
        structlog.contextvars.bind_contextvars(
            message_id=message.message_id, actor=message.actor_name
        )

    def after_process_message(self, *_: Any, **__: Any) -> None:
        structlog.contextvars.unbind_contextvars("message_id", "actor")

    after_skip_message = after_process_message
