"""Listen for new jobs on PostgreSQL: a hint that saves the wait for the dispatcher's next turn."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import psycopg
import structlog

from worker.pipeline.loop_errors import LoopErrors
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
        """Listen until stopped; a broken connection is replaced.

        Notifications do not come through a pooler. There the dispatcher alone finds new jobs.
        """
        errors = LoopErrors("job_listener", self.database.outages)
        while not self._stopping.is_set():
            try:
                connection = self.database.listening_connection()
                if connection is None:
                    log.info("job_listener.off", reason="the database is behind a pooler")
                    return
                self._listen(connection)
            except psycopg.Error as error:  # of the connection itself, which is replaced
                log.debug("job_listener.reconnects", reason=str(error))
                self._stopping.wait(RECONNECT_SECONDS)
            except Exception as error:  # noqa: BLE001 (the thread must go on)
                errors.report(error)
                self._stopping.wait(RECONNECT_SECONDS)

    def _listen(self, connection: psycopg.Connection[object]) -> None:
        with contextlib.closing(connection):
            connection.execute(f"LISTEN {CHANNEL}")
            self.wake()  # for jobs that came while nobody listened
            while not self._stopping.is_set():
                for _ in connection.notifies(timeout=CHECK_SECONDS, stop_after=1):
                    self.wake()
