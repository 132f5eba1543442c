"""Build one process from the settings, run it, and close it in order."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker.config import Settings, hide_password
from worker.errors import DeadThreads
from worker.logs import add_secret
from worker.metrics import Metrics
from worker.pipeline.actors import declare_actors
from worker.pipeline.brokers import (
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
from worker.pipeline.context import Policy, StepContext
from worker.pipeline.dispatcher import Dispatcher
from worker.pipeline.heartbeat import Heartbeat
from worker.pipeline.job_listener import JobListener
from worker.pipeline.list_watcher import ListWatcher
from worker.pipeline.messages import MessageSender
from worker.pipeline.poll import Poller
from worker.pipeline.recover import Recovery
from worker.pipeline.submit import Submitter
from worker.remote.client import open_judge_api
from worker.store import gates, job_queries, list_watch
from worker.store.database import Database, open_database
from worker.store.schema_version import check_schema
from worker.store.webhook_deliveries import MAX_IN_DELIVERY
from worker.tracing.exporter import find_tracer
from worker.webhooks.client import WebhookClient
from worker.webhooks.deliver import NoticeSender

if TYPE_CHECKING:
    import httpx

    from worker.tracing.spans import Tracing

log = structlog.get_logger("evalworker")

TICK_SECONDS = 0.2  # how often the main thread checks whether there is a reason to end
STOP_SECONDS = 25.0  # for running steps to end; with the rest, under the 30 s of a container
FIRST_READ_SECONDS = 5.0  # for the list to be read before anything else starts
MAX_THREADS = 32


class App:
    """One process of the worker: dispatcher, list watcher, actors and what they need."""

    def __init__(self, settings: Settings, *, transport: httpx.BaseTransport | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        with contextlib.ExitStack() as opened:  # closed again if a later one cannot be opened
            self.api = opened.enter_context(
                open_judge_api(
                    settings, transport=transport, observe=self._requested, on_key=add_secret
                )
            )
            allow_private = settings.webhook_allow_private
            self.webhooks = opened.enter_context(
                WebhookClient(settings.webhook_secrets, allow_private=allow_private)
            )
            self.database = open_database(settings)
            opened.callback(self.database.close)
            self.metrics.register_database(self.database, max_in_flight=settings.max_in_flight)
            check_schema(self.database)
            prepare_broker(settings.broker_url)
            self.broker = make_broker(settings.broker_url)
            opened.callback(close_broker, self.broker)
            self._opened = opened.pop_all()
        self.messages = messages = MessageSender(
            self.broker,
            queue_name(settings.broker_url),
            on_room=lambda: self.dispatcher.wake(),
            on_lost=self.metrics.on_message_lost,
        )
        self.context = StepContext(
            self.database,
            self.api,
            messages,
            _policy(settings),
            holder=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            rng=random.Random(),  # noqa: S311 (scatters waits, guards nothing)
        )
        poller = Poller(self.context)
        submitter = Submitter(self.context, poller, Recovery(self.context))
        self.tracing = tracing_of(self.database)
        around = {} if self.tracing is None else {"around": self.tracing.step}
        declare_actors(
            self.broker,
            messages.queue_name,
            submit=submitter.submit,
            poll=poller.poll,
            notify=NoticeSender(self.context, self.webhooks).notify,
            on_surprise=self.context.record_surprise,
            **around,
        )
        self.list_watcher = ListWatcher(self.context)
        self.dispatcher = Dispatcher(self.context)
        self.heartbeat = Heartbeat(self.context, messages)
        self.metrics.register_dispatcher(self.dispatcher.turn_age)
        self.metrics.register_replica(
            key_refused=lambda: self.api.key.refusal is not None,
            sends_fail=lambda: messages.failing is not None,
        )
        # Beside the threads of batches, so that slow receivers of notices do not occupy those.
        threads = min(MAX_THREADS, max(4, settings.max_in_flight)) + MAX_IN_DELIVERY
        self.worker = make_worker(self.broker, threads=threads)
        self.ending = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def end(self) -> None:
        """Ask `run` to return: nothing new is claimed, and running steps finish."""
        self.ending.set()

    def run(self, *, until: Callable[[], bool] | None = None) -> None:
        """Work until `end` is called, or `until` returns True (it is called a few times a second).

        Raises `DeadThreads` when a thread that processes messages has died.
        """
        self._start()
        try:
            while not self.ending.wait(TICK_SECONDS):
                if dead := dead_threads(self.worker):
                    raise DeadThreads(dead)
                pause_fetching(self.worker, paused=self.context.standby.stands_by())
                with contextlib.suppress(SQLAlchemyError):  # the database is away for a moment
                    if until is not None and until():
                        break
        finally:
            self._stop()

    def is_drained(self) -> bool:
        """Return whether nothing is left that the worker could do without a person."""
        with self.database.read() as connection:
            return job_queries.is_drained(connection)

    def _requested(self, endpoint: str, status: int | None, seconds: float) -> None:
        self.metrics.on_api_request(endpoint, status, seconds)
        if self.tracing is not None:
            self.tracing.on_api_request(endpoint, status, seconds)

    def _start(self) -> None:
        listener = JobListener(self.database, self.dispatcher.wake)
        stopped = (self.dispatcher, self.list_watcher, listener, self.heartbeat)
        self._stops = [thread.stop for thread in stopped]
        list_watcher = threading.Thread(target=self.list_watcher.run, name="list-watcher")
        others = [
            threading.Thread(target=self.dispatcher.run, name="dispatcher"),
            threading.Thread(target=self.heartbeat.run, name="heartbeat"),
        ]
        if self.database.on_postgresql:
            others.append(threading.Thread(target=listener.run, name="job-listener"))
        self._threads = [list_watcher, *others]
        self.context.durations.add_all(self.database.run(list_watch.latest_durations))
        # It may have been restarted with another URL or key, and work need not wait for that.
        self.heartbeat.turn()
        self.database.run(gates.probe_now)
        # The list is read first: it may spare the polls of batches that an earlier run has left at
        # the remote. They are all overdue, and would be a burst.
        list_watcher.start()
        self.list_watcher.has_read.wait(FIRST_READ_SECONDS)
        start_worker(self.worker)
        for thread in others:
            thread.start()
        log.info(
            "worker.started",
            holder=self.context.holder,
            database=hide_password(self.settings.database_url),
            pooler=self.database.pool_mode,
            broker=hide_password(self.settings.broker_url),
            api=self.settings.api_url,
        )

    def _stop(self) -> None:
        for stop in self._stops:
            stop()
        try:
            self.worker.stop(timeout=int(STOP_SECONDS * 1000))
        except SEND_ERRORS as error:  # it could not give back what it had fetched
            log.warning("worker.messages_kept", reason=str(error))
        for thread in self._threads:
            thread.join(timeout=5)
        log.info("worker.stopped")


def tracing_of(database: Database) -> Tracing | None:
    """Return None where OpenTelemetry is not installed or not set up."""
    tracer = find_tracer()
    if tracer is None:
        return None
    from worker.tracing.spans import Tracing

    return Tracing(database, tracer)


@contextlib.contextmanager
def ending_on_signals(ending: threading.Event) -> Iterator[None]:
    """Set `ending` on SIGTERM or SIGINT; a second signal ends the process immediately."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if ending.is_set():
            os._exit(128 + number)  # nothing is lost: every claim is a lease
        log.info("worker.stopping", signal=signal.Signals(number).name)
        ending.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _policy(settings: Settings) -> Policy:
    return Policy(
        lease=settings.lease_seconds,
        max_in_flight=settings.max_in_flight,
        batch_size=settings.batch_size,
        linger=settings.linger_seconds,
        poll_min=settings.poll_min_seconds,
        poll_max=settings.poll_max_seconds,
        batch_timeout=settings.batch_timeout_seconds,
        max_item_attempts=settings.max_item_attempts,
        tag_batches=settings.tag_batches,
        resubmit_unlisted=settings.on_lost_answer == "resubmit",
    )
