"""Find the connection whose transaction a producer hands over, or say what to pass instead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from worker.errors import InvalidInputs

DIALECTS = ("postgresql", "sqlite")
NAME = "session_or_connection"
IDLE = 0  # libpq's transaction status without a transaction


def async_runner(given: object) -> Callable[..., Any] | None:
    """Return the `run_sync` of an async session or connection; None if it is something else."""
    # Not imported here: that requires greenlet, which a synchronous producer may not have.
    module: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if module is None:
        return None
    if isinstance(given, module.async_scoped_session):
        given = given()
    if isinstance(given, module.AsyncSession | module.AsyncConnection):
        runner: Callable[..., Any] = given.run_sync
        return runner
    return None


def connection_of(given: object) -> sa.Connection:
    """Return the connection of a session or connection; raise `InvalidInputs` if it has none."""
    if isinstance(given, scoped_session):
        given = given()
    if isinstance(given, Session):
        given = given.connection()
    if not isinstance(given, sa.Connection):
        raise InvalidInputs([f"{NAME} must be {_advice(given)}"])
    if given.dialect.name not in DIALECTS:
        raise InvalidInputs(
            [f"{NAME} must be to PostgreSQL or SQLite, not to {given.dialect.name}"]
        )
    if _commits_each_statement(given):
        raise InvalidInputs(
            [
                f"{NAME} is in AUTOCOMMIT mode, where a job could be stored by halves: pass one "
                "with a transaction, such as that of `with engine.begin() as connection`"
            ]
        )
    return given


def _advice(given: object) -> str:
    kind = type(given)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    what = f"a Session or Connection of SQLAlchemy, not {name}"
    from_asyncio = kind.__module__.startswith("sqlalchemy.ext.asyncio")
    if isinstance(given, sa.Engine) or (from_asyncio and kind.__name__ == "AsyncEngine"):
        begin = "async with" if from_asyncio else "with"
        return f"{what}: pass the connection of `{begin} engine.begin() as connection`"
    if isinstance(given, sessionmaker) or (from_asyncio and kind.__name__ == "async_sessionmaker"):
        return f"{what}: call it, and pass the session that it returns"
    if isinstance(given, type):
        return f"{what}: pass an instance, not the class {given.__qualname__}"
    if isinstance(getattr(given, "session", None), Session | scoped_session):
        return f"{what}: pass its `session`"
    if hasattr(given, "cursor") or hasattr(given, "execute"):  # a driver's own connection
        return (
            f"{what}: without SQLAlchemy, insert into eval_jobs and eval_items by SQL, or call "
            "eval_enqueue on PostgreSQL"
        )
    return what


def _commits_each_statement(connection: sa.Connection) -> bool:
    """Return whether the driver is in autocommit, in whatever way that was set, without asking.

    A driver in autocommit is also what those have who begin transactions themselves, at
    SQLAlchemy's event; then one has begun.
    """
    pooled: Any = connection.connection
    driver = pooled.dbapi_connection
    if connection.dialect.name == "postgresql":
        if not getattr(driver, "autocommit", False):
            return False
        connection.exec_driver_sql("SELECT 1")  # SQLAlchemy begins with the first statement
        info = getattr(pooled.driver_connection, "info", None)  # of psycopg
        return not getattr(info, "transaction_status", IDLE)
    if getattr(driver, "autocommit", None) is not True and driver.isolation_level is not None:
        return False
    connection.exec_driver_sql("SELECT 1")
    return not pooled.driver_connection.in_transaction
