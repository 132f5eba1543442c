"""Straight to the driver, where SQLAlchemy's own execution costs several times the statement's."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

Converter = Callable[[Any], Any]
Ask = Callable[["Often", Mapping[str, Any]], Awaitable[Sequence[Any]]]


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
        raise as_sqlalchemys(error, dialect, broke=broke) from error


def as_sqlalchemys(error: Exception, dialect: sa.Dialect, *, broke: bool = False) -> Exception:
    kind: Any = dialect.loaded_dbapi.Error
    return sa.exc.DBAPIError.instance(
        None, None, error, kind, connection_invalidated=broke, dialect=dialect
    )


class Often:
    """A statement that is run very often: put together once for each database.

    Its rows have the names of the columns, and values as SQLAlchemy would give them.
    """

    def __init__(self, select: sa.Select[Any]) -> None:
        self._select = select
        row = namedtuple("Row", [column.name for column in select.selected_columns])  # type: ignore[misc]
        self._row: Callable[[Iterable[Any]], Any] = row._make
        self._made: dict[str, Made] = {}

    def made_for(self, dialect: sa.Dialect) -> Made:
        made = self._made.get(dialect.name)
        if made is None:
            made = self._made[dialect.name] = _make(self._select, self._row, dialect)
        return made

    def all(self, connection: sa.Connection, given: Mapping[str, Any]) -> list[Any]:
        """On SQLite, for which see `pipeline` too."""
        made = self.made_for(connection.dialect)
        with errors_as_sqlalchemys(connection):
            cursor = connection.connection.cursor()
            cursor.execute(made.statement, made.bind(given))
            found: Sequence[Any] = cursor.fetchall()
            cursor.close()
        return made.rows(found)


@dataclass(frozen=True, slots=True)
class Made:
    """A statement in the driver's words."""

    statement: str
    names: Sequence[str]  # of its parameters, in their order
    bound: Mapping[str, Converter]
    found: Mapping[int, Converter]  # by place; the other columns are what the driver gives
    row: Callable[[Iterable[Any]], Any]

    def bind(self, given: Mapping[str, Any]) -> list[Any]:
        return [
            self.bound[name](given[name]) if name in self.bound else given[name]
            for name in self.names
        ]

    def rows(self, found: Iterable[Any]) -> list[Any]:
        return [self.row(self._values(row)) for row in found]

    def _values(self, row: Iterable[Any]) -> list[Any]:
        values = list(row)
        for place, convert in self.found.items():
            values[place] = convert(values[place])
        return values


def _make(select: sa.Select[Any], row: Callable[[Iterable[Any]], Any], dialect: sa.Dialect) -> Made:
    """With places for its parameters, as libpq and SQLite number them.

    Only our own types need to be converted: both drivers give and take texts and numbers.
    """
    style = "numeric_dollar" if dialect.name == "postgresql" else "qmark"
    compiled: Any = select.compile(dialect=type(dialect)(paramstyle=style))  # type: ignore[call-arg]
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
    return Made(str(compiled), compiled.positiontup, bound, found, row)


def _own(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
    return kind.dialect_impl(dialect) if isinstance(kind, sa.types.TypeDecorator) else sa.Text()
