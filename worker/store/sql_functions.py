"""Define SQL expressions that PostgreSQL and SQLite spell differently."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from worker.store.column_types import UtcTime


class later(FunctionElement[datetime]):  # noqa: N801 (reads as a SQL function)
    """The database's time plus a number of seconds.

    PostgreSQL's clock counts, as there may be several machines. On SQLite, `eval_now` is a function
    of the connection (see `store.database`), so that tests can replace the clock.
    """

    type = UtcTime()
    inherit_cache = True


@compiles(later, "postgresql")
def _later_on_postgresql(element: later, compiler: Any, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"(clock_timestamp() + make_interval(secs => CAST({seconds} AS double precision)))"


@compiles(later, "sqlite")
def _later_on_sqlite(element: later, compiler: Any, **kw: Any) -> str:
    return f"eval_now({compiler.process(element.clauses, **kw)})"


def now() -> later:
    return later(sa.literal_column("0.0"))


class seconds_between(FunctionElement[float]):  # noqa: N801 (reads as a SQL function)
    """The seconds from one time to another; NULL if a time is infinite or, on SQLite, invalid."""

    type = sa.Double()
    inherit_cache = True


@compiles(seconds_between, "postgresql")
def _seconds_on_postgresql(element: seconds_between, compiler: Any, **kw: Any) -> str:
    begin, end = (compiler.process(clause, **kw) for clause in element.clauses)
    return (
        f"CASE WHEN isfinite({begin}) AND isfinite({end})"
        f" THEN CAST(extract(epoch FROM {end} - {begin}) AS double precision) END"
    )


@compiles(seconds_between, "sqlite")
def _seconds_on_sqlite(element: seconds_between, compiler: Any, **kw: Any) -> str:
    begin, end = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"((julianday({end}) - julianday({begin})) * 86400.0)"


class octet_length(FunctionElement[int]):  # noqa: N801 (reads as a SQL function)
    """The length of a text in bytes; SQLite has this function only since 3.43."""

    type = sa.Integer()
    inherit_cache = True


@compiles(octet_length, "postgresql")
def _octet_length_on_postgresql(element: octet_length, compiler: Any, **kw: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **kw)})"


@compiles(octet_length, "sqlite")
def _octet_length_on_sqlite(element: octet_length, compiler: Any, **kw: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **kw)} AS BLOB))"


class text_at(FunctionElement[str]):  # noqa: N801 (reads as a SQL function)
    """The text at a key of a JSON object; SQLite has `->>` only since 3.38."""

    type = sa.Text()
    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any], name: str) -> None:
        super().__init__(column, sa.literal(name, sa.Text()))


@compiles(text_at, "postgresql")
def _text_at_on_postgresql(element: text_at, compiler: Any, **kw: Any) -> str:
    column, name = element.clauses
    return f"({compiler.process(column, **kw)} ->> {compiler.process(name, **kw)})"


@compiles(text_at, "sqlite")
def _text_at_on_sqlite(element: text_at, compiler: Any, **kw: Any) -> str:
    column, name = element.clauses
    return f"json_extract({compiler.process(column, **kw)}, '$.' || {compiler.process(name, **kw)})"


def among(column: sa.ColumnElement[str], words: Iterable[str]) -> sa.ColumnElement[bool]:
    """Build `column IN ('...', ...)` with literals.

    Parameters would be expanded at each execution, and would not match a partial index.
    """
    return column.in_([sa.literal_column(f"'{word}'") for word in words])
