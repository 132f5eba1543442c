"""Open connections and run transactions. Only `Database.run` commits."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import unquote, urlsplit
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from worker.config import Settings, hide_password
from worker.errors import SchemaMismatch, TooSlow, Unreachable
from worker.events import CountedEvent, Event, RecordedEvent
from worker.store.column_types import time_text
from worker.store.outage import Outages, write_obstacle
from worker.store.postgres_session import (
    LOST_SESSION,
    PoolMode,
    PostgresSession,
    open_session,
    settings_of_options,
)
from worker.store.private_file import create_private_file
from worker.store.sql_functions import now
from worker.store.tables import events

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.pool import ConnectionPoolEntry
    from sqlalchemy.sql.dml import ReturningUpdate

Observer = Callable[[RecordedEvent], None]

log = structlog.get_logger("evalworker")

Result = TypeVar("Result")

SQLITE_POOL_SIZE = 8  # connections that stay open; as many more may be opened for a while

MAX_ATTEMPTS = 4  # at one transaction, while its errors are transient
RETRY_WAIT_SECONDS = 0.1  # before the second attempt; doubled before each further one

# libpq's TCP keepalives: they notice within half a minute that a machine has vanished, also while
# data that was sent stays unacknowledged (`tcp_user_timeout`, in milliseconds). The operating
# system's own defaults take a quarter of an hour.
TCP_KEEPALIVE: Mapping[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}

# PostgreSQL: serialization failure, deadlock, lock not available. Retrying is right for each.
RETRIED_SQLSTATES = frozenset({"40001", "40P01", "55P03"})

_PING = sa.text("SELECT 1")
_LIMIT_READ = sa.text("SELECT set_config('statement_timeout', :milliseconds, true)")
QUERY_CANCELED = "57014"  # PostgreSQL's SQLSTATE of a statement that took too long
STEPS_BETWEEN_CHECKS = 10_000  # of SQLite's virtual machine: less than a millisecond
_SESSION = "evalworker session"  # of a connection's `info`
POOL_ROUNDS = 4  # of questions by which a pooler's mode shows


class Transaction:
    """An open transaction, with the events that it stores and publishes once it is committed.

    `actor` is the person on whose behalf it runs; every event of the transaction names them.
    """

    def __init__(self, connection: sa.Connection, actor: str | None = None) -> None:
        self.connection = connection
        self.actor = actor
        self.execute = connection.execute
        self.scalar = connection.scalar
        self.scalars = connection.scalars
        self.on_postgresql = connection.dialect.name == "postgresql"
        self.recorded: list[RecordedEvent] = []
        self.counted: list[RecordedEvent] = []
        self._unwritten: list[RecordedEvent] = []

    def insert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        """Build an insert that has the database's own `ON CONFLICT` clauses."""
        return postgresql.insert(table) if self.on_postgresql else sqlite.insert(table)

    def record_event(
        self,
        event: Event,
        *,
        job_id: UUID | None = None,
        item_index: int | None = None,
        batch_id: UUID | None = None,
        **detail: Any,
    ) -> None:
        """Record an event, which is stored with the transaction or not at all."""
        entry = RecordedEvent(event, job_id, item_index, batch_id, self._known(detail))
        self.recorded.append(entry)
        self._unwritten.append(entry)

    def execute_recording(
        self,
        statement: sa.Select[Any] | ReturningUpdate[Any],
        given: Mapping[str, Any],
        event: Event,
        *,
        batch_id: UUID,
        **detail: Any,
    ) -> Sequence[sa.Row[Any]]:
        """Run a statement and record an event of a batch; return the statement's rows.

        An UPDATE that changes no row records nothing. PostgreSQL does both in one statement.
        """
        entry = RecordedEvent(event, batch_id=batch_id, detail=self._known(detail))
        if self.on_postgresql:
            own = {"event_event": event, "event_batch_id": batch_id, "event_detail": entry.detail}
            rows = self.execute(_build_recording(statement), {**given, **own}).all()
        else:
            rows = self.execute(statement, given).all()
        if rows or statement.is_select:
            self.recorded.append(entry)
            if not self.on_postgresql:
                self._unwritten.append(entry)
        return rows

    def _known(self, detail: Mapping[str, Any]) -> dict[str, Any] | None:
        all_of_it = {**detail, "actor": self.actor}
        return {key: value for key, value in all_of_it.items() if value is not None} or None

    def count(self, event: CountedEvent) -> None:
        """Count an event that only observers hear of."""
        self.counted.append(RecordedEvent(event))

    def write_events(self) -> None:
        """Insert the recorded events that no statement has stored into `eval_events`."""
        rows = [entry._asdict() for entry in self._unwritten]
        if rows:
            # A single row runs as a plain statement, which costs half as much as a list.
            self.execute(_INSERT_EVENTS, rows if len(rows) > 1 else rows[0])

    def log_events(self) -> None:
        """Log one line per recorded event. Call it after the commit."""
        for entry in self.recorded:
            ids = {
                key: str(value)
                for key in ("job_id", "item_index", "batch_id")
                if (value := getattr(entry, key)) is not None
            }
            log.log(entry.level, entry.event.value, **ids, **(entry.detail or {}))


# Inline: the ids of these rows are not needed, so PostgreSQL need not return them.
_INSERT_EVENTS = sa.insert(events).values(at=now()).inline()


@cache
def _build_recording(statement: sa.Select[Any] | ReturningUpdate[Any]) -> sa.Select[Any]:
    """Build one statement, for PostgreSQL, of another one and the insert of an event."""
    event = sa.select(now(), *_EVENT_PARAMETERS)
    if isinstance(statement, sa.Select):
        return statement.add_cte(
            sa.insert(events).from_select(_EVENT_COLUMNS, event).cte("recorded")
        )
    changed = statement.cte("changed")
    recorded = sa.insert(events).from_select(_EVENT_COLUMNS, event.select_from(changed))
    return sa.select(changed).add_cte(recorded.cte("recorded"))


_EVENT_COLUMNS = ("at", "event", "batch_id", "detail")
_EVENT_PARAMETERS = [
    sa.bindparam(f"event_{name}", type_=events.c[name].type) for name in _EVENT_COLUMNS[1:]
]


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
            if not _session(one).is_pooled:
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
        if _session(connection).is_pooled:
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
    if _sqlstate(error.orig) in RETRIED_SQLSTATES:
        return True
    return isinstance(error, OperationalError) and not _sqlstate(error.orig)


def is_lost_session(error: BaseException | None) -> bool:
    """Return whether a connection no longer is what it was, though it may still answer."""
    return bool(LOST_SESSION.fullmatch(_sqlstate(error)))


def create_engine(
    url: sa.URL | str, *, clock: Callable[[], float] = time.time, pool_size: int = 20
) -> sa.Engine:
    """Return an engine that is configured for its kind of database."""
    url = sa.make_url(url)
    if url.get_backend_name() == "postgresql":
        return _create_postgresql_engine(url, pool_size)
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,  # also for a database in memory
        pool_size=SQLITE_POOL_SIZE,
        max_overflow=SQLITE_POOL_SIZE,
        connect_args={"timeout": 30, "check_same_thread": False},
    )
    event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, clock))
    event.listen(engine, "begin", _begin_on_sqlite)
    return engine


def _create_postgresql_engine(url: sa.URL, pool_size: int) -> sa.Engine:
    given = url.normalized_query
    settings, options = settings_of_options(" ".join(given.get("options", ())))
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg").difference_update_query(["options"]),
        # Transactions are begun by `_begin_on_postgresql`, not by the driver.
        isolation_level="AUTOCOMMIT",
        # No ping before every transaction: where a connection broke, `Database.run` retries, and
        # the pool drops all connections of that age.
        pool_size=pool_size,
        max_overflow=pool_size,
        connect_args={
            "connect_timeout": int(given.get("connect_timeout", ("10",))[0]),
            "application_name": "evalworker",
            "client_encoding": "utf8",  # poolers take it at the start, as they do the name
            **({"options": options} if options else {}),
            **TCP_KEEPALIVE,
        },
    )

    # Rows that are inserted together travel in one statement. psycopg's own way, a pipeline, may
    # end with a message after which PostgreSQL does not end a transaction that goes quiet.
    engine.dialect.use_insertmanyvalues_wo_returning = True

    def prepare(driver: psycopg.Connection[Any], record: ConnectionPoolEntry) -> None:
        try:
            record.info[_SESSION] = open_session(driver, settings)
        except BaseException:
            driver.close()
            raise

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", _begin_on_postgresql)
    event.listen(engine, "handle_error", _drop_lost_session)
    return engine


def max_connections(pool: sa.QueuePool) -> int:
    """Return how many connections `create_engine` lets its pool open: twice the pool's size."""
    return 2 * pool.size()


def _prepare_sqlite(connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    connection.create_function(
        "eval_now", 1, lambda seconds: time_text(datetime.fromtimestamp(clock() + seconds, UTC))
    )
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_on_postgresql(connection: sa.Connection) -> None:
    session = _session(connection)
    options = connection.get_execution_options()
    if options.get("evalworker_autocommit"):
        if session.is_pooled:
            connection.exec_driver_sql(session.begin_short_reading)
        return
    reads = options.get("evalworker_read")
    connection.exec_driver_sql(session.begin_reading if reads else session.begin)


def _session(connection: sa.Connection) -> PostgresSession:
    session: PostgresSession = connection.info[_SESSION]
    return session


def _backend(connection: sa.Connection) -> int:
    """Return the process of PostgreSQL that runs the connection's next transaction."""
    backend = connection.scalar(sa.select(sa.func.pg_backend_pid()))
    connection.rollback()
    return int(backend or 0)


def _drop_lost_session(context: ExceptionContext) -> None:
    """Have the pool replace a connection that still answers, but no longer is what it was."""
    if not context.is_disconnect and is_lost_session(context.original_exception):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False


def _sqlstate(error: BaseException | None) -> str:
    return getattr(error, "sqlstate", None) or ""


def _begin_on_sqlite(connection: sa.Connection) -> None:
    # A deferred transaction that begins to write fails immediately while another one writes,
    # whatever the timeout; one that begins as IMMEDIATE waits its turn.
    options = connection.get_execution_options()
    if not options.get("evalworker_autocommit"):
        connection.exec_driver_sql("BEGIN" if options.get("evalworker_read") else "BEGIN IMMEDIATE")


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
            f"there is no database file {file.absolute()} (EVALWORKER_DATABASE_URL names it): "
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
