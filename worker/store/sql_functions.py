"""Define SQL expressions that PostgreSQL and SQLite spell differently."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from worker.store.column_types import Json, UtcTime


def _spell(function: type[FunctionElement[Any]], *, postgresql: str, sqlite: str) -> None:
    """Declare how each database spells a function; `{0}` is its first argument."""

    def declare(dialect: str, template: str) -> None:
        @compiles(function, dialect)
        def compiled(element: FunctionElement[Any], compiler: Any, **kw: Any) -> str:
            return template.format(*(compiler.process(part, **kw) for part in element.clauses))

    declare("postgresql", postgresql)
    declare("sqlite", sqlite)


class later(FunctionElement[datetime]):  # noqa: N801 (reads as a SQL function)
    """The database's time, plus so many seconds.

    PostgreSQL's own clock rules where there are several machines. SQLite has one machine; there
    `eval_now` is a function of the connection (see `store.database`), which tests can replace.
    """

    type = UtcTime()
    inherit_cache = True


_spell(
    later,
    postgresql="(clock_timestamp() + make_interval(secs => CAST({0} AS double precision)))",
    sqlite="eval_now({0})",
)


class looked_up(FunctionElement[Any]):  # noqa: N801 (reads as a SQL function)
    """A key by which rows are looked up, whatever PostgreSQL expects of their number.

    Until a new job is in its statistics, it expects one row of it, and would compare all rows of
    two tables with each other. It does not see through this expression, and so not that the rows
    on both sides are those of one job.
    """

    inherit_cache = True


_spell(looked_up, postgresql="coalesce({0}, {0})", sqlite="{0}")


def now() -> later:
    return later(sa.literal_column("0.0"))


class seconds_between(FunctionElement[float]):  # noqa: N801 (reads as a SQL function)
    """From one moment to another; NULL where a producer wrote what is no moment, or no end."""

    type = sa.Double()
    inherit_cache = True


_spell(
    seconds_between,
    postgresql="CASE WHEN isfinite({0}) AND isfinite({1})"
    " THEN CAST(extract(epoch FROM {1} - {0}) AS double precision) END",
    sqlite="((julianday({1}) - julianday({0})) * 86400.0)",
)


class octet_length(FunctionElement[int]):  # noqa: N801 (reads as a SQL function)
    """Bytes of a text; SQLite has the function only since 3.43."""

    type = sa.Integer()
    inherit_cache = True


_spell(octet_length, postgresql="octet_length({0})", sqlite="length(CAST({0} AS BLOB))")


class text_at(FunctionElement[str]):  # noqa: N801 (reads as a SQL function)
    """The text under a name of a JSON object; SQLite has `->>` only since 3.38."""

    type = sa.Text()
    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any], name: str | sa.ColumnElement[str]) -> None:
        super().__init__(column, sa.literal(name, sa.Text()) if isinstance(name, str) else name)


_spell(text_at, postgresql="({0} ->> {1})", sqlite="json_extract({0}, '$.' || {1})")


class value_at(FunctionElement[str]):  # noqa: N801 (reads as a SQL function)
    """The value under a name of a JSON object, as text; NULL where there is none.

    Any name is possible. What plain SQL wrote on SQLite and is no JSON has no values.
    """

    type = sa.Text()
    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any], name: str) -> None:
        super().__init__(column, sa.literal(name, sa.Text()))


_spell(
    value_at,
    postgresql="({0} ->> {1})",
    sqlite="(SELECT CASE WHEN type IN ('true', 'false') THEN type ELSE CAST(value AS TEXT) END"
    " FROM json_each(CASE WHEN json_valid({0}) THEN {0} END) WHERE key = {1})",
)


class has_element(FunctionElement[bool]):  # noqa: N801 (reads as a SQL function)
    """Whether a JSON array has this text; no array, and invalid JSON on SQLite, has none."""

    type = sa.Boolean()
    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any], text: str) -> None:
        super().__init__(column, sa.literal(text, sa.Text()))


_spell(
    has_element,
    postgresql="({0} @> jsonb_build_array({1}))",
    sqlite="EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid({0}) THEN {0} END)"
    " WHERE value = {1} AND type = 'text')",
)


class has_pair(FunctionElement[bool]):  # noqa: N801 (reads as a SQL function)
    """Whether a JSON object has this name with this value, as text."""

    type = sa.Boolean()
    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any], name: str, value: str) -> None:
        super().__init__(column, sa.literal(name, sa.Text()), sa.literal(value, sa.Text()))


_spell(
    has_pair,
    postgresql="(({0} ->> {1}) = {2})",
    sqlite="EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid({0}) THEN {0} END)"
    " WHERE key = {1} AND {2} = CASE WHEN type IN ('true', 'false') THEN type"
    " ELSE CAST(value AS TEXT) END)",
)


class json_array(FunctionElement[Any]):  # noqa: N801 (reads as a SQL function)
    """A JSON array of any number of values."""

    type = Json()
    inherit_cache = True


@compiles(json_array, "postgresql")
def _array_on_postgresql(element: json_array, compiler: Any, **kw: Any) -> str:
    return f"jsonb_build_array({compiler.process(element.clauses, **kw)})"


@compiles(json_array, "sqlite")
def _array_on_sqlite(element: json_array, compiler: Any, **kw: Any) -> str:
    return f"json_array({compiler.process(element.clauses, **kw)})"


def among(column: sa.ColumnElement[str], words: Iterable[str]) -> sa.ColumnElement[bool]:
    """Build `column IN ('...', ...)` with literals.

    Parameters would be expanded at each execution, and would not match a partial index.
    """
    return column.in_([sa.literal_column(f"'{word}'") for word in words])
