"""Straight to the driver, where SQLAlchemy's own execution costs several times the statement's."""

from __future__ import annotations

from collections import namedtuple
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    Converter = Callable[[Any], Any]


@contextmanager
def errors_as_sqlalchemys(connection: sa.Connection) -> Iterator[None]:
    """What the driver raises, as SQLAlchemy would have raised it; a broken connection is given up.

    Else nobody would know that the transaction is worth another try.
    """
    dialect, driver = connection.dialect, connection.connection.dbapi_connection
    kind: Any = dialect.loaded_dbapi.Error
    try:
        yield
    except kind as error:
        broke = dialect.is_disconnect(error, driver, None)
        if broke:
            connection.invalidate(error)
        raise sa.exc.DBAPIError.instance(
            None, None, error, kind, connection_invalidated=broke, dialect=dialect
        ) from error


class Often:
    """A SELECT that is run very often: put together once for each database.

    Its rows have the names of the columns, and values as SQLAlchemy would give them.
    """

    def __init__(self, select: sa.Select[Any]) -> None:
        self._select = select
        row = namedtuple("Row", [column.name for column in select.selected_columns])  # type: ignore[misc]
        self._row: Callable[[Iterable[Any]], Any] = row._make
        self._made: dict[str, _Made] = {}

    def all(self, connection: sa.Connection, given: Mapping[str, Any]) -> list[Any]:
        dialect = connection.dialect
        made = self._made.get(dialect.name)
        if made is None:
            made = self._made[dialect.name] = _make(self._select, dialect)
        with errors_as_sqlalchemys(connection):
            cursor = connection.connection.cursor()
            cursor.execute(made.statement, made.parameters(given))
            found: Sequence[Any] = cursor.fetchall()
            cursor.close()
        return [self._row(made.values(row)) for row in found]


@dataclass(frozen=True, slots=True)
class _Made:
    statement: str
    bound: Mapping[str, Converter]
    found: Mapping[int, Converter]  # by place; the other columns are what the driver gives

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        bound = dict(given)
        for name, convert in self.bound.items():
            bound[name] = convert(bound[name])
        return bound

    def values(self, row: Iterable[Any]) -> list[Any]:
        values = list(row)
        for place, convert in self.found.items():
            values[place] = convert(values[place])
        return values


def _make(select: sa.Select[Any], dialect: sa.Dialect) -> _Made:
    """With names for its parameters, which both drivers take.

    Only our own types need to be converted: both drivers give and take texts and numbers.
    """
    style = "pyformat" if dialect.name == "postgresql" else "named"
    compiled = select.compile(dialect=type(dialect)(paramstyle=style))  # type: ignore[call-arg]
    bound = {
        name: convert
        for name, parameter in compiled.binds.items()
        if (convert := _own(parameter.type, dialect).bind_processor(dialect)) is not None
    }
    found = {
        place: convert
        for place, column in enumerate(select.selected_columns)
        if (convert := _own(column.type, dialect).result_processor(dialect, None)) is not None
    }
    return _Made(str(compiled), bound, found)


def _own(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
    return kind.dialect_impl(dialect) if isinstance(kind, sa.types.TypeDecorator) else sa.Text()
