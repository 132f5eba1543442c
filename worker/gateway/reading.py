"""Reads for many clients at once, in a few threads: the event loop never waits for the database.

A read takes a fraction of a millisecond; more threads would only contend for the interpreter.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from worker.gateway.telling import Telling

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from worker.store.database import Database

    _Read = tuple[Callable[[sa.Connection], Any], Telling[Any]]

Result = TypeVar("Result")

THREADS = 4


class Readers:
    """The threads that read. A context manager."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: queue.SimpleQueue[_Read | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"gateway reader {number}")
            for number in range(THREADS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    async def run(self, work: Callable[[sa.Connection], Result]) -> Result:
        """What `work` returns, for which see `Database.look`."""
        answer: Telling[Result] = Telling()
        self._waiting.put((work, answer))
        return await answer

    def _run(self) -> None:
        while (read := self._waiting.get()) is not None:
            work, answer = read
            if not answer.is_wanted():
                continue
            try:
                answer.tell(self._database.look(work))
            except Exception as error:  # noqa: BLE001 (told to who waits for it)
                answer.tell(error)
