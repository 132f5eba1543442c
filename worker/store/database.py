"""Connections and transactions: the only place that commits."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from worker.config import Settings, hide_password
from worker.errors import Unreachable
from worker.events import CountedEvent, Event, RecordedEvent
from worker.store.column_types import time_text
from worker.store.sql_functions import now
from worker.store.tables import events

Observer = Callable[[RecordedEvent], None]

log = structlog.get_logger("evalworker")

Result = TypeVar("Result")
Clock = "Callable[[], float]"

TRIES = 4  # of one transaction, when the database says "not now" or the connection breaks
PAUSE_SECONDS = 0.1  # before the second try; doubled each time

# A transaction whose process was stopped, or whose machine is gone, is ended by PostgreSQL after
# this long between two statements: it would hold its locks, and so the others, until TCP noticed.
QUIET_SECONDS = 20

# By these libpq notices within half a minute that a machine is gone without a word: by keepalives
# where nothing is asked, and by the last one, in milliseconds, where what was sent is never
# acknowledged. The system itself would try for a quarter of an hour.
WATCHED: Mapping[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}

# PostgreSQL: serialization failure, deadlock, lock not available. Retrying is always right there.
RETRIED_SQLSTATES = frozenset({"40001", "40P01", "55P03"})


# What the worker works by, it finds by an index. PostgreSQL's statistics are always behind in
# tables that change so fast, and where it believes in few rows it reads a table of millions.
BY_INDEX = {"enable_seqscan": "off", "enable_bitmapscan": "off"}

_UNHURRIED = sa.text(
    "SELECT set_config('idle_in_transaction_session_timeout', '0', true)"
    + "".join(f", set_config('{name}', 'on', true)" for name in BY_INDEX)
)
_ASKED = sa.text("SELECT 1")


class EventRecorder:
    """Collects the events of a transaction, to be published once it is committed."""

    def __init__(self) -> None:
        self._recorded: list[RecordedEvent] = []
        self._counted: list[RecordedEvent] = []

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
        known = {key: value for key, value in detail.items() if value is not None}
        self._recorded.append(RecordedEvent(event, job_id, item_index, batch_id, known or None))

    def count(self, event: CountedEvent) -> None:
        """Count an event that only observers hear of."""
        self._counted.append(RecordedEvent(event))

    def log_events(self) -> None:
        """Log one line per recorded event. Call it after the commit."""
        for entry in self._recorded:
            ids = {
                key: str(value)
                for key in ("job_id", "item_index", "batch_id")
                if (value := getattr(entry, key)) is not None
            }
            log.info(entry.event.value, **ids, **(entry.detail or {}))

    def notify(self, observer: Observer) -> None:
        """Pass every event to the observer, recorded ones first. Call it after the commit."""
        for entry in itertools.chain(self._recorded, self._counted):
            observer(entry)


class Transaction(EventRecorder):
    """An open transaction, which also stores its events in `eval_events`."""

    def __init__(self, connection: sa.Connection) -> None:
        super().__init__()
        self.connection = connection
        self.execute = connection.execute
        self.scalar = connection.scalar
        self.scalars = connection.scalars
        self.on_postgresql = connection.dialect.name == "postgresql"

    def write_events(self) -> None:
        """Insert the recorded events into `eval_events`."""
        rows = [entry._asdict() for entry in self._recorded]
        if rows:
            # A single row runs as a plain statement, which costs half as much as a list.
            self.execute(_INSERT_EVENTS, rows if len(rows) > 1 else rows[0])


# Inline, because nobody reads the id of an event just written: PostgreSQL need not return it.
_INSERT_EVENTS = sa.insert(events).values(at=now()).inline()


class Database:
    """One engine, and the way in: `run` to write, `read` to look."""

    def __init__(self, url: sa.URL | str, *, clock: Callable[[], float] = time.time) -> None:
        self.engine = create_engine(url, clock=clock)
        self.on_postgresql = self.engine.dialect.name == "postgresql"
        self._lookers: deque[sa.Connection] = deque()  # open, and in nobody's hands
        self._observers: list[Observer] = []

    def observe(self, observer: Observer) -> None:
        """Call `observer` with every later event, after its commit and in the thread that made it.

        An observer must not raise, because what it hears of is already committed.
        """
        self._observers.append(observer)

    def run(self, work: Callable[[Transaction], Result]) -> Result:
        """Runs `work` in a transaction and commits it; tries again where the database asks for it.

        `work` may run more than once, also when a commit's answer was lost: its transitions are
        guarded, so that a second run of what was already committed moves nothing.
        """
        for left in range(TRIES - 1, -1, -1):
            try:
                with self.engine.begin() as connection:
                    transaction = Transaction(connection)
                    result = work(transaction)
                    transaction.write_events()
            except DBAPIError as error:
                if not left or not worth_another_try(error):
                    raise
                time.sleep(PAUSE_SECONDS * 2 ** (TRIES - 1 - left))
            else:
                self.publish(transaction)
                return result
        raise AssertionError("unreachable: the last try returns or raises")

    def publish(self, recorder: EventRecorder) -> None:
        """Publish the events of a committed transaction to the log and the observers."""
        recorder.log_events()
        for observer in self._observers:
            recorder.notify(observer)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection to look through; whatever it does is rolled back."""
        with self._connected_to_read() as connection:
            yield connection

    def _connected_to_read(self) -> sa.Connection:
        """A connection that has just answered: one that broke meanwhile is replaced."""
        for left in range(TRIES - 1, -1, -1):
            connection = self.engine.connect().execution_options(evalworker_read=True)
            try:
                # Whoever reads may take their time: no row is locked. And may read whole tables.
                connection.execute(_UNHURRIED if self.on_postgresql else _ASKED)
            except DBAPIError as error:
                connection.close()
                if not left or not worth_another_try(error):
                    raise
            else:
                return connection
        raise AssertionError("unreachable: the last try returns or raises")

    def driver_to_keep(self) -> Any:
        """The driver's own connection, that has just answered; whoever takes it closes it."""
        connection = self._connected_to_read()
        connection.rollback()
        driver = connection.connection.driver_connection
        connection.detach()
        return driver

    def look(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Runs `work`, which only reads, outside of any transaction; tries again where it broke.

        Each statement sees what was committed before it. For who looks very often: connections
        stay open from one look to the next, as many as ever looked at once.
        """
        for left in range(TRIES - 1, -1, -1):
            connection = self._looker()
            try:
                return work(connection)
            except DBAPIError as error:
                connection.close()
                if not left or not worth_another_try(error):
                    raise
                self._close_lookers()  # they broke at the same time
            finally:
                if not connection.closed:  # whatever `work` made of what it found
                    self._lookers.append(connection)
        raise AssertionError("unreachable: the last try returns or raises")

    def _looker(self) -> sa.Connection:
        try:
            return self._lookers.pop()
        except IndexError:
            connection = self.engine.connect()
        if self.on_postgresql:
            return connection.execution_options(isolation_level="AUTOCOMMIT")
        return connection.execution_options(evalworker_look=True)

    def _close_lookers(self) -> None:
        while self._lookers:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._lookers.pop().close()

    def close(self) -> None:
        self._close_lookers()
        self.engine.dispose()


def worth_another_try(error: DBAPIError) -> bool:
    """Whether the same transaction may pass if it is run again."""
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    if isinstance(error.orig, sqlite3.OperationalError):
        return "locked" in str(error.orig) or "busy" in str(error.orig)
    if getattr(error.orig, "sqlstate", None) in RETRIED_SQLSTATES:
        return True
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) is None


def create_engine(
    url: sa.URL | str, *, clock: Callable[[], float] = time.time, pool_size: int = 20
) -> sa.Engine:
    """An engine with each database's own precautions."""
    url = sa.make_url(url)
    if url.get_backend_name() == "postgresql":
        # A connection that broke meanwhile is not looked for by a ping before every transaction:
        # `Database.run` tries again, and the pool drops all that are as old.
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            # Whatever the server's default is: who waited for a row must see what its holder did.
            isolation_level="READ COMMITTED",
            pool_size=pool_size,
            max_overflow=pool_size,
            connect_args={
                "connect_timeout": int(url.query.get("connect_timeout", 10)),  # type: ignore[arg-type]
                "application_name": "evalworker",
                "options": (
                    f"{url.query.get('options', '')}"
                    f" -c idle_in_transaction_session_timeout={QUIET_SECONDS}s"
                    + "".join(f" -c {name}={value}" for name, value in BY_INDEX.items())
                ),
                **WATCHED,
            },
        )
    engine = sa.create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})
    event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, clock))
    event.listen(engine, "begin", _begin_on_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    connection.create_function(
        "eval_now",
        1,
        lambda seconds: time_text(datetime.fromtimestamp(clock() + seconds, UTC)),
    )
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_on_sqlite(connection: sa.Connection) -> None:
    # A deferred transaction that turns into a writing one fails at once when another writes,
    # whatever the timeout says; an immediate one waits its turn.
    options = connection.get_execution_options()
    if not options.get("evalworker_look"):  # which is in no transaction at all
        connection.exec_driver_sql("BEGIN" if options.get("evalworker_read") else "BEGIN IMMEDIATE")


def open_database(settings: Settings) -> Database:
    """A database that answers; raises `Unreachable`."""
    database = Database(settings.sqlalchemy_url)
    try:
        with database.read() as connection:
            connection.execute(sa.text("SELECT 1"))
    except SQLAlchemyError as error:
        database.close()
        cause = getattr(error, "orig", None) or error
        raise Unreachable("database", hide_password(settings.database_url), cause) from error
    return database
