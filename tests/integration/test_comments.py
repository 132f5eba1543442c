"""Every table, view and column is explained: in the code, on the page, and in PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from worker.store.comments import all_comments
from worker.store.migrate import upgrade
from worker.store.views import view_metadata

if TYPE_CHECKING:
    from worker.store.database import Database

COMMENTS: dict[str, dict[str, str | None]] = {}
for relation, column, text in all_comments():
    COMMENTS.setdefault(relation, {})[column] = text
SAID = """
    SELECT c.relname, coalesce(a.attname, ''), d.description
    FROM pg_description d
    JOIN pg_class c ON d.classoid = 'pg_class'::regclass AND d.objoid = c.oid
    LEFT JOIN pg_attribute a ON d.objsubid > 0 AND a.attrelid = c.oid AND a.attnum = d.objsubid
    WHERE c.relname LIKE 'eval\\_%'
"""


def said_in(database: Database) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    with database.read() as connection:
        for relation, column, text in connection.exec_driver_sql(SAID.replace("%", "%%")):
            found.setdefault(relation, {})[column] = text
    return found


def test_every_relation_and_column_is_explained_and_no_other(database: Database) -> None:
    with database.read() as connection:
        inspector = sa.inspect(connection)
        relations = {*inspector.get_table_names(), *inspector.get_view_names()}
        there = {
            name: {column["name"] for column in inspector.get_columns(name)}
            for name in relations
            if name.startswith("eval_")
        }
    assert there == {name: {*columns} - {""} for name, columns in COMMENTS.items()}
    assert all(text for _, _, text in all_comments())


def test_postgresql_knows_the_explanations(database_of_postgres: Database) -> None:
    assert said_in(database_of_postgres) == COMMENTS


def test_migrating_again_mends_what_was_changed(database_of_postgres: Database) -> None:
    with database_of_postgres.engine.begin() as connection:
        connection.exec_driver_sql("COMMENT ON COLUMN eval_scores.score IS 'outdated'")
        connection.exec_driver_sql("COMMENT ON TABLE eval_jobs IS NULL")
    upgrade(database_of_postgres)
    assert said_in(database_of_postgres) == COMMENTS


def test_migrating_again_locks_no_table_whose_explanations_are_there(
    database_of_postgres: Database,
) -> None:
    with database_of_postgres.engine.begin() as connection:
        # What VACUUM takes: a comment would wait for it.
        connection.exec_driver_sql("LOCK TABLE eval_jobs IN SHARE UPDATE EXCLUSIVE MODE")
        upgrade(database_of_postgres)


@pytest.mark.parametrize("view", view_metadata.tables)
def test_the_types_of_the_views_are_those_of_postgresql(
    database_of_postgres: Database, view: str
) -> None:
    with database_of_postgres.read() as connection:
        dialect = connection.dialect
        there = {
            column["name"]: column["type"].compile(dialect=dialect)
            for column in sa.inspect(connection).get_columns(view)
        }
    declared = view_metadata.tables[view].columns
    assert there == {column.name: column.type.compile(dialect=dialect) for column in declared}
