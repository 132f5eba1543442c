"""Find the connection whose transaction a producer hands over, or say what to pass instead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from worker.errors import InvalidInputs

DIALECTS = ("postgresql", "sqlite")
ORM, ASYNCIO = "sqlalchemy.orm", "sqlalchemy.ext.asyncio"
NAME = "session_or_connection"
IDLE = 0  # libpq's transaction status without a transaction


def async_runner(given: Any) -> Callable[..., Any] | None:
    """Return the `run_sync` of an async session or connection; None if it is something else."""
    if _is_from(ASYNCIO, given, "async_scoped_session"):
        given = given()
    if _is_from(ASYNCIO, given, "AsyncSession", "AsyncConnection"):
        runner: Callable[..., Any] = given.run_sync
        return runner
    return None


def connection_of(given: Any) -> sa.Connection:
    """Return the connection of a session or connection; raise `InvalidInputs` if it has none."""
    if _is_from(ORM, given, "scoped_session"):
        given = given()
    if _is_from(ORM, given, "Session"):
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


def _is_from(module: str, given: object, *names: str) -> bool:
    """Return whether this is an instance of one of these classes, without importing their module.

    A caller that has an instance has imported it already. The others save a tenth of a second, and
    need no greenlet, which the classes for asyncio require.
    """
    loaded = sys.modules.get(module)
    return isinstance(given, tuple(getattr(loaded, name, ()) for name in names))


def _advice(given: object) -> str:
    kind = type(given)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    what = f"a Session or Connection of SQLAlchemy, not {name}"
    is_async = _is_from(ASYNCIO, given, "AsyncEngine")
    if is_async or isinstance(given, sa.Engine):
        begin = "async with" if is_async else "with"
        return f"{what}: pass the connection of `{begin} engine.begin() as connection`"
    if _is_from(ORM, given, "sessionmaker") or _is_from(ASYNCIO, given, "async_sessionmaker"):
        return f"{what}: call it, and pass the session that it returns"
    if isinstance(given, type):
        return f"{what}: pass an instance, not the class {given.__qualname__}"
    if _is_from(ORM, getattr(given, "session", None), "Session", "scoped_session"):
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
