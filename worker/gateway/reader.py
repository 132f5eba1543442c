"""Read in threads for the gateway, so that its event loop never waits for the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import sqlalchemy as sa

from worker.store.database import Database

Result = TypeVar("Result")

THREADS = 8  # several, as a large job occupies one for half a second


class DatabaseReader:
    def __init__(self, database: Database) -> None:
        self.outages = database.outages
        self._database = database
        self._threads = ThreadPoolExecutor(THREADS, "gateway reader")

    async def run(self, query: Callable[[sa.Connection], Result]) -> Result:
        """Return what `query` returns, given a connection for reading."""
        read = partial(self._database.read_autocommit, query)
        return await asyncio.get_running_loop().run_in_executor(self._threads, read)

    def close(self) -> None:
        self._threads.shutdown()
