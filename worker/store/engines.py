"""Create engines: how connections are opened, prepared and pooled, and how transactions begin."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext

from worker.store.column_types import read_json, time_text
from worker.store.postgres_session import (
    PostgresSession,
    is_lost_session,
    open_session,
    settings_of_options,
)

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.pool import ConnectionPoolEntry

SQLITE_POOL_SIZE = 8  # connections that stay open; as many more may be opened for a while

# libpq's TCP keepalives: they notice within half a minute that a machine has vanished, also while
# data that was sent stays unacknowledged (`tcp_user_timeout`, in milliseconds). The operating
# system's own defaults take a quarter of an hour.
TCP_KEEPALIVE: Mapping[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}

_SESSION = "evalworker session"  # of a connection's `info`


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
        json_deserializer=read_json,
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
    session = session_of(connection)
    options = connection.get_execution_options()
    if options.get("evalworker_autocommit"):
        if session.is_pooled:
            connection.exec_driver_sql(session.begin_short_reading)
        return
    reads = options.get("evalworker_read")
    connection.exec_driver_sql(session.begin_reading if reads else session.begin)


def session_of(connection: sa.Connection) -> PostgresSession:
    """Return what is known of the session of a connection to PostgreSQL."""
    session: PostgresSession = connection.info[_SESSION]
    return session


def _drop_lost_session(context: ExceptionContext) -> None:
    """Have the pool replace a connection that still answers, but no longer is what it was."""
    if not context.is_disconnect and is_lost_session(context.original_exception):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False


def _begin_on_sqlite(connection: sa.Connection) -> None:
    # A deferred transaction that begins to write fails immediately while another one writes,
    # whatever the timeout; one that begins as IMMEDIATE waits its turn.
    options = connection.get_execution_options()
    if not options.get("evalworker_autocommit"):
        connection.exec_driver_sql("BEGIN" if options.get("evalworker_read") else "BEGIN IMMEDIATE")
