"""Reads for many clients at once, on the event loop, which never waits for another machine.

What is read very often is a few rows, found by their keys. To tell a thread of it, and the loop of
what it found, would take longer than that on SQLite, and as long on PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from worker.store.database import Database
from worker.store.driver import Often
from worker.store.pipeline import Pipeline

Result = TypeVar("Result")


class Reading:
    """Of one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pipeline = Pipeline(database) if database.on_postgresql else None

    async def ask(self, select: Often, given: Mapping[str, Any]) -> Sequence[Any]:
        """The rows as they are committed now."""
        if self._pipeline is not None:
            return await self._pipeline.all(select, given)
        return self._database.look(lambda connection: select.all(connection, given))

    async def run(self, work: Callable[[sa.Connection], Result]) -> Result:
        """What `work` returns, for which see `Database.look`; in a thread."""
        return await asyncio.to_thread(self._database.look, work)

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
