"""The schema comes and goes cleanly, and a worker knows whether it is the right one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.processes import started
from worker.config import load_settings
from worker.domain.lifecycle import LIVE_STATES, BatchState, Status
from worker.errors import SchemaMismatch
from worker.store import pauses
from worker.store.database import Database
from worker.store.migrate import downgrade, upgrade
from worker.store.schema_version import REVISION, check_schema, current_revision
from worker.store.tables import metadata

ROOT = Path(__file__).parents[2]

VIEWS = {
    "eval_job_progress": "job_id judge_id judge_version_id tags metadata status total waiting"
    " in_flight completed failed cancelled created_at finished_at error",
    "eval_item_results": "job_id item_index status request response expected_output attempts"
    " error batch_id remote_batch_id execution_log_id finished_at metadata",
    "eval_scores": "job_id item_index judge_id judge_version_id tags evaluator_name score"
    " justification confidence finished_at metadata",
    "eval_score_summary": "job_id judge_id judge_version_id tags evaluator_name scored unscored"
    " mean sum sum_of_squares least most bins finished_at",
    "eval_job_notices": "job_id notice_id state attempts error created_at finished_at",
}


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Database]:
    database = Database(load_settings(database_url=empty_database_url).sqlalchemy_url)
    yield database
    database.close()


def names(database: Database) -> set[str]:
    with database.read() as connection:
        inspector = sa.inspect(connection)
        return {*inspector.get_table_names(), *inspector.get_view_names()}


def test_up_down_and_up_again(empty: Database) -> None:
    upgrade(empty)
    assert all(name.startswith("eval_") for name in names(empty))
    downgrade(empty)
    assert names(empty) == {"eval_alembic_version"}
    upgrade(empty)
    check_schema(empty)


def test_the_producers_tables_and_its_own_alembic_version_are_untouched(empty: Database) -> None:
    with empty.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('theirs')")
        connection.exec_driver_sql("CREATE TABLE orders (id INTEGER)")
    upgrade(empty)
    downgrade(empty)
    assert {"alembic_version", "orders"} <= names(empty)
    with empty.read() as connection:
        assert connection.exec_driver_sql("SELECT * FROM alembic_version").scalar() == "theirs"


def test_metadata_and_migrations_are_equal(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": "eval_alembic_version",
                "compare_type": True,
                "include_object": lambda _o, name, kind, *_: (
                    kind != "table" or name.startswith("eval_")
                ),
            },
        )
        assert compare_metadata(context, metadata) == []


def test_the_check_constraints_agree_with_the_lifecycle(database: Database) -> None:
    with database.read() as connection:
        inspector = sa.inspect(connection)
        checks = {
            check["name"]: str(check["sqltext"])
            for table in ("eval_jobs", "eval_items", "eval_batches")
            for check in inspector.get_check_constraints(table)
        }
    for state in BatchState:
        assert f"'{state}'" in checks["eval_batches_state"]
        assert (f"'{state}'" in checks["eval_batches_due"]) is (state in LIVE_STATES)
    for status in Status:
        assert f"'{status}'" in checks["eval_jobs_status"]
        assert f"'{status}'" in checks["eval_items_status"]


@pytest.mark.parametrize("view", VIEWS)
def test_the_views_have_the_contracts_columns_in_order(database: Database, view: str) -> None:
    with database.read() as connection:
        columns = [column["name"] for column in sa.inspect(connection).get_columns(view)]
    assert columns[: len(VIEWS[view].split())] == VIEWS[view].split()


def test_a_worker_stops_before_a_schema_that_is_missing_older_or_newer(empty: Database) -> None:
    with pytest.raises(SchemaMismatch, match="evalworker migrate"):
        check_schema(empty)
    upgrade(empty)
    with empty.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE eval_alembic_version SET version_num = '9999'")
    for refused in (check_schema, upgrade):
        with pytest.raises(SchemaMismatch, match="pip install --upgrade"):
            refused(empty)


def test_the_code_is_for_the_newest_migration() -> None:
    newest = max(path.name for path in (ROOT / "migrations/versions").glob("[0-9]*.py"))
    assert newest.startswith(REVISION)


def test_alembic_from_a_checkout_does_the_same(empty: Database, empty_database_url: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT,
        env={**os.environ, "EVALWORKER_DATABASE_URL": empty_database_url},
        check=True,
    )
    check_schema(empty)
    assert current_revision(empty) is not None


def test_containers_that_start_together_migrate_one_after_the_other(
    empty_postgres_url: str,
) -> None:
    env = {**os.environ, "EVALWORKER_DATABASE_URL": empty_postgres_url}
    with contextlib.ExitStack() as stack:
        containers = [stack.enter_context(started("migrate", env=env)) for _ in range(3)]
        assert [container.wait() for container in containers] == [0, 0, 0]


def test_pauses_move_out_of_the_gates_while_work_is_under_way(database: Database) -> None:
    """Downgraded, the database is as version 0.1.0 wrote it: a pause is a gate that never opens."""
    remote = FakeJudgeAPI()
    replica = ManualReplica(database, remote, batch_size=1, max_in_flight=4)
    replica.enqueue(["submitted"], judge_id="running")
    replica.step()
    replica.enqueue(["planned"], judge_id="paused")
    replica.dispatcher.turn()
    database.run(lambda tx: pauses.pause(tx, "paused", "its prompt is being changed"))
    database.run(lambda tx: pauses.pause(tx, None, "maintenance"))
    replica.deliver()
    downgrade(database, "0004")
    assert replica.rows("SELECT scope, reason FROM eval_gates ORDER BY scope") == [
        ("pause", "maintenance"),
        ("pause:paused", "its prompt is being changed"),
    ]
    upgrade(database)
    assert replica.rows("SELECT scope FROM eval_gates") == []
    with database.read() as connection:
        found = pauses.list_pauses(connection)
    assert [(one.judge_id, one.reason) for one in found] == [
        (None, "maintenance"),
        ("paused", "its prompt is being changed"),
    ]
    for judge_id in (None, "paused"):
        assert database.run(partial(pauses.resume, judge_id=judge_id))
    replica.finish()
    assert len(remote.inputs()) == 2


def test_tables_that_a_restored_backup_does_not_know_are_named_with_the_remedy(
    empty_postgres_url: str,
) -> None:
    with contextlib.closing(Database(empty_postgres_url)) as database:
        upgrade(database)
        with database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE eval_alembic_version SET version_num = '0010'")
        with pytest.raises(SchemaMismatch, match="Restore it into an empty database"):
            upgrade(database)
        assert current_revision(database) == "0010"
