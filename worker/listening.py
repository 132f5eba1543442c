"""Hears of new jobs on PostgreSQL: a hint that saves the wait for the next look at the tables."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

log = structlog.get_logger("evalworker")

CHANNEL = "eval_jobs"
CHECK_SECONDS = 1.0  # how often the thread looks whether it is to stop
RECONNECT_SECONDS = 5.0


class Listener:
    """One thread with a connection of its own; when it breaks, polling goes on without it."""

    def __init__(self, engine: sa.Engine, wake: Callable[[], None]) -> None:
        self.engine = engine
        self.wake = wake
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except psycopg.Error as error:
                log.debug("listener.reconnects", reason=str(error))
                self._stopping.wait(RECONNECT_SECONDS)

    def _listen(self) -> None:
        arguments, options = self.engine.dialect.create_connect_args(self.engine.url)
        with psycopg.connect(*arguments, **options, autocommit=True) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            self.wake()  # what came while nobody listened
            while not self._stopping.is_set():
                for _ in connection.notifies(timeout=CHECK_SECONDS, stop_after=1):
                    self.wake()
