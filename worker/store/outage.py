"""Remember that the database is unavailable: one line of the log, and one cause for readiness."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    TimeoutError,  # noqa: A004 (of its pool, whose connections are all in use)
)

from worker.store.postgres_session import sqlstate_of

log = structlog.get_logger("evalworker")

LOG_SECONDS = 60.0  # between two lines about it, whoever notices
REMEMBERED_SECONDS = 60.0  # a refused write; work that goes on tries again sooner
MIN_FREE_BYTES = 1024 * 1024  # on the disk of a SQLite file

# PostgreSQL: disk full, read-only transaction, I/O error.
WRITE_SQLSTATES = frozenset({"53100", "25006", "58030"})
# SQLite's messages for the same.
WRITE_MESSAGES = ("full", "readonly", "disk I/O error", "unable to open database file")


# PostgreSQL: insufficient_privilege, and invalid_schema_name: no schema to create in.
RIGHTS_SQLSTATES = frozenset({"42501", "3F000"})
RIGHTS_REMEDY = "docs/roles.md says what this login has to be a member of"


def lacks_rights(error: BaseException) -> bool:
    """Return whether the login may not do what it tries: no waiting helps."""
    return sqlstate_of(getattr(error, "orig", None)) in RIGHTS_SQLSTATES


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error is the database's state rather than a fault of the statement."""
    return isinstance(error, OperationalError | InterfaceError | InternalError | TimeoutError)


def first_line(error: BaseException) -> str:
    """Return the reason of an error in one line, without the statement that it concerns."""
    return (str(getattr(error, "orig", None) or error).splitlines() or [""])[0]


class Outages:
    """What the threads of one process notice of the database's state. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._is_open = self._is_announced = False
        self._logged_at = float("-inf")
        self._refused_at = float("-inf")
        self._refusal = ""

    def report(self, error: BaseException, where: str) -> None:
        """Log the first failure of an outage as a warning, and what follows for debugging."""
        with self._lock:
            now = self._monotonic()
            is_first = not self._is_open and now - self._logged_at >= LOG_SECONDS
            self._is_open = True
            if is_first:
                self._logged_at, self._is_announced = now, True
        write = log.warning if is_first else log.debug
        write("database.unavailable", where=where, reason=first_line(error))

    def end(self) -> None:
        """Note that a transaction was committed."""
        if self._is_open:
            with self._lock:
                was_announced, self._is_announced = self._is_announced, False
                self._is_open = False
            if was_announced:
                log.info("database.available")

    def note_refused_write(self, error: DBAPIError) -> None:
        """Remember an error that says that the database cannot write now."""
        if _refuses_writes(error):
            self._refused_at, self._refusal = self._monotonic(), first_line(error)

    def write_refusal(self) -> str | None:
        """Return why the database could not write, if it could not lately."""
        is_recent = self._monotonic() - self._refused_at < REMEMBERED_SECONDS
        return self._refusal if is_recent else None


def _refuses_writes(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return any(words in str(error.orig) for words in WRITE_MESSAGES)
    return getattr(error.orig, "sqlstate", None) in WRITE_SQLSTATES


def write_obstacle(connection: sa.Connection, file: Path | None) -> str | None:
    """Return what would keep the database from writing, as far as reading can tell.

    `file` is that of a SQLite database. The disk of a PostgreSQL server is seen by its errors only.
    """
    if file is None:
        is_standby = connection.scalar(sa.select(sa.func.pg_is_in_recovery()))
        return "the server is a standby, which is read-only" if is_standby else None
    if not (os.access(file, os.W_OK) and os.access(file.absolute().parent, os.W_OK)):
        return f"{file} or its folder cannot be written by this user"
    free = shutil.disk_usage(file.absolute().parent).free
    return None if free >= MIN_FREE_BYTES else f"the disk of {file} is full"
