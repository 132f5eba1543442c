"""The operations port serves probes and Prometheus."""

from __future__ import annotations

import contextlib
import socket
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.servers import ValkeyServer, free_port, wait_until
from tests.support.webhook_receiver import answer_with, running_receiver
from tests.support.worker_thread import running_worker, settings_for
from worker.events import CountedEvent, Event
from worker.health import gateway_operations, worker_operations
from worker.http_server import bind_socket, serve_in_background
from worker.metrics import Metrics, collector, definitions
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import RunningSandbox, running_sandbox
from worker.store import concurrency_limit, gates, outage, pauses
from worker.store.database import Database
from worker.store.tables import gates as gates_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import GaugeMetricFamily
    from starlette.applications import Starlette

    from worker.app import App
    from worker.store.transaction import Transaction


@pytest.fixture
def judge() -> Iterator[RunningSandbox]:
    with running_sandbox(SandboxOptions(latency=(0.0, 0.1))) as running:
        yield running


@pytest.fixture
def metrics(database: Database) -> Metrics:
    metrics = Metrics()
    metrics.register_database(database, max_in_flight=50)
    return metrics


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.fixture(autouse=True)
def _each_scrape_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MIN_CACHE_SECONDS", 0.0)
    monkeypatch.setattr(collector, "CACHE_FACTOR", 0)


# --- gauges of the database ---


def test_items_are_counted_by_judge_and_batches_by_state(
    database: Database, metrics: Metrics
) -> None:
    remote = FakeJudgeAPI()
    remote.done = False
    replica = ManualReplica(database, remote, batch_size=2, max_in_flight=2)
    replica.enqueue(["a", "b", "c", "d", "e"], judge_id="first")
    replica.enqueue(["f"], judge_id="second")
    replica.step()  # one batch of each judge is in flight
    assert sample(metrics, "evalworker_items_waiting", judge="first") == 3
    assert sample(metrics, "evalworker_items_waiting", judge="second") is None
    assert sample(metrics, "evalworker_batches", state="submitted") == 2
    assert sample(metrics, "evalworker_batches", state="held") == 0
    replica.pass_time()
    oldest = sample(metrics, "evalworker_oldest_waiting_seconds", judge="first")
    assert oldest is not None
    assert 60 <= oldest < 90
    age = sample(metrics, "evalworker_oldest_batch_seconds", state="submitted")
    assert age is not None
    assert 0 <= age < 60
    remote.done = True
    replica.finish()
    assert sample(metrics, "evalworker_items_waiting", judge="first") is None
    assert sample(metrics, "evalworker_batches", state="submitted") == 0


def test_batches_on_hold_and_closed_gates_are_counted(database: Database, metrics: Metrics) -> None:
    replica = ManualReplica(database, FakeJudgeAPI())
    replica.enqueue(["a"])
    replica.dispatcher.turn()

    def hold_and_close(tx: Transaction) -> None:
        tx.connection.exec_driver_sql("UPDATE eval_batches SET state = 'held', due_at = NULL")
        for scope in (gates.API, gates.of_judge("a"), gates.of_judge("b")):
            gates.count_failure(tx, scope, "no", sent_at=datetime.now(UTC))
            gates.close(tx, scope, wait=60)
        for judge_id in (None, "a"):
            pauses.pause(tx, judge_id, "by a person")

    database.run(hold_and_close)
    assert sample(metrics, "evalworker_batches", state="held") == 1
    assert sample(metrics, "evalworker_gates_closed", scope="api") == 1
    assert sample(metrics, "evalworker_gates_closed", scope="judge") == 2
    assert sample(metrics, "evalworker_gates_closed", scope="pause") == 2
    assert sample(metrics, "evalworker_gate_closures_total", scope="judge") == 2


def test_a_lowered_concurrency_limit_is_exported(database: Database, metrics: Metrics) -> None:
    assert sample(metrics, "evalworker_in_flight_limit") == 50
    replica = ManualReplica(database, FakeJudgeAPI())
    replica.remote.done = False
    replica.enqueue(["a"])
    replica.step()  # one batch runs when another one is refused
    database.run(concurrency_limit.lower_limit)
    assert sample(metrics, "evalworker_in_flight_limit") == 1
    assert sample(metrics, "evalworker_pace_lowered_total") == 1


def test_notices_are_counted_by_their_outcome(database: Database, metrics: Metrics) -> None:
    replica = ManualReplica(database, FakeJudgeAPI())
    with running_receiver() as receiver:
        for status in (200, 410, 500):
            receiver.always = answer_with(status)
            replica.enqueue(["a"], callback_url=receiver.url)
            replica.finish()
            replica.step()
        assert len(receiver.ids) == 3
    assert sample(metrics, "evalworker_notices_ended_total", outcome="sent") == 1
    assert sample(metrics, "evalworker_notices_put_off_total") == 1
    assert sample(metrics, "evalworker_notices_ended_total", outcome="failed") == 1


def test_a_snapshot_that_took_long_is_served_for_longer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "MIN_CACHE_SECONDS", 5.0)
    monkeypatch.setattr(collector, "CACHE_FACTOR", 20)
    reads: list[float] = []
    time = 1000.0

    def read_snapshot(_: Database, _max_in_flight: int) -> list[GaugeMetricFamily]:
        nonlocal time
        reads.append(time)
        time += 0.5
        return []

    monkeypatch.setattr(collector, "read_snapshot", read_snapshot)
    gauges = collector.DatabaseCollector(database, max_in_flight=50, monotonic=lambda: time)
    list(gauges.collect())
    for later in (
        1001.0,
        1010.0,
        1011.0,
    ):  # the read took 0.5 s, so it is served for 20 times as long
        time = later
        list(gauges.collect())
    assert reads == [1000.0, 1011.0]


def test_a_slow_read_leaves_the_previous_snapshot_in_force_until_it_hangs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "SCRAPE_TIMEOUT_SECONDS", 0.05)
    turns = threading.Semaphore(0)  # each lets one read go on
    time = 1000.0
    gauges = collector.DatabaseCollector(database, max_in_flight=50, monotonic=lambda: time)
    read_snapshot = collector.read_snapshot

    def slow_read(database: Database, max_in_flight: int) -> list[GaugeMetricFamily]:
        turns.acquire(timeout=30)
        return read_snapshot(database, max_in_flight)

    monkeypatch.setattr(collector, "read_snapshot", slow_read)

    def up() -> float:
        return float(next(iter(gauges.collect())).samples[0].value)

    assert up() == 0.0  # none has ended yet
    turns.release()
    wait_until(lambda: up() == 1.0)
    time += 30
    assert up() == 1.0
    time += collector.SNAPSHOT_TIMEOUT_SECONDS + 1
    assert up() == 0.0
    turns.release(1000)
    wait_until(lambda: up() == 1.0)


# --- counters of the process ---


def test_a_transition_is_counted_only_after_its_commit(
    database: Database, metrics: Metrics
) -> None:
    def undone(tx: Transaction) -> None:
        tx.record_event(Event.BATCH_LOST)
        tx.count(CountedEvent.BATCH_POLLED)
        raise LookupError

    with pytest.raises(LookupError):
        database.run(undone)
    assert sample(metrics, "evalworker_batches_ended_total", outcome="lost") == 0
    assert sample(metrics, "evalworker_repolls_total") == 0


def test_retries_repolls_and_lost_answers_are_counted(database: Database, metrics: Metrics) -> None:
    remote = FakeJudgeAPI()
    remote.done = False
    replica = ManualReplica(database, remote, max_item_attempts=2)
    remote.next_answer(remote.accept_and_lose)
    replica.enqueue(["good", "fail always"])
    replica.step()
    replica.pass_time()
    replica.step()  # found at the remote
    replica.pass_time()
    replica.step()  # still running
    remote.done = True
    replica.finish()
    assert sample(metrics, "evalworker_batches_unknown_total") == 1
    assert sample(metrics, "evalworker_batches_submitted_total", how="found") == 1
    assert sample(metrics, "evalworker_batches_submitted_total", how="answered") == 1
    assert sample(metrics, "evalworker_repolls_total") == 1
    assert sample(metrics, "evalworker_items_retried_total") == 1
    assert sample(metrics, "evalworker_items_ended_total", outcome="completed") == 1
    assert sample(metrics, "evalworker_items_ended_total", outcome="failed") == 1
    assert sample(metrics, "evalworker_jobs_ended_total", outcome="completed") == 1
    assert sample(metrics, "evalworker_job_seconds_count") == 1
    assert sample(metrics, "evalworker_batch_seconds_count") == 2


def test_a_lost_lease_is_noticed_by_holder_and_successor(
    database: Database, metrics: Metrics
) -> None:
    remote = FakeJudgeAPI()
    replica = ManualReplica(database, remote)
    replica.enqueue(["a"])
    replica.step()
    replica.pass_time()
    (_, batch_id) = ("poll", replica.rows("SELECT id FROM eval_batches")[0][0])

    def meanwhile(_: Any) -> None:  # the lease expires, and a successor claims the batch
        replica.pass_time()
        replica.poller.poll(batch_id)

    remote.next_answer(meanwhile)
    replica.poller.poll(batch_id)
    assert sample(metrics, "evalworker_leases_lost_total", seen_by="holder") == 1
    assert sample(metrics, "evalworker_leases_lost_total", seen_by="successor") == 1
    assert sample(metrics, "evalworker_items_ended_total", outcome="completed") == 1


def test_a_job_with_an_invalid_time_still_ends(sqlite_url: str) -> None:
    """Plain SQL may write any text as a time on SQLite."""
    database = Database(sqlite_url)
    replica = ManualReplica(database, FakeJudgeAPI())
    replica.enqueue(["a"])
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eval_jobs SET created_at = 'yesterday'")
    replica.finish()
    assert replica.one("SELECT status FROM eval_jobs") == "completed"
    database.close()


# --- the port -----------------------------------------------------------------------------------


def asked(port: Starlette, path: str) -> httpx.Response:
    with contextlib.ExitStack() as around:
        listener = around.enter_context(bind_socket("127.0.0.1", 0))
        around.enter_context(serve_in_background(port, listener, name="operations"))
        return httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}{path}", timeout=30)


def exported(text: str) -> dict[str, set[str]]:
    """The labels of each family that Prometheus reads there."""
    found = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for one in family.samples for label in one.labels} - {"le"}
        if name.startswith("evalworker_") and not name.endswith("_created"):
            found[name] = labels
    return found


def test_a_worker_exports_exactly_the_defined_metrics(
    database: Database, database_url: str, memory_url: str, judge: RunningSandbox
) -> None:
    settings = settings_for(database_url, memory_url, judge)
    ManualReplica(database, FakeJudgeAPI()).enqueue(["a", "b"], judge_id="response-checks")
    with running_worker(settings) as app:
        wait_until(app.is_drained)
        ManualReplica(database, FakeJudgeAPI()).enqueue(["waits"], judge_id="x" * 255)
        app.metrics.on_gateway_request("submit", 202, 0.01)
        answer = asked(worker_operations(app), "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    shown = exported(answer.text)
    assert set(shown) == {metric.name for metric in definitions.METRICS}
    for metric in definitions.METRICS:
        if shown[metric.name]:
            assert shown[metric.name] == set(metric.labels), metric.name
    assert 'evalworker_requests_total{endpoint="submit",status="202"} 1.0' in answer.text
    assert 'evalworker_items_ended_total{outcome="completed"} 2.0' in answer.text
    assert "process_resident_memory_bytes" in answer.text


def test_a_scrape_succeeds_without_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Database(f"postgresql://127.0.0.1:{free_port()}/none")
    assert_scraped_without(closed)
    monkeypatch.setattr(collector, "SCRAPE_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as silent:  # accepts connections, but does not respond
        port = silent.getsockname()[1]
        assert_scraped_without(Database(f"postgresql://127.0.0.1:{port}/none?connect_timeout=2"))


def assert_scraped_without(database: Database) -> None:
    metrics = Metrics()
    metrics.register_database(database, max_in_flight=50)
    text = asked(gateway_operations(database, metrics), "/metrics").text
    assert "evalworker_database_up 0.0" in text
    assert "evalworker_items_waiting{" not in text
    assert "evalworker_batches_unknown_total 0.0" in text
    database.close()


def readiness(app: App) -> tuple[int, Any]:
    answer = asked(worker_operations(app), "/readyz")
    return answer.status_code, answer.json()


def test_readiness_names_the_failed_check(
    database: Database, database_url: str, namespace: str, judge: RunningSandbox
) -> None:
    broker = ValkeyServer()
    broker.start()
    try:
        with running_worker(settings_for(database_url, broker.url(namespace), judge)) as app:
            status, body = readiness(app)
            assert (status, body["ok"], set(body["checks"].values())) == (200, True, {"ok"})
            close_gate(database, gates.SUBMIT)
            status, body = readiness(app)
            assert (status, body["api_paused"]) == (200, True)
            assert body["waiting_for"][0]["reason"] == "503: away"
            broker.stop()
            status, body = readiness(app)
            assert status == 503
            assert "broker" in body["checks"]["broker"]
            assert body["checks"]["database"] == "ok"
            broker.start()
            with database.engine.begin() as connection:
                connection.exec_driver_sql("UPDATE eval_alembic_version SET version_num = '9999'")
            status, body = readiness(app)
            assert status == 503
            assert body["checks"]["database"] == "ok"
            assert "newer than this worker" in body["checks"]["migrations"]
    finally:
        broker.close()


@pytest.mark.one_database("sqlite")
def test_readiness_notices_a_database_that_cannot_write(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = gateway_operations(database, Metrics())

    def finding() -> Any:
        response = asked(app, "/readyz")
        assert response.status_code == (200 if response.json()["ok"] else 503)
        return response.json()["checks"]["database"]

    assert finding() == "ok"
    if database.on_postgresql:

        def write_nothing(tx: Transaction) -> None:
            tx.connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            pauses.pause(tx, None, "x")

        with pytest.raises(sa.exc.InternalError):
            database.run(write_nothing)
        assert finding() == "cannot write: cannot execute INSERT in a read-only transaction"
        return
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    with pytest.raises(sa.exc.OperationalError):
        database.run(lambda tx: pauses.pause(tx, "x" * 8000, "y" * 100_000))
    assert finding() == "cannot write: database or disk is full"
    monkeypatch.setattr(outage, "REMEMBERED_SECONDS", 0.0)
    assert finding() == "ok"
    monkeypatch.setattr(outage, "MIN_FREE_BYTES", 1 << 80)
    assert finding().endswith("evalworker.db is full")


def close_gate(database: Database, scope: str) -> None:
    def close(tx: Transaction) -> None:
        gates.count_failure(tx, scope, "503: away", sent_at=datetime.now(UTC))
        gates.close(tx, scope, wait=600)

    database.run(close)
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(gates_table)) == 1
