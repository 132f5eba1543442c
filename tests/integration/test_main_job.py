"""The main job over real servers: every broker, both databases, real HTTP to the sandbox."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import account
from tests.support.servers import PostgresServer, ValkeyServer, free_port, wait_until
from tests.support.worker_thread import count_rows, enqueue_inputs, settings_for
from worker.app import App
from worker.config import load_settings
from worker.errors import ConfigurationError, SchemaMismatch, Unreachable
from worker.pipeline.brokers import prepare_broker
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import RunningSandbox, running_sandbox
from worker.store.database import Database
from worker.store.migrate import upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.config import Settings


@pytest.fixture
def judge() -> Iterator[RunningSandbox]:
    with running_sandbox(SandboxOptions(latency=(0.1, 0.3))) as running:
        yield running


def do_the_main_job(database: Database, settings: Settings, judge: RunningSandbox) -> None:
    enqueue_inputs(database, 250)
    with App(settings) as app:
        app.run(until=app.is_drained)
    assert count_rows(database, "eval_jobs WHERE status = 'completed'") == 1
    assert count_rows(database, "eval_scores WHERE score = 1.0") == 500
    found = account(judge)
    assert (found["batches"], found["evaluated_again"]) == (3, 0)


def test_over_every_broker(
    postgres_url: str, database_of_postgres: Database, broker_url: str, judge: RunningSandbox
) -> None:
    settings = settings_for(postgres_url, broker_url, judge)
    do_the_main_job(database_of_postgres, settings, judge)


def test_on_both_databases(database_url: str, database: Database, judge: RunningSandbox) -> None:
    do_the_main_job(database, settings_for(database_url, "memory://", judge), judge)


def test_two_replicas_share_the_work_and_never_exceed_what_is_allowed(
    postgres_url: str, database_of_postgres: Database, redis_url: str
) -> None:
    options = SandboxOptions(latency=(0.1, 0.3), max_running=4)
    with running_sandbox(options) as judge:
        enqueue_inputs(database_of_postgres, 300)
        settings = settings_for(postgres_url, redis_url, judge).model_copy(
            update={"batch_size": 10, "max_in_flight": 4}
        )
        with App(settings) as one, App(settings) as two:
            threads = [
                threading.Thread(target=app.run, kwargs={"until": app.is_drained})
                for app in (one, two)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        found = account(judge)
    assert (found["inputs_evaluated"], found["evaluated_again"]) == (300, 0)
    assert "submit 429" not in found["requests"]
    with database_of_postgres.read() as connection:
        holders = connection.exec_driver_sql("SELECT count(*) FROM eval_batches").scalar()
    assert holders == 30


def test_new_work_is_noticed_at_once_on_postgresql(
    postgres_url: str, database_of_postgres: Database, judge: RunningSandbox
) -> None:
    """By its notification: the dispatcher alone would sleep for a minute here."""
    settings = settings_for(postgres_url, "memory://", judge).model_copy(
        update={"linger_seconds": 0.0}
    )
    with App(settings) as app, pytest.MonkeyPatch.context() as patched:
        patched.setattr("worker.pipeline.dispatcher.TURN_SECONDS", 60.0)
        thread = threading.Thread(target=app.run)
        thread.start()
        wait_until(lambda: app.dispatcher._sweeps_at > float("-inf"))
        enqueue_inputs(database_of_postgres, 1)
        wait_until(lambda: count_rows(database_of_postgres, "eval_batches") == 1, seconds=10)
        app.end()
        thread.join()


def test_work_goes_on_when_the_broker_lost_everything(
    postgres_url: str, database_of_postgres: Database, namespace: str
) -> None:
    server = ValkeyServer()
    server.start()
    try:
        with running_sandbox(SandboxOptions(latency=(1.0, 2.0))) as judge:
            enqueue_inputs(database_of_postgres, 50)
            settings = settings_for(postgres_url, server.url(namespace), judge)
            with App(settings) as app:
                thread = threading.Thread(target=app.run, kwargs={"until": app.is_drained})
                thread.start()
                wait_until(lambda: count_rows(database_of_postgres, "eval_batches") == 1)
                server.stop(kill=True)
                for left in server.home.glob("appendonlydir/*"):
                    left.unlink()
                server.start()
                thread.join(timeout=60)
                assert not thread.is_alive()
            assert account(judge)["evaluated_again"] == 0
    finally:
        server.close()
    assert count_rows(database_of_postgres, "eval_jobs WHERE status = 'completed'") == 1


def test_work_goes_on_when_the_database_was_restarted(namespace: str) -> None:
    server = PostgresServer()
    try:
        server.start()
        url = server.url()
        database = Database(load_settings(database_url=url).sqlalchemy_url)
        upgrade(database)
        with running_sandbox(SandboxOptions(latency=(1.0, 2.0))) as judge:
            enqueue_inputs(database, 60)
            settings = settings_for(url, f"memory://?namespace={namespace}", judge).model_copy(
                update={"batch_size": 10, "max_in_flight": 3, "lease_seconds": 5.0}
            )
            with App(settings) as app:
                thread = threading.Thread(target=app.run, kwargs={"until": app.is_drained})
                thread.start()
                wait_until(lambda: account(judge)["batches"] >= 2)
                server.stop(immediate=True)
                server.start()
                thread.join(timeout=90)
                assert not thread.is_alive()
            found = account(judge)
        assert (found["inputs_evaluated"], found["evaluated_again"]) == (60, 0)
        assert count_rows(database, "eval_scores WHERE score = 1.0") == 120
        database.close()
    finally:
        server.close()


def test_what_is_missing_at_the_start_is_told_in_one_line(
    sqlite_url: str, empty_sqlite_url: str, judge: RunningSandbox
) -> None:
    nobody = free_port()
    good = settings_for(sqlite_url, "memory://", judge)
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"database_url": f"postgresql://u:s3cret@127.0.0.1:{nobody}/x"}, Unreachable, "database"),
        ({"broker_url": f"redis://u:s3cret@127.0.0.1:{nobody}"}, Unreachable, "broker"),
        ({"broker_url": f"amqp://u:s3cret@127.0.0.1:{nobody}"}, Unreachable, "broker"),
        ({"broker_url": f"postgresql://u:s3cret@127.0.0.1:{nobody}/x"}, Unreachable, "broker"),
        ({"api_key": None}, ConfigurationError, "EVALWORKER_API_KEY is not set"),
    ]
    for changes, error, text in cases:
        with pytest.raises(error) as caught:
            App(good.model_copy(update=changes))
        assert text in str(caught.value)
        assert "s3cret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(Unreachable, match="broker"):
        prepare_broker(f"redis://127.0.0.1:{nobody}")


def test_a_database_without_the_tables_is_refused(
    empty_database_url: str, judge: RunningSandbox
) -> None:
    with pytest.raises(SchemaMismatch, match="evalworker migrate"):
        App(settings_for(empty_database_url, "memory://", judge))
