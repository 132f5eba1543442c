"""Read for the console: in few threads, within seconds, and once for all who ask at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(THREADS, "console")
        self._shared: dict[str, SharedRead] = {}

    async def run(self, page: Callable[[], Result]) -> Result:
        """Run `page` in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, page)

    def read(self, seconds: float = MAX_SECONDS) -> AbstractContextManager[sa.Connection]:
        """Open a connection whose statements are stopped after so many seconds (`TooSlow`)."""
        return self._database.read_within(seconds)

    def share(self, name: str, read: Callable[[], Result], *, seconds: float) -> Result:
        """Return what `read` returns or returned in the last seconds, whoever asked then."""
        shared = self._shared.setdefault(name, SharedRead())
        result: Result = shared.get(read, seconds)
        return result

    def close(self) -> None:
        self._threads.shutdown()


class SharedRead:
    """One result; while it is read, everybody else waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._result: Any = None

    def get(self, read: Callable[[], Any], seconds: float) -> Any:
        with self._lock:
            if time.monotonic() - self._read_at > seconds:
                self._result = read()
                self._read_at = time.monotonic()
            return self._result
