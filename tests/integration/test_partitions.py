"""Tables cut by month (deploy/partition.sql): the same work, the same views, old months dropped."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa

from scripts.generate_docs import ROOT
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.servers import postgres_programs
from worker.store.job_queries import results_of
from worker.store.migrate import downgrade, upgrade
from worker.store.schema_version import check_schema

if TYPE_CHECKING:
    from worker.store.database import Database

SCRIPT = ROOT / "deploy" / "partition.sql"
OPTIONS = ("--single-transaction", "--set", "ON_ERROR_STOP=1")
CUT = ("eval_items", "eval_evaluator_results", "eval_events")


def cut_by_month(postgres_url: str) -> None:
    """As docs/partitioning.md says."""
    done = subprocess.run(
        [
            postgres_programs() / "psql",
            *OPTIONS,
            *("--no-psqlrc", "--quiet", "--file", SCRIPT, postgres_url),
        ],
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def replica(database_of_postgres: Database) -> ManualReplica:
    return ManualReplica(database_of_postgres, FakeJudgeAPI())


def run(replica: ManualReplica, statement: str) -> Any:
    with replica.database.engine.begin() as connection:
        found = connection.exec_driver_sql(statement)
        return found.scalar() if found.returns_rows else found.rowcount


def test_jobs_of_before_during_and_after_come_to_their_results(
    replica: ManualReplica, postgres_url: str
) -> None:
    replica.enqueue(["one", "fail two"])
    replica.finish()
    before = replica.rows("SELECT * FROM eval_scores")
    replica.enqueue(["three"])
    replica.remote.done = False
    replica.step()  # this one is at the remote meanwhile
    cut_by_month(postgres_url)
    assert replica.rows("SELECT * FROM eval_scores") == before
    replica.remote.done = True
    job_id = replica.enqueue(["four", "five", "fail six"], tags=["after"])
    replica.finish()
    assert replica.every_result_is_at_its_own_input()
    assert replica.rows("SELECT status, count(*) FROM eval_jobs GROUP BY 1") == [("completed", 3)]
    assert replica.one("SELECT count(*) FROM eval_scores") == 4
    assert replica.one("SELECT count(*), count(DISTINCT id) FROM eval_events").count > 10
    with replica.database.read() as connection:
        found = list(results_of(connection, job_id))
    assert [result.item.status for result in found] == ["completed", "completed", "failed"]
    check_schema(replica.database)


@pytest.fixture
def partitioned(replica: ManualReplica, postgres_url: str) -> ManualReplica:
    cut_by_month(postgres_url)
    return replica


def test_names_keys_and_indexes_are_those_that_migrations_know(partitioned: ManualReplica) -> None:
    assert partitioned.one(
        f"SELECT count(*) FROM pg_class WHERE relkind = 'p' AND relname = ANY (ARRAY{list(CUT)})"
    ) == len(CUT)
    indexes = {
        name for (name,) in partitioned.rows("SELECT relname FROM pg_class WHERE relkind = 'I'")
    }
    assert indexes == {
        *(f"{table}_pkey" for table in CUT),
        *("eval_items_live", "eval_items_in_flight", "eval_items_failed"),
        *("eval_events_of_job", "eval_events_of_batch"),
    }
    with pytest.raises(sa.exc.IntegrityError, match="foreign key"):
        run(
            partitioned,
            "INSERT INTO eval_items (job_id, item_index)"
            " VALUES ('01932f5e-0000-7000-8000-000000000001', 0)",
        )


def test_a_second_run_changes_nothing(partitioned: ManualReplica, postgres_url: str) -> None:
    with pytest.raises(AssertionError, match="already"):
        cut_by_month(postgres_url)
    assert run(partitioned, "SELECT eval_add_partitions()") == 0


def test_who_may_do_what_stays_as_it_was(replica: ManualReplica, postgres_url: str) -> None:
    role = "partition_worker"
    run(replica, f"CREATE ROLE {role}")
    try:
        run(replica, f"GRANT INSERT, SELECT ON eval_events, eval_scores TO {role}")
        run(replica, f"GRANT INSERT (job_id, item_index) ON eval_items TO {role}")
        run(
            replica,  # as roles.sql makes it
            "CREATE TRIGGER eval_items_of_producers AFTER INSERT ON eval_items"
            " REFERENCING NEW TABLE AS added FOR EACH STATEMENT"
            f" WHEN (current_user <> '{role}') EXECUTE FUNCTION eval_refuse_foreign_items()",
        )
        cut_by_month(postgres_url)
        job_id = replica.enqueue(["one"])
        run(replica, "UPDATE eval_jobs SET enqueued_by = 'another'")
        with pytest.raises(sa.exc.IntegrityError, match="foreign key"):
            run(replica, f"INSERT INTO eval_items (job_id, item_index) VALUES ('{job_id}', 5)")
        with replica.database.engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
            for statement in (
                "INSERT INTO eval_events (at, event) VALUES (now(), 'note')",
                f"INSERT INTO eval_items (job_id, item_index) VALUES ('{job_id}', 1)",
                "SELECT * FROM eval_scores",
            ):
                connection.exec_driver_sql(statement)
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                connection.exec_driver_sql(f"DELETE FROM eval_items WHERE job_id = '{job_id}'")
    finally:
        run(replica, f"DROP OWNED BY {role}")
        run(replica, f"DROP ROLE {role}")


def test_a_view_of_your_own_reads_on_and_ids_that_are_no_uuid7_do_no_harm(
    replica: ManualReplica, postgres_url: str
) -> None:
    run(replica, "CREATE VIEW mine AS SELECT count(*) AS inputs FROM eval_items")
    low, high = (f"{first}1932f5e-0000-4000-8000-000000000001" for first in "0f")
    for job_id in (low, high):
        put(replica, f"'{job_id}'")
    cut_by_month(postgres_url)
    replica.finish()
    assert replica.one("SELECT inputs FROM mine") == 2
    assert str(replica.one("SELECT job_id FROM eval_items_default")) == high
    assert replica.one("SELECT count(*) FROM eval_scores") == 2


def put(replica: ManualReplica, job_id: str, created: str = "now()") -> None:
    """A job of one input, by plain SQL; id and time are expressions."""
    run(
        replica,
        "WITH job AS (INSERT INTO eval_jobs (id, judge_id, created_at)"
        f" VALUES ({job_id}, 'judge', {created}) RETURNING id)"
        " INSERT INTO eval_items (job_id, item_index, request) SELECT id, 0, 'one' FROM job",
    )


@pytest.fixture
def months(replica: ManualReplica, postgres_url: str) -> ManualReplica:
    """Cut as if it had been done three months ago; since then, a finished job in each month."""
    script = SCRIPT.read_text("utf-8")
    functions = script.partition("DO $$")[0]
    with psycopg.connect(postgres_url) as connection:
        connection.execute(script.replace("now()", "(now() - interval '3 months')").encode())
        connection.execute(functions.encode())
    for age in (3, 2, 1, 0):
        moment = f"(now() - interval '{age} months')"
        put(replica, f"eval_uuid7_floor({moment})", moment)
    replica.finish()
    return replica


def test_months_are_dropped_whole_with_their_jobs(months: ManualReplica) -> None:
    kept = "date_trunc('month', now() AT TIME ZONE 'UTC' - interval '1 month')::date"
    assert run(months, f"SELECT eval_drop_partitions({kept})") == 2
    assert months.one("SELECT count(*) FROM eval_jobs") == 2
    assert months.one("SELECT count(*) FROM eval_scores") == 2
    assert months.one("SELECT count(*) FROM eval_batches") == 1
    assert months.one("SELECT to_regclass('eval_items_before') IS NULL")
    assert run(months, f"SELECT eval_drop_partitions({kept})") == 0
    assert run(months, "SELECT eval_add_partitions()") == 3
    months.enqueue(["more"])
    months.finish()
    assert months.one("SELECT count(*) FROM eval_scores") == 3


def test_batches_go_with_the_months_in_which_they_were_made(months: ManualReplica) -> None:
    run(months, "UPDATE eval_batches SET id = eval_uuid7_floor(now() - interval '3 months')")
    run(months, "SELECT eval_drop_partitions((now() - interval '1 month')::date)")
    assert months.one("SELECT count(*) FROM eval_batches") == 0


def test_a_month_with_a_job_that_has_not_ended_is_not_dropped(months: ManualReplica) -> None:
    run(
        months,
        "UPDATE eval_jobs SET status = 'pending', finished_at = NULL WHERE id < "
        "eval_uuid7_floor(now() - interval '70 days')",
    )
    with pytest.raises(sa.exc.DBAPIError, match="has not ended"):
        run(months, "SELECT eval_drop_partitions(now()::date)")
    assert months.one("SELECT count(*) FROM eval_jobs") == 4
    assert months.one("SELECT to_regclass('eval_items_before') IS NOT NULL")


def test_the_month_under_way_is_never_dropped(months: ManualReplica) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="not over"):
        run(months, "SELECT eval_drop_partitions((now() + interval '40 days')::date)")


def test_a_query_of_one_job_looks_into_one_partition(partitioned: ManualReplica) -> None:
    job_id = partitioned.enqueue(["one"])
    query = f"EXPLAIN (COSTS OFF) SELECT * FROM eval_item_results WHERE job_id = '{job_id}'"
    plan = "\n".join(line for (line,) in partitioned.rows(query))
    assert "eval_items_before" in plan
    assert "eval_items_default" not in plan


def test_the_statements_of_the_page_run(partitioned: ManualReplica) -> None:
    page = (ROOT / "docs" / "partitioning.md").read_text("utf-8")
    statements = re.findall(r'^```sql title="PostgreSQL"\n(.*?)^```$', page, re.M | re.S)
    assert [run(partitioned, statement) for statement in statements] == [0, 0]
    (command,) = re.findall(r"^psql (.*)$", page, re.M)
    assert command.split()[:-1] == [*OPTIONS, "--file", "deploy/partition.sql"]


def test_the_schema_goes_and_comes_again(partitioned: ManualReplica) -> None:
    downgrade(partitioned.database)
    upgrade(partitioned.database)
    partitioned.enqueue(["one"])
    partitioned.finish()
