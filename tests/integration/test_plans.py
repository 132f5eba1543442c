"""What the worker does for each batch reads by an index, however many rows there are."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.consoles import open_console
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker import enqueue
from worker.metrics.collector import read_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.store.database import Database

# Tables that grow: a statement that reads one as a whole costs more with every job.
LARGE = ("eval_items", "eval_evaluator_results", "eval_events", "eval_batches", "eval_jobs")
WHOLE = {
    "postgresql": re.compile(rf"Seq Scan on ({'|'.join(LARGE)})"),
    "sqlite": re.compile(rf"SCAN ({'|'.join(LARGE)})(?! USING (COVERING )?INDEX)"),
}
NEW_INPUTS = 400  # of each of two jobs that the statistics do not know yet
OTHER_INPUTS = 20_000  # of a job that nothing asks about
SORTS = "TEMP B-TREE"  # of SQLite; PostgreSQL sorts what an index gave it, and only so much


@pytest.fixture
def postgres_url(new_postgres_url: str) -> str:
    return new_postgres_url


@contextmanager
def noticing(engine: sa.Engine | type[sa.Engine], seen: dict[str, Any]) -> Iterator[None]:
    """Every statement that runs meanwhile, with one set of its parameters."""

    def notice(_c: Any, _cursor: Any, sql: str, given: Any, _context: Any, many: bool) -> None:
        if sql.split()[0] in ("SELECT", "UPDATE", "DELETE", "WITH"):
            seen[sql] = given[0] if many else given

    sa.event.listen(engine, "before_cursor_execute", notice)
    yield
    sa.event.remove(engine, "before_cursor_execute", notice)


def plan_of(connection: sa.Connection, sql: str, given: Any) -> str:
    postgresql = connection.dialect.name == "postgresql"
    explain = "EXPLAIN " if postgresql else "EXPLAIN QUERY PLAN "
    rows = connection.exec_driver_sql(explain + sql, given).all()
    return "\n".join(str(row[-1]) for row in rows)


def test_no_step_of_a_batch_reads_a_whole_table(database: Database) -> None:
    statements: dict[str, Any] = {}
    remote = FakeJudgeAPI()
    replica = ManualReplica(database, remote, batch_size=2, max_item_attempts=2)
    cancelled = replica.enqueue(["cancelled"])
    replica.enqueue([f"question {n}" for n in range(5)] + ["fail always"])
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE eval_items SET status = 'cancelled', finished_at = due_at"
            f" WHERE job_id = '{cancelled}'"
        )
    remote.next_answer(remote.accept_and_lose)
    with noticing(database.engine, statements):
        replica.step()
        replica.list_watcher.turn()
    for _ in range(10):
        replica.pass_time()
        with noticing(database.engine, statements):
            replica.step()
    assert replica.open_jobs() == 0
    assert len(statements) > 20
    found = []
    with database.engine.connect() as connection:
        dialect = connection.dialect.name
        for sql, given in list(statements.items()):
            plan = plan_of(connection, sql, given)
            if WHOLE[dialect].search(plan):
                found.append(f"{sql}\n{plan}")
            if dialect == "sqlite" and SORTS in plan and "eval_items.due_at" in sql:
                found.append(f"{sql}\n{plan}")
    assert not found, "\n\n".join(found)


def test_no_look_of_a_scrape_reads_a_whole_table(database: Database) -> None:
    statements: dict[str, Any] = {}
    with noticing(database.engine, statements):
        read_snapshot(database, 50)
    assert len(statements) >= 5
    with database.engine.connect() as connection:
        for sql, given in statements.items():
            plan = plan_of(connection, sql, given)
            if connection.dialect.name == "sqlite":
                assert not WHOLE["sqlite"].search(plan), plan
            else:  # of empty tables, as these are, PostgreSQL may read a small one as a whole
                assert "Seq Scan on eval_items" not in plan, plan
            for index in re.findall(r"eval_items USING (?:COVERING )?INDEX (\w+)", plan):
                assert index in ("eval_items_live", "eval_items_in_flight"), plan


def test_a_large_job_that_no_statistics_know_is_planned_item_by_item(database: Database) -> None:
    statements: dict[str, Any] = {}
    with database.engine.begin() as connection:
        enqueue(connection, judge_id="judge", inputs=[{"request": "question"}] * 10_000)
        if connection.dialect.name == "postgresql":  # as right after it was enqueued
            connection.exec_driver_sql("ALTER TABLE eval_items SET (autovacuum_enabled = off)")
    with noticing(database.engine, statements):
        ManualReplica(database, FakeJudgeAPI(), batch_size=100).dispatcher.turn()
    [(sql, given)] = [(s, g) for s, g in statements.items() if s.startswith("UPDATE eval_items")]
    with database.engine.connect() as connection:
        plan = plan_of(connection, sql, given)
    by_item = {
        "postgresql": r"Index Cond: .*job_id.*item_index",
        "sqlite": r"job_id=\? AND item_index>",
    }
    assert re.search(by_item[database.engine.dialect.name], plan), plan


def test_pages_look_rows_up_before_the_statistics_know_of_a_new_job(
    database_of_postgres: Database,
) -> None:
    database = database_of_postgres
    tables = ("eval_jobs", "eval_items", "eval_evaluator_results", "eval_batches")
    with database.engine.begin() as connection:
        for table in tables:
            connection.exec_driver_sql(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    replica = ManualReplica(database, FakeJudgeAPI(), batch_size=NEW_INPUTS)
    replica.enqueue(["x", "xx"])
    replica.finish()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
    first, second = (
        replica.enqueue([f"{'x' * (n % 90)} {n}" for n in range(NEW_INPUTS)]) for _ in range(2)
    )
    replica.finish()
    job = f"/jobs/{second}"
    statements: dict[str, Any] = {}
    with open_console(database) as client, noticing(sa.Engine, statements):
        for path in (
            f"{job}?cluster=id",
            f"{job}/inputs?sort=worst",
            f"{job}/inputs?sort=best&min=0.1&max=0.5&evaluator=length",
            f"{job}/inputs/7?sort=spread",
            f"{job}/inputs.jsonl",
            f"{job}/report.html?against={first}&cluster=id",
            f"/compare?a={first}&b={second}",
            f"/compare?a={first}&b={second}&by=request&cluster=id",
        ):
            client.get(path).raise_for_status()
    visited = _most_rows_visited(database, statements)
    assert len(visited) > 20
    too_many = {sql: rows for sql, rows in visited.items() if rows > 10 * NEW_INPUTS}
    assert not too_many


def test_two_jobs_are_compared_by_request_without_the_inputs_of_others(
    database_of_postgres: Database,
) -> None:
    database = database_of_postgres
    replica = ManualReplica(database, FakeJudgeAPI(), batch_size=NEW_INPUTS)
    first, second = (
        replica.enqueue([f"question {n}" for n in range(NEW_INPUTS)]) for _ in range(2)
    )
    replica.finish()
    with database.engine.begin() as connection:
        others = [{"request": f"other {n}"} for n in range(OTHER_INPUTS)]
        enqueue(connection, judge_id="judge", inputs=others)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
    statements: dict[str, Any] = {}
    with open_console(database) as client, noticing(sa.Engine, statements):
        client.get(f"/compare?a={first}&b={second}&by=request").raise_for_status()
    visited = _most_rows_visited(database, statements)
    assert {sql: rows for sql, rows in visited.items() if rows >= OTHER_INPUTS} == {}


def _most_rows_visited(database: Database, statements: dict[str, Any]) -> dict[str, float]:
    """How many rows the widest node of each statement's plan has read."""
    visited = {}
    with database.engine.connect() as connection:
        for name in ("enable_seqscan", "enable_bitmapscan"):  # as for readers
            connection.exec_driver_sql(f"SET LOCAL {name} = on")
        for sql, given in statements.items():
            explain = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) "
            plan = connection.exec_driver_sql(explain + sql, given).scalar_one()
            visited[sql] = max(_rows_visited(plan[0]["Plan"]))
    return visited


def _rows_visited(node: dict[str, Any]) -> Iterator[float]:
    """How many rows each node of a plan has read, also those that it dropped."""
    rows = node["Actual Rows"] + sum(
        number for name, number in node.items() if name.startswith("Rows Removed")
    )
    yield rows * node["Actual Loops"]
    for child in node.get("Plans", ()):
        yield from _rows_visited(child)
