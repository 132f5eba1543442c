"""Listen for new jobs on PostgreSQL: a hint that saves the wait for the dispatcher's next turn."""

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
CHECK_SECONDS = 1.0  # how often the thread checks whether it is to stop
RECONNECT_SECONDS = 5.0


class JobListener:
    """One thread with a connection of its own; when that breaks, the dispatcher goes on without."""

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self.database = database
        self.wake = wake
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Listen until stopped; a broken connection is replaced."""
        while not self._stopping.is_set():
            try:
                self._listen()
            except (psycopg.Error, SQLAlchemyError) as error:
                log.debug("job_listener.reconnects", reason=str(error))
                self._stopping.wait(RECONNECT_SECONDS)

    def _listen(self) -> None:
        with contextlib.closing(self.database.detached_connection()) as connection:
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
            self.wake()  # for jobs that came while nobody listened
            while not self._stopping.is_set():
                for _ in connection.notifies(timeout=CHECK_SECONDS, stop_after=1):
                    self.wake()
