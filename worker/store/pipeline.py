"""Statements from an event loop to PostgreSQL, each a transaction, for who asks very often.

All share one connection, and no thread is woken: what is asked while an answer is on its way is
sent at once, and answered in its turn. This is libpq's own pipeline mode; on the driver's
asynchronous connections one would wait for the other, and each costs as much as in a thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from psycopg import Error
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from sqlalchemy.exc import DBAPIError

from worker.store.database import PAUSE_SECONDS, TRIES, Database, worth_another_try
from worker.store.driver import Made, Often, as_sqlalchemys

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg import abc as psycopg_types
    from psycopg.pq.abc import PGresult

# Classes of SQLSTATE: connections, "not now", a server that ends; and 0A, of which there is what
# was prepared for tables that have changed since.
_OF_CONNECTIONS = frozenset({"08", "0A", "40", "53", "55", "57"})

LOADED_AT_ONCE = 500  # rows, in some milliseconds; more are loaded in a thread


class Pipeline:
    """Used on one event loop; connects when it is first asked, and again where that broke."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None

    async def all(self, statement: Often, given: Mapping[str, Any]) -> list[Any]:
        """The rows as they are committed now; asked again where it broke, and so perhaps twice."""
        for left in range(TRIES - 1, -1, -1):
            try:
                line = self._line
                if line is None or line.broke:
                    line = await self._connected()
                return await line.all(statement, given)
            except DBAPIError as error:
                if not left or not worth_another_try(error):
                    raise
                await asyncio.sleep(PAUSE_SECONDS * 2 ** (TRIES - 1 - left))
        raise AssertionError("unreachable: the last try returns or raises")

    async def _connected(self) -> _Line:
        """One attempt for all who wait: it takes seconds where the machine is away."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Line:
        try:
            driver = await asyncio.to_thread(self._database.driver_to_keep)
            self._line = _Line(driver, self._database.engine.dialect)
            return self._line
        finally:
            self._connecting = None

    def close(self) -> None:
        if self._line is not None:
            self._line.close()


class _Line:
    """A connection until its first error, after which whoever waits for it asks on another."""

    def __init__(self, driver: Connection, dialect: sa.Dialect) -> None:
        self.broke = False
        self._driver = driver
        self._dialect = dialect
        self._pg = driver.pgconn
        self._loading = Transformer(driver)
        self._names: dict[str, bytes] = {}  # of the statements that are prepared
        self._waiting: deque[asyncio.Future[PGresult]] = deque()
        self._result: PGresult | None = None  # of the first who waits
        self._pg.enter_pipeline_mode()
        self._pg.nonblocking = 1
        self._loop = asyncio.get_running_loop()
        self._socket = self._pg.socket
        self._loop.add_reader(self._socket, self._read)

    async def all(self, statement: Often, given: Mapping[str, Any]) -> list[Any]:
        made = statement.made_for(self._dialect)
        # What cannot be encoded is found before anybody waits for an answer to it.
        texts = [str(value).encode() for value in made.bind(given)]
        answer: asyncio.Future[PGresult] = self._loop.create_future()
        self._waiting.append(answer)
        try:
            self._send(made.statement, texts)
        except Error as error:
            self._break(error)
        result = await answer
        try:
            many = result.ntuples > LOADED_AT_ONCE
            loading = Transformer(self._driver) if many else self._loading
            loading.set_pgresult(result)  # asks the connection, and so not in the thread
            if many:
                return await asyncio.to_thread(_loaded, loading, made, result)
            return _loaded(loading, made, result)
        except Error as error:  # a value that Python has none for
            raise as_sqlalchemys(error, self._dialect) from error

    def _send(self, statement: str, texts: list[bytes]) -> None:
        name = self._names.get(statement)
        if name is None:
            name = self._names[statement] = f"often_{len(self._names)}".encode()
            self._pg.send_prepare(name, statement.encode())
        self._pg.send_query_prepared(name, texts)
        self._pg.pipeline_sync()
        if self._pg.flush():  # the system has no room for all of it: inputs may be long
            self._loop.add_writer(self._socket, self._send_rest)

    def _send_rest(self) -> None:
        try:
            if not self._pg.flush():
                self._loop.remove_writer(self._socket)
        except Error as error:
            self._break(error)

    def _read(self) -> None:
        """Called by the loop when something has come, or the connection has ended."""
        try:
            self._pg.consume_input()
            while self._waiting and not self._pg.is_busy():
                self._take(self._pg.get_result())
        except Error as error:
            self._break(error)

    def _take(self, result: PGresult | None) -> None:
        """Of each who waits: what came of the statement, and a sync; None ends either's results."""
        if result is None:
            return
        if result.status == ExecStatus.PIPELINE_SYNC:
            answer = self._waiting.popleft()
            if not answer.done():  # else its client has gone
                answer.set_result(cast("PGresult", self._result))
        elif result.status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            self._result = result
        else:
            raise error_from_result(result)

    def _break(self, error: Error) -> None:
        """Whatever it is; only for the first who waits can it be the statement's own."""
        self.close()
        broke = not _is_the_statements(error)
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(as_sqlalchemys(error, self._dialect, broke=broke))
            broke = True
        self._waiting.clear()

    def close(self) -> None:
        if not self.broke:
            self.broke = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._driver.close()


def _is_the_statements(error: Error) -> bool:
    """Whether it would fail on any connection: its data, its rights, what PostgreSQL can do."""
    return (error.sqlstate or "08")[:2] not in _OF_CONNECTIONS


def _loaded(loading: psycopg_types.Transformer, made: Made, result: PGresult) -> list[Any]:
    return made.rows(loading.load_rows(0, result.ntuples, tuple))
