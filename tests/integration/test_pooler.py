"""PgBouncer before PostgreSQL: everything works by the URL alone, and the limits hold."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import httpx
import psycopg
import pytest
import sqlalchemy as sa

from tests.conftest import pooled_url
from tests.support.gateways import client, running_gateway, submit
from tests.support.processes import account, environment, evalworker
from tests.support.servers import PgBouncer, PostgresServer, pgbouncer_program, wait_until
from tests.support.worker_thread import (
    all_results_are_recorded_once,
    count_rows,
    enqueue_inputs,
    running_worker,
    settings_for,
)
from worker import enqueue
from worker.app import App
from worker.health import worker_operations
from worker.http_server import bind_socket, serve_in_background
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import RunningSandbox, running_sandbox
from worker.store.database import Database
from worker.store.migrate import upgrade
from worker.store.schema_version import REVISION, check_schema

if TYPE_CHECKING:
    from worker.store.transaction import Transaction

PoolerOf: TypeAlias = Callable[..., PgBouncer]


@pytest.fixture
def judge() -> Iterator[RunningSandbox]:
    with running_sandbox(SandboxOptions(latency=(0.1, 0.3))) as running:
        yield running


@pytest.fixture(params=["transaction", pytest.param("session", marks=pytest.mark.long)])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(postgres: PostgresServer, postgres_url: str, mode: str) -> str:
    return pooled_url(postgres, postgres_url, mode=mode)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with contextlib.closing(Database(url)) as opened:
        yield opened


def test_two_workers_and_the_gateway_do_their_work_through_a_pooler(
    url: str, database: Database, judge: RunningSandbox
) -> None:
    """With messages through it, too."""
    settings = settings_for(url, url, judge, batch_size=20)
    enqueue_inputs(database, 120)
    with App(settings) as one, App(settings) as two, running_gateway(database) as gateway:
        with client(gateway) as caller:
            sent = submit(caller, *map(str, range(40)), judge="response-checks")
            assert sent.status_code == 202, sent.text
            threads = [
                threading.Thread(target=app.run, kwargs={"until": app.is_drained})
                for app in (one, two)
            ]
            for thread in threads:
                thread.start()
            states = set()
            while any(thread.is_alive() for thread in threads):
                states.add(caller.get(sent.json()["status_url"]).status_code)
                threads[0].join(0.05)
            assert states == {200}
            status = caller.get(sent.json()["status_url"]).json()
        assert status["status"] == "completed"
    assert all_results_are_recorded_once(database, judge, 160)


def test_the_mode_of_a_pooler_is_found_out(database: Database, mode: str) -> None:
    assert database.pool_mode == mode


def test_no_pooler_is_found_where_there_is_none(database_of_postgres: Database) -> None:
    assert database_of_postgres.pool_mode is None


def test_no_statement_is_prepared_behind_a_pooler(
    database: Database, database_of_postgres: Database
) -> None:
    """Another connection of the pooler's would not know it; PostgreSQL itself says what it has."""
    prepared = "SELECT count(*) FROM pg_prepared_statements"
    for behind_a_pooler in (database, database_of_postgres):
        for _ in range(10):
            with behind_a_pooler.read() as connection:
                found = connection.exec_driver_sql(prepared).scalar()
                connection.commit()  # as a rollback would deallocate them
        assert (found == 0) == (behind_a_pooler is database)


LOST = ["08P01", "08006", "25P02", "25P03", "26000", "42P05", "53300"]
LOST += ["57P01", "57P02", "57P03", "57P05"]


def test_what_a_pooler_says_of_a_lost_session_is_run_again_on_another_connection(
    database_of_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PgBouncer says all of its own errors with 08P01: that a query waited too long, and so on."""
    monkeypatch.setattr("worker.store.database.RETRY_WAIT_SECONDS", 0.001)
    for state in LOST:
        used: list[int] = []

        def fail_once(tx: Transaction, state: str = state, used: list[int] = used) -> None:
            used.append(tx.scalar(sa.select(sa.func.pg_backend_pid())) or 0)
            if len(used) == 1:
                raising = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$"
                tx.execute(sa.text(raising))

        database_of_postgres.run(fail_once)
        assert len(set(used)) == 2, (state, used)


def test_a_prepared_statement_that_is_gone_is_run_again(database_of_postgres: Database) -> None:
    """On a connection that was direct when it was opened."""
    database = database_of_postgres
    asked = sa.text("SELECT 1 WHERE 1 = :one")
    for _ in range(8):
        assert database.read_autocommit(lambda one: one.scalar(asked, {"one": 1})) == 1
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
    assert database.read_autocommit(lambda one: one.scalar(asked, {"one": 1})) == 1


@pytest.fixture
def pooler_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolerOf]:
    """Start poolers of the test's own, in transaction mode."""
    if pgbouncer_program() is None:
        pytest.skip("PgBouncer is not installed: `apt-get install pgbouncer`")
    with contextlib.ExitStack() as opened:

        def start(server: PostgresServer, **settings: object) -> PgBouncer:
            home = Path(tempfile.mkdtemp(prefix="evpb"))  # short, as it is part of a socket's name
            pooler = PgBouncer(server, home, pool_mode="transaction", **settings)
            pooler.start()
            opened.callback(pooler.close)
            return pooler

        yield start


def test_a_worker_goes_on_when_its_pooler_was_restarted(
    postgres: PostgresServer, postgres_url: str, pooler_of: PoolerOf, judge: RunningSandbox
) -> None:
    pooler = pooler_of(postgres)
    work_during(pooler.restart, pooler.url(postgres_url), judge)


@pytest.mark.long
def test_a_worker_goes_on_when_the_database_behind_its_pooler_was_restarted(
    pooler_of: PoolerOf, judge: RunningSandbox
) -> None:
    """PgBouncer says "server login failed", and remembers it for a while."""
    server = PostgresServer()
    server.start()
    try:
        url = pooler_of(server, server_login_retry=1).url(server.url())
        with contextlib.closing(Database(url)) as database:
            upgrade(database)
        work_during(lambda: server.restart(immediate=True), url, judge)
    finally:
        server.close()


@pytest.mark.long
@pytest.mark.parametrize(
    "crowded",
    [{"default_pool_size": 1, "query_wait_timeout": 1}, {"max_client_conn": 5}],
    ids=["few connections to the server", "few connections to the pooler"],
)
def test_a_worker_goes_on_through_a_crowded_pooler(
    postgres: PostgresServer,
    postgres_url: str,
    pooler_of: PoolerOf,
    judge: RunningSandbox,
    crowded: dict[str, object],
) -> None:
    """Queries that wait too long are refused, and so are connections; both are tried again."""
    url = pooler_of(postgres, **crowded).url(postgres_url)
    with psycopg.connect(url) as other:

        def occupy() -> None:
            for _ in range(3):
                other.execute("SELECT pg_sleep(1.5)")
                other.commit()

        work_during(occupy, url, judge)


def work_during(trouble: Callable[[], None], url: str, judge: RunningSandbox) -> None:
    """Do a job of six batches, with trouble after the second."""
    settings = settings_for(
        url, "memory://", judge, batch_size=10, max_in_flight=2, lease_seconds=5
    )
    with contextlib.closing(Database(url)) as database:
        enqueue_inputs(database, 60)
        with running_worker(settings) as app:
            wait_until(lambda: account(judge)["batches"] >= 2)
            trouble()
            wait_until(lambda: is_drained(app), seconds=90)
        assert all_results_are_recorded_once(database, judge, 60)


def is_drained(app: App) -> bool:
    with contextlib.suppress(sa.exc.SQLAlchemyError):  # the pooler has no room at the moment
        return app.is_drained()
    return False


def test_new_jobs_are_heard_of_by_a_direct_connection_only(
    url: str, postgres_url: str, database: Database
) -> None:
    assert database.listening_connection() is None
    with contextlib.closing(Database(url, listen_url=postgres_url)) as with_listener:
        connection = with_listener.listening_connection()
    assert connection is not None
    with contextlib.closing(connection):
        connection.execute("LISTEN eval_jobs")
        enqueue_inputs(database, 1)
        (heard,) = connection.notifies(timeout=10, stop_after=1)
    assert heard.channel == "eval_jobs"


def test_a_producer_enqueues_through_a_pooler_with_an_engine_of_its_own(
    url: str, database: Database
) -> None:
    engine = sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"),
        connect_args={"prepare_threshold": None},  # as psycopg's documentation says
    )
    for number in range(8):
        with engine.begin() as connection:
            enqueue(connection, judge_id="j", inputs=[{"request": str(number)}] * 1001)
    engine.dispose()
    assert count_rows(database, "eval_items") == 8008


def test_check_tells_of_a_pooler_and_of_a_listen_url_that_leads_to_one(
    url: str, postgres_url: str, mode: str, judge: RunningSandbox
) -> None:
    env = environment(
        database_url=url, listen_url=postgres_url, api_url=judge.url, api_key=judge.api_key
    )
    fine = evalworker("check", env=env)
    assert f"pooler: PostgreSQL is behind a pooler in {mode} mode" in fine.stdout
    assert "listen URL: ok" in fine.stdout
    wrong = evalworker("check", "--json", env=env | environment(listen_url=url))
    assert wrong.returncode == 1
    found = json.loads(wrong.stdout)
    assert found["pooler"] == mode
    assert found["checks"]["listen URL"] == "leads to a pooler, which passes on no notifications"


def test_the_operations_port_tells_of_a_pooler(url: str, mode: str, judge: RunningSandbox) -> None:
    with App(settings_for(url, "memory://", judge)) as app:
        body = app.metrics.exposition("")[0].decode()
        assert f'evalworker_database_pooler_info{{mode="{mode}"}} 1.0' in body
        with bind_socket("127.0.0.1", 0) as listener:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}/readyz"
            with serve_in_background(worker_operations(app), listener, name="operations"):
                assert httpx.get(address).json()["pooler"] == mode


def test_a_pooled_database_is_migrated(postgres: PostgresServer, empty_postgres_url: str) -> None:
    url = pooled_url(postgres, empty_postgres_url, mode="transaction")
    with contextlib.closing(Database(url)) as database:
        assert upgrade(database) == REVISION
        check_schema(database)
