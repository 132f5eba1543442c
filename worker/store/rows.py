"""Turn the rows of statements into named tuples, so that strict typing sees what leaves `store`."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

Row = TypeVar("Row", bound=NamedTuple)


def select_rows(
    kind: type[Row], table: sa.Table, **expressions: sa.ColumnElement[Any]
) -> sa.Select[Any]:
    """Select the columns and expressions that `kind` has fields for, in the order of the fields."""
    named = {name: expression.label(name) for name, expression in expressions.items()}
    columns = {**table.c, **named}
    return sa.select(*(columns[name] for name in kind._fields))


def read_rows(connection: sa.Connection, kind: type[Row], statement: sa.Select[Any]) -> list[Row]:
    """Run a statement, and return a `kind` for each row."""
    return [kind._make(row) for row in connection.execute(statement)]
