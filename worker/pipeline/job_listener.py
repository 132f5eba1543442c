"""Hears of new jobs on PostgreSQL: a hint that saves the wait for the next look at the tables."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker.store.database import Database

log = structlog.get_logger("evalworker")

CHANNEL = "eval_jobs"
CHECK_SECONDS = 1.0  # how often the thread looks whether it is to stop
RECONNECT_SECONDS = 5.0


class Listener:
    """One thread with a connection of its own; when it breaks, polling goes on without it."""

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self.database = database
        self.wake = wake
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (psycopg.Error, SQLAlchemyError) as error:
                log.debug("listener.reconnects", reason=str(error))
                self._stopping.wait(RECONNECT_SECONDS)

    def _listen(self) -> None:
        with contextlib.closing(self.database.driver_to_keep()) as connection:
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
            self.wake()  # what came while nobody listened
            while not self._stopping.is_set():
                for _ in connection.notifies(timeout=CHECK_SECONDS, stop_after=1):
                    self.wake()
