"""Run transactions, and read. Only `Database.run` commits."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from worker.config import Settings, hide_password
from worker.errors import SchemaMismatch, TooSlow, Unreachable
from worker.events import RecordedEvent
from worker.store.engines import create_engine, session_of
from worker.store.outage import Outages, write_obstacle
from worker.store.postgres_session import PoolMode, sqlstate_of
from worker.store.private_file import create_private_file
from worker.store.transaction import Transaction

if TYPE_CHECKING:
    import psycopg

Observer = Callable[[RecordedEvent], None]

Result = TypeVar("Result")

MAX_ATTEMPTS = 4  # at one transaction, while its errors are transient
RETRY_WAIT_SECONDS = 0.1  # before the second attempt; doubled before each further one

# PostgreSQL: serialization failure, deadlock, lock not available. Retrying is right for each.
RETRIED_SQLSTATES = frozenset({"40001", "40P01", "55P03"})

_PING = sa.text("SELECT 1")
_LIMIT_READ = sa.text("SELECT set_config('statement_timeout', :milliseconds, true)")
QUERY_CANCELED = "57014"  # PostgreSQL's SQLSTATE of a statement that took too long
STEPS_BETWEEN_CHECKS = 10_000  # of SQLite's virtual machine: less than a millisecond
POOL_ROUNDS = 4  # of questions by which a pooler's mode shows


class Database:
    """One engine, with `run` for transactions that write and `read` for those that only read."""

    def __init__(
        self,
        url: sa.URL | str,
        *,
        listen_url: sa.URL | str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine = create_engine(url, clock=clock)
        self._listen_engine = self.engine if listen_url is None else create_engine(listen_url)
        self.on_postgresql = self.engine.dialect.name == "postgresql"
        self._autocommit_engine = self.engine.execution_options(evalworker_autocommit=True)
        self._observers: list[Observer] = []
        self.outages = Outages()

    def observe(self, observer: Observer) -> None:
        """Call `observer` with every later event, after its commit and in the thread that made it.

        An observer must not raise, because what it hears of is already committed.
        """
        self._observers.append(observer)

    def run(self, work: Callable[[Transaction], Result], *, actor: str | None = None) -> Result:
        """Run `work` in a transaction, commit it, and publish its events, which name `actor`.

        `work` may run more than once, even if a commit succeeded but its confirmation was lost:
        its transitions are guarded, so that a second run of what is committed moves nothing.
        """

        def attempt() -> tuple[Transaction, Result]:
            with self.engine.begin() as connection:
                transaction = Transaction(connection, actor)
                result = work(transaction)
                transaction.write_events()
            return transaction, result

        try:
            transaction, result = retry_transient(attempt)
        except DBAPIError as error:
            self.outages.note_refused_write(error)
            raise
        self.outages.end()
        self.publish(transaction)
        return result

    def write_obstacle(self) -> str | None:
        """Return why the database cannot write, if that is known. Writes nothing."""
        with self.read() as connection:
            found = write_obstacle(connection, sqlite_file(self.engine.url))
        return found or self.outages.write_refusal()

    def publish(self, transaction: Transaction) -> None:
        """Publish the events of a committed transaction to the log and the observers."""
        transaction.log_events()
        for observer in self._observers:
            for entry in (*transaction.recorded, *transaction.counted):
                observer(entry)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a read-only connection that is known to work; its transaction is rolled back."""
        with self._connect_reader(self.engine) as connection:
            yield connection

    @contextmanager
    def read_within(self, seconds: float) -> Iterator[sa.Connection]:
        """Open a connection for reading whose statements are stopped after so many seconds.

        On SQLite, the limit is that of all statements together. Raises `TooSlow`.
        """
        with self.read() as connection:
            try:
                if self.on_postgresql:
                    connection.execute(_LIMIT_READ, {"milliseconds": str(int(seconds * 1000))})
                    yield connection
                else:
                    with _limit_on_sqlite(connection, seconds):
                        yield connection
            except DBAPIError as error:
                if _is_stopped(error):
                    raise TooSlow(seconds) from error
                raise

    def _connect_reader(self, engine: sa.Engine) -> sa.Connection:
        return retry_transient(lambda: self._begin_reading(engine))

    def _begin_reading(self, engine: sa.Engine) -> sa.Connection:
        connection = engine.connect().execution_options(evalworker_read=True)
        try:
            if self.on_postgresql:
                connection.begin()  # asks the server; SQLite's does not open the file
            else:
                connection.execute(_PING)
        except DBAPIError:
            connection.close()
            raise
        return connection

    def read_autocommit(self, query: Callable[[sa.Connection], Result]) -> Result:
        """Run `query`, which only reads, outside a transaction: each statement sees all commits.

        For short queries that run very often: it saves two of three round trips. Only through a
        pooler there is a transaction, as the settings would be unknown without one.
        """

        def attempt() -> Result:
            with self._autocommit_engine.connect() as connection:
                return query(connection)

        return retry_transient(attempt)

    @cached_property
    def pool_mode(self) -> PoolMode | None:
        """The mode of the pooler before PostgreSQL, found out once; None without a pooler.

        In session mode, each connection keeps a process of PostgreSQL for itself. In transaction
        mode, two idle connections meet the same process, unless others are very busy.
        """
        if not self.on_postgresql:
            return None
        with self.read() as one:
            if not session_of(one).is_pooled:
                return None
            one.rollback()
            with self.read() as other:
                other.rollback()
                rounds = {(_backend(one), _backend(other)) for _ in range(POOL_ROUNDS)}
        is_kept = len(rounds) == 1 and all(mine != theirs for mine, theirs in rounds)
        return "session" if is_kept else "transaction"

    def listening_connection(self) -> psycopg.Connection[Any] | None:
        """Return a psycopg connection outside the pool, for LISTEN, or None if a pooler is between.

        The caller closes it.
        """
        connection = self._connect_reader(self._listen_engine)
        connection.rollback()
        if session_of(connection).is_pooled:
            connection.close()
            return None
        detached = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
        connection.detach()
        return detached

    def close(self) -> None:
        self.engine.dispose()
        self._listen_engine.dispose()


def retry_transient(attempt: Callable[[], Result]) -> Result:
    """Call `attempt` again, after growing waits, while its errors are transient."""
    for failures in range(1, MAX_ATTEMPTS):
        try:
            return attempt()
        except DBAPIError as error:
            if not is_transient(error):
                raise
        time.sleep(RETRY_WAIT_SECONDS * 2 ** (failures - 1))
    return attempt()


@contextmanager
def _limit_on_sqlite(connection: sa.Connection, seconds: float) -> Iterator[None]:
    driver = cast("sqlite3.Connection", connection.connection.driver_connection)
    give_up_at = time.monotonic() + seconds
    driver.set_progress_handler(lambda: time.monotonic() > give_up_at, STEPS_BETWEEN_CHECKS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)


def _is_stopped(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT
    return getattr(error.orig, "sqlstate", None) == QUERY_CANCELED


def is_transient(error: DBAPIError) -> bool:
    """Return whether the same transaction may succeed if it is run again."""
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    if isinstance(error.orig, sqlite3.OperationalError):
        return "locked" in str(error.orig) or "busy" in str(error.orig)
    if sqlstate_of(error.orig) in RETRIED_SQLSTATES:
        return True
    return isinstance(error, OperationalError) and not sqlstate_of(error.orig)


def _backend(connection: sa.Connection) -> int:
    """Return the process of PostgreSQL that runs the connection's next transaction."""
    backend = connection.scalar(sa.select(sa.func.pg_backend_pid()))
    connection.rollback()
    return int(backend or 0)


def open_database(settings: Settings, *, create: bool = False) -> Database:
    """Connect to the configured database; raises `Unreachable`.

    The file of a SQLite database must exist unless `create` says otherwise; raises
    `SchemaMismatch`. Only who migrates next creates it: an empty one is of no use to others.
    """
    url = settings.sqlalchemy_url
    file = sqlite_file(url)
    if file is not None and create:
        _create_file(file, settings.database_url)
    elif file is not None and file.parent.is_dir() and not file.exists():
        raise SchemaMismatch(
            f"there is no database file {file.absolute()} (see EVALWORKER_DATABASE_URL): "
            "run `evalworker migrate` to make it"
        )
    database = Database(url, listen_url=settings.sqlalchemy_listen_url)
    try:
        with database.read():
            pass
    except SQLAlchemyError as error:
        database.close()
        cause = getattr(error, "orig", None) or error
        raise Unreachable("database", hide_password(settings.database_url), cause) from error
    return database


def sqlite_file(url: sa.URL) -> Path | None:
    """Return the file of a SQLite database, also of a `file:` URI; None for PostgreSQL."""
    if url.get_backend_name() != "sqlite":
        return None
    name = url.database or ""
    return Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)


def _create_file(file: Path, shown_url: str) -> None:
    try:
        create_private_file(file)
    except OSError as error:
        raise Unreachable("database", shown_url, error) from error
