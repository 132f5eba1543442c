"""Read for the console: in few threads, within seconds, and once for all who ask at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import sqlalchemy as sa

from worker.store.database import Database

Result = TypeVar("Result")

THREADS = 8
MAX_SECONDS = 5.0  # that a read may take; then a page says what to narrow
EXTRA_SECONDS = 1.0  # for what a page can do without


class Reader:
    """Runs pages in threads, which read the database."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, "console")
        self._shared: dict[str, SharedRead] = {}

    async def run(self, page: Callable[[], Result]) -> Result:
        """Run `page` in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, page)

    def read(self, seconds: float = MAX_SECONDS) -> AbstractContextManager[sa.Connection]:
        """Open a connection whose statements are stopped after so many seconds (`TooSlow`)."""
        return self._database.read_within(seconds)

    def share(self, name: str, read: Callable[[], Result], *, seconds: float) -> Result:
        """Return what `read` returns, at most once in each interval of so many seconds."""
        shared = self._shared.setdefault(name, SharedRead(self._clock))
        result: Result = shared.get(read, seconds)
        return result

    def forget(self) -> None:
        """Forget shared results, also those that are being read: somebody has changed something."""
        self._shared.clear()

    def close(self) -> None:
        self._threads.shutdown()


class SharedRead:
    """The outcome of one read, for all who ask while it runs or in the same interval.

    Intervals begin at multiples of their length, not with a read: whoever asks once in each of them
    is not served what they have seen, and any number of people who do cost one read.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._begun_at = 0.0
        self._outcome: Future[Any] | None = None

    def get(self, read: Callable[[], Any], seconds: float) -> Any:
        """Return the outcome, or raise it: a read that fails is not repeated for all who wait."""
        with self._lock:
            outcome, now = self._outcome, self._clock()
            is_old = self._begun_at // seconds < now // seconds
            if is_mine := outcome is None or (outcome.done() and is_old):
                outcome = self._outcome = Future()
                self._begun_at = now
        if is_mine:
            try:
                outcome.set_result(read())
            except Exception as error:  # noqa: BLE001 (raised below, and to all who wait)
                outcome.set_exception(error)
        return outcome.result()
