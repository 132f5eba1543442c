"""Many rows in one go, the way each database and driver is fastest at it.

SQLite is in the process: there a statement repeated row by row costs little. On PostgreSQL each
repetition is planned, sent and answered, so all rows travel together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from worker.store.column_types import Json
from worker.store.database import Transaction


class UpdateEach:
    """An update of many rows, each by values of its own; written once for both databases.

    `build` makes the statement out of an object whose attributes are the given `columns`, one
    value a row, and those of `shared`, one for all.
    """

    def __init__(
        self,
        build: Callable[[Any], sa.Update],
        *,
        shared: Mapping[str, type[sa.types.TypeEngine[Any]]],
        **columns: type[sa.types.TypeEngine[Any]],
    ) -> None:
        common = {name: sa.bindparam(name, type_=kind) for name, kind in shared.items()}
        bound = {name: sa.bindparam(name, type_=kind) for name, kind in columns.items()}
        self._row_by_row = build(SimpleNamespace(**common, **bound))
        records = sa.func.jsonb_to_recordset(sa.bindparam("rows", type_=Json)).table_valued(
            *(sa.column(name, kind) for name, kind in columns.items()), name="given"
        )
        given = records.render_derived(with_types=True).c
        own = {name: given[name] for name in columns}
        self._at_once = build(SimpleNamespace(**common, **own))

    def run(self, tx: Transaction, rows: Sequence[Mapping[str, Any]], **shared: Any) -> None:
        if not rows:
            return
        if not tx.on_postgresql:
            tx.execute(self._row_by_row, [{**row, **shared} for row in rows])
            return
        as_json = [
            {name: str(value) if isinstance(value, UUID) else value for name, value in row.items()}
            for row in rows
        ]
        tx.execute(self._at_once, {"rows": as_json, **shared})


def insert_rows(
    connection: sa.Connection,
    table: sa.Table,
    columns: tuple[str, ...],
    rows: Sequence[tuple[object, ...]],
) -> None:
    """Inserts rows of plain values: ids are text, and so is JSON."""
    names = ", ".join(columns)
    dialect = connection.dialect
    if dialect.name != "postgresql":
        places = ", ".join("?" * len(columns))
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) VALUES ({places})",  # noqa: S608 (our own names)
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
        broken = driver.closed
        if broken:
            connection.invalidate(error)
        raise sa.exc.DBAPIError(statement, None, error, connection_invalidated=broken) from error


@lru_cache
def _insert_records(table: sa.Table, columns: tuple[str, ...]) -> sa.Insert:
    """For any driver: all rows as one JSON document."""
    row = sa.func.jsonb_array_elements(sa.bindparam("rows", type_=Json)).table_valued("value")
    values = [
        sa.cast(row.c.value.op("->>")(sa.literal_column(f"{place}")), table.c[name].type)
        for place, name in enumerate(columns)
    ]
    return sa.insert(table).from_select(list(columns), sa.select(*values).select_from(row))
