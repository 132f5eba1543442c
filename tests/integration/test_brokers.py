"""Messages over every broker, and what is told when it is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import dramatiq
import pika
import psycopg
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import TimeLimit, TimeLimitExceeded

from tests.support.servers import (
    BESIDES_MEMORY,
    PostgresServer,
    ValkeyServer,
    delete_amqp_queues,
    free_port,
    wait_until,
)
from worker.errors import Unreachable
from worker.pipeline.brokers import (
    NAMESPACE,
    POSTGRES_SCHEMA,
    SEND_ERRORS,
    close_broker,
    dead_threads,
    make_broker,
    make_worker,
    pause_fetching,
    prepare_broker,
    queue_name,
    start_worker,
)


class Installation:
    """A broker with one actor, which notes what it was sent and when."""

    def __init__(self, url: str, step: Callable[[str], None] = lambda _: None) -> None:
        prepare_broker(url)
        self.broker = make_broker(url)
        self.received: dict[str, float] = {}

        def note(text: str) -> None:
            self.received[text] = time.monotonic()
            step(text)

        name = queue_name(url)
        self.actor = dramatiq.actor(
            actor_name="note", queue_name=name, broker=self.broker, max_retries=0
        )(note)
        self.worker = make_worker(self.broker, threads=2)

    def send(self, text: str, *, delay: float | None = None) -> None:
        milliseconds = None if delay is None else int(delay * 1000)
        self.actor.send_with_options(args=(text,), delay=milliseconds)

    def got(self, *texts: str) -> Callable[[], bool]:
        return lambda: all(text in self.received for text in texts)


@contextmanager
def working(url: str, **options: Any) -> Iterator[Installation]:
    installation = Installation(url, **options)
    start_worker(installation.worker)
    try:
        yield installation
    finally:
        installation.worker.stop()
        close_broker(installation.broker)


def test_a_message_and_a_delayed_one_are_received(broker_url: str) -> None:
    with working(broker_url) as here:
        sent_at = time.monotonic()
        here.send("later", delay=1.0)
        here.send("now")
        wait_until(here.got("now", "later"))
        assert here.received["now"] < here.received["later"]
        assert here.received["later"] - sent_at >= 0.95
        assert dead_threads(here.worker) == []


def test_a_short_delay_does_not_wait_for_longer_ones(broker_url: str) -> None:
    with working(broker_url) as here:
        for number in range(60):
            here.send(f"long {number}", delay=3600)
        here.send("short", delay=0.2)
        wait_until(here.got("short"))
        assert list(here.received) == ["short"]


@pytest.mark.parametrize("broker_url", BESIDES_MEMORY, indirect=True)
def test_two_namespaces_on_one_broker_do_not_see_each_other(broker_url: str) -> None:
    with working(broker_url) as here:
        theirs = f"{queue_name(broker_url)}-theirs"
        bare = broker_url.removesuffix(f"namespace={queue_name(broker_url)}").rstrip("?")
        try:
            with working(f"{bare}{'&' if '?' in bare else '?'}namespace={theirs}") as there:
                here.send("to here")
                here.send("to here, late", delay=0.3)
                there.send("to there")
                wait_until(here.got("to here", "to here, late"))
                wait_until(there.got("to there"))
                assert here.received.keys() == {"to here", "to here, late"}
                assert there.received.keys() == {"to there"}
        finally:
            if isinstance(here.broker, RabbitmqBroker):
                delete_amqp_queues(theirs)


def test_preparing_a_broker_twice_changes_nothing(broker_url: str) -> None:
    prepare_broker(broker_url)
    prepare_broker(broker_url)


def test_the_queue_has_the_name_of_the_installation() -> None:
    assert queue_name("redis://h/0") == NAMESPACE
    assert queue_name("amqp://h/%2F?namespace=mine&heartbeat=5") == "mine"
    assert queue_name("postgresql:///d?host=/dir&namespace=mine") == "mine"


@pytest.mark.parametrize(
    "form",
    ["postgresql:///{name}?host={dir}&user=postgres", "postgres://postgres@/{name}?host={dir}"],
)
def test_every_form_of_a_socket_url_reaches_postgresql(postgres_url: str, form: str) -> None:
    authority, _, directory = postgres_url.partition("?host=")
    url = form.format(name=authority.rpartition("/")[2], dir=directory)
    with working(f"{url}&namespace=socket") as here:
        here.send("x")
        wait_until(here.got("x"))


def test_redis_answers_on_a_unix_socket_too(valkey: ValkeyServer, namespace: str) -> None:
    with working(f"unix://{valkey.socket}?db=0&namespace={namespace}") as here:
        here.send("x")
        wait_until(here.got("x"))


def test_the_tables_of_the_queue_lie_beside_the_producers(postgres_url: str) -> None:
    prepare_broker(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = %s",
            (POSTGRES_SCHEMA,),
        ).fetchone()
    assert found is not None
    assert found[0] > 0


@pytest.mark.parametrize("scheme", ["redis", "rediss", "amqp", "postgresql"])
def test_a_broker_that_is_away_is_told_in_one_line_without_the_password(scheme: str) -> None:
    with pytest.raises(Unreachable) as caught:
        prepare_broker(f"{scheme}://u:s3cret@127.0.0.1:{free_port()}/0")
    told = str(caught.value)
    assert told.startswith(f"cannot reach the broker at {scheme}://u:***@127.0.0.1:")
    assert "s3cret" not in told
    assert "\n" not in told


def test_what_is_no_rabbitmq_is_told_in_one_line(valkey: ValkeyServer) -> None:
    url = valkey.url("x").replace("redis://", "amqp://").partition("?")[0] + "?stack_timeout=1"
    with pytest.raises(Unreachable, match=r"cannot reach the broker at amqp://.+: .+"):
        prepare_broker(url)


def test_an_unknown_option_of_a_brokers_url_is_named(valkey: ValkeyServer) -> None:
    with pytest.raises(Unreachable, match="its URL has the unknown option 'namspace'"):
        prepare_broker(f"{valkey.url('x').partition('?')[0]}?namspace=x")


def test_a_send_while_redis_is_away_raises_what_senders_catch() -> None:
    server = ValkeyServer()
    server.start()
    try:
        installation = Installation(server.url("away"))
        server.stop(kill=True)
        with pytest.raises(SEND_ERRORS):
            installation.send("x")
        close_broker(installation.broker)
    finally:
        server.close()


def test_messages_flow_again_after_redis_was_killed() -> None:
    server = ValkeyServer()
    server.start()
    try:
        with working(server.url("back")) as here:
            here.send("before")
            wait_until(here.got("before"))
            server.restart(kill=True)
            here.send("after")
            wait_until(here.got("after"))
    finally:
        server.close()


def test_messages_flow_again_after_postgresql_was_restarted() -> None:
    server = PostgresServer()
    try:
        server.start()
        with working(server.url()) as here:
            here.send("before")
            wait_until(here.got("before"))
            server.restart(immediate=True)
            here.send("after")
            wait_until(here.got("after"))
    finally:
        server.close()


@pytest.mark.parametrize(
    "broker_url", ["redis", pytest.param("postgres", marks=pytest.mark.long)], indirect=True
)
def test_a_worker_that_fetches_nothing_leaves_messages_to_the_others(broker_url: str) -> None:
    with working(broker_url) as resting, working(broker_url) as here:
        pause_fetching(resting.worker, paused=True)
        wait_until(lambda: all(c.paused_event.is_set() for c in resting.worker.consumers.values()))
        texts = [f"now {number}" for number in range(10)] + ["later"]
        for text in texts:
            here.send(text, delay=0.3 if text == "later" else None)
        wait_until(here.got(*texts))
        assert resting.received == {}
        assert dead_threads(resting.worker) == []
        pause_fetching(resting.worker, paused=False)
        pause_fetching(here.worker, paused=True)
        wait_until(lambda: all(c.paused_event.is_set() for c in here.worker.consumers.values()))
        here.send("back")
        wait_until(resting.got("back"))


def test_a_worker_whose_consumer_died_is_known(memory_url: str) -> None:
    with working(memory_url) as here:
        wait_until(lambda: len(here.worker.consumers) == 2)
        victim = here.worker.consumers[queue_name(memory_url)]
        victim.stop()
        victim.join()
        assert dead_threads(here.worker) == [f"consumer {queue_name(memory_url)}"]


def test_threads_that_have_not_begun_are_not_dead() -> None:
    starting: Any = SimpleNamespace(consumers={"q": threading.Thread()}, workers=[])
    assert dead_threads(starting) == []


def test_time_limits_hold_outside_dramatiqs_own_command_line(memory_url: str) -> None:
    ended = threading.Event()

    def endless(_: str) -> None:
        try:
            while True:
                time.sleep(0.01)
        except TimeLimitExceeded:
            ended.set()
            raise

    with working(memory_url, step=endless) as here:
        here.actor.send_with_options(args=("x",), time_limit=100)
        assert ended.wait(10)


def test_what_raises_is_not_tried_again(broker_url: str) -> None:
    def fail(text: str) -> None:
        if text == "bad":
            calls.append(text)
            raise ValueError("on purpose")

    calls: list[str] = []
    with working(broker_url, step=fail) as here:
        here.send("bad")
        wait_until(here.got("bad"))
        time.sleep(0.5)
        here.send("good")
        wait_until(here.got("good"))
    assert calls == ["bad"]


def test_nothing_waits_for_ever_on_a_rabbitmq_that_stopped_reading() -> None:
    broker = make_broker("amqp://h/%2F?namespace=x&heartbeat=7")
    assert isinstance(broker, RabbitmqBroker)
    assert broker.confirm_delivery
    given = broker.parameters
    assert isinstance(given, pika.URLParameters)
    assert (given.heartbeat, given.blocked_connection_timeout) == (7, 3)
    assert given.virtual_host == "/"


def test_redis_looks_for_messages_of_the_dead_within_seconds() -> None:
    broker = make_broker("redis://h/0?namespace=mine")
    assert isinstance(broker, RedisBroker)
    assert broker.namespace == "mine"
    fetches_per_second = 2 * 5  # two consumers, five times a second
    assert 1_000_000 / broker.maintenance_chance / fetches_per_second <= 10
    assert broker.heartbeat_timeout <= 30_000


def test_the_time_limit_is_the_only_thing_that_ends_an_actor() -> None:
    broker = make_broker("memory://")
    assert any(isinstance(part, TimeLimit) for part in broker.middleware)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="kafka"):
        make_broker("kafka://h")
