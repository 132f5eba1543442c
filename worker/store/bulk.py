"""Update or insert many rows, in the way that is fastest for each database.

SQLite runs in this process, where repeating a statement for each row is cheap. On PostgreSQL each
repetition costs planning and a round trip, so all rows travel together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from worker.store.column_types import Json
from worker.store.postgres_session import is_lost_session
from worker.store.transaction import Transaction


class BulkUpdate:
    """An update of many rows, each with its own values.

    `build` returns the statement. It gets an object with an attribute for each name of `columns`,
    which differ from row to row, and of `shared`, which are the same for all rows.
    """

    def __init__(
        self,
        build: Callable[[Any], sa.Update],
        *,
        shared: Mapping[str, type[sa.types.TypeEngine[Any]]] = MappingProxyType({}),
        **columns: type[sa.types.TypeEngine[Any]],
    ) -> None:
        common = {name: sa.bindparam(name, type_=kind) for name, kind in shared.items()}
        bound = {name: sa.bindparam(name, type_=kind) for name, kind in columns.items()}
        self._for_one_row = build(SimpleNamespace(**common, **bound))
        records = sa.func.jsonb_to_recordset(sa.bindparam("rows", type_=Json)).table_valued(
            *(sa.column(name, kind) for name, kind in columns.items()), name="given"
        )
        given = records.render_derived(with_types=True).c
        own = {name: given[name] for name in columns}
        self._for_all_rows = build(SimpleNamespace(**common, **own))

    def run(self, tx: Transaction, rows: Sequence[Mapping[str, Any]], **shared: Any) -> int:
        """Update all `rows`, which have a key for each of the columns; return how many there were.

        Rows that no longer meet the statement's conditions are left as they are.
        """
        if not rows:
            return 0
        if not tx.on_postgresql:
            return tx.execute(self._for_one_row, [{**row, **shared} for row in rows]).rowcount
        as_json = [
            {name: str(value) if isinstance(value, UUID) else value for name, value in row.items()}
            for row in rows
        ]
        return tx.execute(self._for_all_rows, {"rows": as_json, **shared}).rowcount


def insert_rows(
    connection: sa.Connection,
    table: sa.Table,
    columns: tuple[str, ...],
    rows: Sequence[tuple[object, ...]],
) -> None:
    """Insert rows of plain values, in which ids and JSON are text."""
    names = ", ".join(columns)
    dialect = connection.dialect
    if dialect.name != "postgresql":
        placeholders = ", ".join("?" * len(columns))
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) VALUES ({placeholders})",  # noqa: S608 (our own names)
            list(rows),
        )
    elif dialect.driver == "psycopg" and not dialect.is_async:
        _copy_rows(connection, f"COPY {table.name} ({names}) FROM STDIN", rows)
    else:
        connection.execute(_insert_records(table, columns), {"rows": rows})


def _copy_rows(
    connection: sa.Connection, statement: str, rows: Sequence[tuple[object, ...]]
) -> None:
    """Run a COPY by psycopg itself, as SQLAlchemy has none; raise its errors as SQLAlchemy's.

    `Database.run` retries by SQLAlchemy's errors, and only if they say that the connection broke.
    """
    driver: Any = connection.connection.driver_connection
    dialect: Any = connection.dialect
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except dialect.loaded_dbapi.Error as error:
        broken = driver.closed or is_lost_session(error)
        if broken:
            connection.invalidate(error)
        raise sa.exc.DBAPIError(statement, None, error, connection_invalidated=broken) from error


@lru_cache
def _insert_records(table: sa.Table, columns: tuple[str, ...]) -> sa.Insert:
    """Return an insert for any driver, which takes all rows as one JSON document."""
    row = sa.func.jsonb_array_elements(sa.bindparam("rows", type_=Json)).table_valued("value")
    values = [
        sa.cast(row.c.value.op("->>")(sa.literal_column(f"{index}")), table.c[name].type)
        for index, name in enumerate(columns)
    ]
    return sa.insert(table).from_select(list(columns), sa.select(*values).select_from(row))
