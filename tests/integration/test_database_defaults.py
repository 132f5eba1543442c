"""Roles, databases and servers with unusual defaults: the worker relies on none of them."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from tests.conftest import pooled_url
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.servers import PostgresServer, wait_until
from tests.support.worker_thread import (
    all_results_are_recorded_once,
    enqueue_inputs,
    running_worker,
    settings_for,
)
from worker.admin import Admin
from worker.errors import SchemaMismatch
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import RunningSandbox, running_sandbox
from worker.store import list_watch
from worker.store.database import Database
from worker.store.schema_version import check_encoding, check_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

UNUSUAL = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "America/St_Johns",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "client_encoding": "LATIN1",
    "statement_timeout": "100ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "200ms",
    "transaction_timeout": "150ms",
    "idle_session_timeout": "900ms",
    "jit": "on",
    "jit_above_cost": "0",
    "plan_cache_mode": "force_generic_plan",
    "session_replication_role": "replica",
    "synchronous_commit": "off",
    "row_security": "off",
    "enable_indexscan": "off",
}

# What PostgreSQL then says of itself in a transaction that writes, or in one that reads.
PROMISED = {
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "client_encoding": "UTF8",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "jit": "off",
    "plan_cache_mode": "auto",
    "session_replication_role": "origin",
    "synchronous_commit": "on",
    "row_security": "on",
}
WRITING = {"idle_in_transaction_session_timeout": "20000", "transaction_read_only": "off"}
WRITING |= {"enable_seqscan": "off", "enable_bitmapscan": "off"}
READING = {"idle_in_transaction_session_timeout": "0", "transaction_read_only": "on"}
READING |= {"enable_seqscan": "on", "enable_bitmapscan": "on"}


@pytest.fixture
def unusual_url(postgres: PostgresServer, postgres_url: str) -> str:
    name = sa.make_url(postgres_url).database
    for setting, value in UNUSUAL.items():
        postgres.execute(f"ALTER DATABASE {name} SET {setting} TO '{value}'")
    return postgres_url


@pytest.fixture(params=["direct", "transaction", pytest.param("session", marks=pytest.mark.long)])
def url(request: pytest.FixtureRequest, postgres: PostgresServer, unusual_url: str) -> str:
    if request.param == "direct":
        return unusual_url
    return pooled_url(postgres, unusual_url, mode=request.param)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with contextlib.closing(Database(url)) as opened:
        yield opened


def settings_of(connection: Connection) -> dict[str, str]:
    names = [*PROMISED, *WRITING]
    found = sa.text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")
    settings = dict(tuple(row) for row in connection.execute(found, {"names": names}))
    return settings | {"DateStyle": settings["DateStyle"].partition(",")[0]}


def test_each_transaction_has_the_settings_that_the_worker_relies_on(database: Database) -> None:
    for _ in range(2):  # nothing of one is left for the next
        assert database.run(lambda tx: settings_of(tx.connection)) == PROMISED | WRITING
        with database.read() as connection:
            assert settings_of(connection) == PROMISED | READING
    short = database.read_autocommit(settings_of)
    names = ("idle_in_transaction_session_timeout", "enable_seqscan", "enable_bitmapscan")
    expected = PROMISED | {name: WRITING[name] for name in names}
    assert {name: short[name] for name in expected} == expected


def test_nothing_is_left_behind_in_a_pooler_for_others(
    postgres: PostgresServer, postgres_url: str
) -> None:
    url = pooled_url(postgres, postgres_url, mode="transaction")
    with contextlib.closing(Database(url)) as database:
        database.run(lambda tx: tx.connection.exec_driver_sql("SELECT 1"))
        database.read_autocommit(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
    with psycopg.connect(url, autocommit=True) as other:
        shown = other.execute(
            "SELECT current_setting('enable_seqscan'), current_setting('statement_timeout'),"
            " current_setting('idle_in_transaction_session_timeout')"
        ).fetchone()
    assert shown == ("on", "0", "0")


def test_values_are_read_as_they_were_written(database: Database) -> None:
    row = sa.text("SELECT now(), CAST(:text AS text), CAST(:number AS float8), '\\n', :bytes")
    given = {"text": "日本 é ☃", "number": math.pi, "bytes": b"\x00\xff"}
    with database.read() as connection:
        moment, text, number, backslash, data = connection.execute(row, given).one()
    assert moment.utcoffset().total_seconds() == 0
    assert (text, number, backslash, data) == ("日本 é ☃", math.pi, "\\n", b"\x00\xff")


def test_settings_in_the_url_come_before_the_workers_own(url: str) -> None:
    """Also through a pooler, which would refuse them, or ignore them."""
    options = "-c%20statement_timeout=7s%20--search-path=aside,%5C%20public"
    separator = "&" if "?" in url else "?"
    with contextlib.closing(Database(f"{url}{separator}options={options}")) as database:
        found = "SELECT current_setting('statement_timeout'), current_setting('search_path')"
        row = database.run(lambda tx: tx.connection.exec_driver_sql(found).one())
        assert tuple(row) == ("7s", "aside, public")


@pytest.fixture
def judge() -> Iterator[RunningSandbox]:
    with running_sandbox(SandboxOptions(latency=(0.1, 0.3))) as running:
        yield running


def test_the_main_job_is_done_whatever_the_defaults_are(
    unusual_url: str, judge: RunningSandbox
) -> None:
    """With messages over the same database."""
    settings = settings_for(unusual_url, unusual_url, judge)
    with contextlib.closing(Database(unusual_url)) as database:
        enqueue_inputs(database, 150)
        with running_worker(settings) as app:
            wait_until(app.is_drained)
        assert all_results_are_recorded_once(database, judge, 150)
    with Admin(unusual_url) as admin:
        assert admin.status()["jobs"] == {"completed": 1}


def test_tables_outside_of_the_search_path_are_named(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """Migrating again, as was advised, would have made a second set of them."""
    postgres.execute(f"ALTER DATABASE {sa.make_url(postgres_url).database} SET search_path TO ''")
    with (
        contextlib.closing(Database(postgres_url)) as database,
        pytest.raises(SchemaMismatch, match="in the schema public, which is not in the search"),
    ):
        check_schema(database)


@pytest.mark.parametrize("encoding", ["LATIN1", pytest.param("SQL_ASCII", marks=pytest.mark.long)])
def test_a_database_that_cannot_store_every_text_is_refused(
    postgres: PostgresServer, encoding: str
) -> None:
    name = f"test_{encoding.lower()}"
    postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    made = f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
    postgres.execute(made)
    with (
        contextlib.closing(Database(postgres.url(name))) as database,
        pytest.raises(SchemaMismatch, match=f"has the encoding {encoding}"),
    ):
        check_encoding(database)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_row_that_cannot_be_read_is_an_error_in_the_log_and_the_dispatcher_goes_on(
    database_of_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = ManualReplica(database_of_postgres, FakeJudgeAPI())
    replica.enqueue(["q1"])
    replica.step()
    with database_of_postgres.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eval_batches SET submitting_at = '-infinity'")
    turns: list[Any] = []

    def counted_turn() -> float:
        turns.append(None)
        if len(turns) == 4:
            replica.dispatcher.stop()
        database_of_postgres.run(list_watch.batches_at_remote)
        return 0.0

    monkeypatch.setattr(replica.dispatcher, "turn", counted_turn)
    monkeypatch.setattr("worker.pipeline.dispatcher.TROUBLE_SECONDS", 0.001)
    with capture_logs() as lines:
        replica.dispatcher.run()
    assert len(turns) == 4
    (line,) = (one for one in lines if one["event"] == "dispatcher.interrupted")
    assert line["log_level"] == "error"
    assert "timestamp too small" in line["reason"]
    assert line["where"].startswith("store/")


def test_an_input_that_was_due_at_the_beginning_of_time_is_planned(
    database_of_postgres: Database,
) -> None:
    replica = ManualReplica(database_of_postgres, FakeJudgeAPI())
    replica.enqueue(["q1"])
    with database_of_postgres.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eval_items SET due_at = '-infinity'")
    replica.finish()
    assert replica.one("SELECT status FROM eval_jobs") == "completed"
