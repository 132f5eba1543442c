"""Reads for the gateway, in threads, so that the event loop never waits for the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import sqlalchemy as sa

from worker.store.database import Database

Result = TypeVar("Result")

THREADS = 8  # several, as a large job occupies one for half a second


class DatabaseReader:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(THREADS, "gateway reader")

    async def run(self, query: Callable[[sa.Connection], Result]) -> Result:
        """Return what `query` returns, given a connection for reading."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, query)

    def _read(self, query: Callable[[sa.Connection], Result]) -> Result:
        with self._database.read() as connection:
            return query(connection)

    def close(self) -> None:
        self._threads.shutdown()
