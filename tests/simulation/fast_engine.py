"""SQLAlchemy's way to a database in memory, without what most of its time goes to.

The product's statements stand ready-made. Each is compiled once by SQLAlchemy, with its types, and
then goes straight to sqlite3; whatever is built anew for each execution, or needs more than that,
takes SQLAlchemy's own way on the same connection. A test holds both ways to the same history.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

import sqlalchemy as sa
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.sql.compiler import SQLCompiler


class FastEngine:
    """As much of an engine as the product uses; `trouble` may raise before and after commits."""

    def __init__(self, raw: sqlite3.Connection, trouble: Callable[[str], None]) -> None:
        self.raw = raw
        self.trouble = trouble
        self._plain = sa.create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
        self.connection = FastConnection(raw, self._plain.connect())

    @contextmanager
    def begin(self) -> Iterator[FastConnection]:
        self.raw.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
            self.trouble("busy")
            self.raw.execute("COMMIT")
            self.trouble("lost_commit")
        except BaseException:
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")
            raise

    def dispose(self) -> None:
        self.connection.plain.close()
        self._plain.dispose()


class FastConnection:
    """As much of a connection as the product uses."""

    def __init__(self, raw: sqlite3.Connection, plain: sa.Connection) -> None:
        self.raw = raw
        self.plain = plain
        self.dialect = plain.dialect
        self._seen: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._prepared: dict[Any, tuple[Any, Prepared | None]] = {}

    def execute(self, statement: Any, given: Any = None) -> Any:
        prepared = self._prepare(statement, given)
        if prepared is None:
            return self.plain.execute(statement, given)
        try:
            return prepared.run(self.raw, given)
        except sqlite3.Error as error:
            raise DBAPIError.instance(prepared.sql, given, error, sqlite3.Error) from error

    def exec_driver_sql(self, statement: str, rows: list[Any]) -> Any:
        return Counted(self.raw.executemany(statement, rows))

    def scalar(self, statement: Any, given: Any = None) -> Any:
        return self.execute(statement, given).scalar()

    def scalars(self, statement: Any, given: Any = None) -> Any:
        return self.execute(statement, given).scalars()

    def _prepare(self, statement: Any, given: Any) -> Prepared | None:
        first = given[0] if isinstance(given, list) else given
        key = (id(statement), tuple(map(_shape, first.items())) if first else ())
        if key in self._prepared:
            return self._prepared[key][1]
        if statement is None or self._seen.get(id(statement)) is not statement:
            self._seen[id(statement)] = statement  # maybe built for this once
            return None
        compiled = cast("Any", statement).compile(
            dialect=self.dialect, column_keys=list(first or ())
        )
        # A list of values inside of the statement itself is nothing that the key would show.
        by_value = compiled.literal_execute_params or {
            bind.key for bind in compiled.post_compile_params
        } - set(first or ())
        prepared = None if by_value else Prepared(compiled, first)
        self._prepared[key] = (statement, prepared)  # kept, so that its id stays its own
        return prepared


def plain_connection(connection: Any) -> sa.Connection:
    """SQLAlchemy's own connection, in the same transaction."""
    return cast("sa.Connection", getattr(connection, "plain", connection))


def _shape(parameter: tuple[str, Any]) -> Any:
    """A list of values is spelled out in the SQL: its length matters."""
    name, value = parameter
    return (name, len(value)) if isinstance(value, list | tuple) else name


class Prepared:
    """A statement as SQL, with what its types do to parameters and columns."""

    def __init__(self, compiled: SQLCompiler, given: Any) -> None:
        dialect = compiled.dialect
        expanded = compiled.construct_expanded_state(given)
        self.sql = expanded.statement
        self.names = expanded.positiontup or ()
        self.lists = expanded.parameter_expansion
        self.defaults = dict(expanded.parameters)
        self.binds = {**compiled._bind_processors, **expanded.processors}
        columns = compiled._result_columns
        self.metadata = SimpleResultMetaData([column.keyname for column in columns])
        self.readers = [
            (position, reader)
            for position, column in enumerate(columns)
            if (reader := column.type._cached_result_processor(dialect, None)) is not None
        ]
        self.returns_rows = bool(columns)

    def run(self, raw: sqlite3.Connection, given: Any) -> Any:
        if isinstance(given, list):
            return Counted(raw.executemany(self.sql, [self._values(each) for each in given]))
        cursor = raw.execute(self.sql, self._values(given))
        if not self.returns_rows:
            return Counted(cursor)
        rows = cursor.fetchall()
        return IteratorResult(self.metadata, iter([self._read(row) for row in rows]))

    def _values(self, given: Any) -> list[Any]:
        values = {**self.defaults, **given} if given else self.defaults
        for name, names in self.lists.items():
            values.update(zip(names, given[name], strict=True))
        binds = self.binds
        return [
            binds[name](values[name]) if name in binds else values[name]  # type: ignore[operator]
            for name in self.names
        ]

    def _read(self, row: Any) -> tuple[Any, ...]:
        values = list(row)
        for position, reader in self.readers:
            values[position] = reader(values[position])
        return tuple(values)


class Counted:
    """What is known of a statement without rows."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self.rowcount = cursor.rowcount
