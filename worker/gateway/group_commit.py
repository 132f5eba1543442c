"""Writes for many clients, those that wait at the same time in one transaction.

One is under way at a time: a commit is what a submission costs most, and so all that come meanwhile
share the next one, and its statements.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from worker.store.database import Database, EventRecorder, worth_another_try
from worker.store.job_insert import NewJob, put_at_once, put_jobs
from worker.store.pipeline import Pipeline

TOGETHER = 250  # inputs; a job of more is written alone


@dataclass(frozen=True, slots=True)
class _Waiting:
    job: NewJob
    is_new: asyncio.Future[bool]


class Writing:
    """Of one event loop."""

    def __init__(self, database: Database, on_taken: Callable[[], None]) -> None:
        self._database = database
        self._on_taken = on_taken
        # Its own: a poll would wait for the commit that was sent before it.
        self._pipeline = Pipeline(database) if database.on_postgresql else None
        self._thread = ThreadPoolExecutor(1, "gateway writer")
        self._waiting: deque[_Waiting] = deque()
        self._under_way: asyncio.Task[None] | None = None

    async def put(self, job: NewJob) -> bool:
        """Whether it is new, once it is committed; False where its key was there already."""
        waiting = _Waiting(job, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._write_all())
        return await waiting.is_new

    async def close(self) -> None:
        """What waits is still written."""
        if self._under_way is not None:
            await self._under_way
        if self._pipeline is not None:
            self._pipeline.close()
        self._thread.shutdown()

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                if group := self._next_group():
                    await self._write(group)
        finally:
            self._under_way = None

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        inputs = 0
        while self._waiting:
            inputs += len(self._waiting[0].job.inputs)
            if group and inputs > TOGETHER:
                break
            one = self._waiting.popleft()
            if not one.is_new.done():  # else who waited has gone, and wants nothing any more
                group.append(one)
        return group

    async def _write(self, group: Sequence[_Waiting]) -> None:
        try:
            new = await self._put([one.job for one in group])
        except Exception as error:  # noqa: BLE001 (told to everyone who waits for it)
            if len(group) == 1 or (isinstance(error, DBAPIError) and worth_another_try(error)):
                for one in group:
                    _tell(one, error)
                return
            for one in group:  # what one of them brought about is not the others' fault
                await self._write([one])
            return
        if new:
            self._on_taken()
        for one in group:
            _tell(one, one.job.id in new)

    async def _put(self, jobs: Sequence[NewJob]) -> set[UUID]:
        """In the thread what is large, and everything on SQLite."""
        if self._pipeline is not None and sum(len(job.inputs) for job in jobs) <= TOGETHER:
            recorder = EventRecorder()
            new = await put_at_once(self._pipeline.all, jobs, recorder)
            self._database.publish(recorder)
            return new
        database = self._database
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: database.run(lambda tx: put_jobs(tx, jobs))
        )


def _tell(waiting: _Waiting, told: bool | Exception) -> None:
    if waiting.is_new.done():
        return
    if isinstance(told, Exception):
        waiting.is_new.set_exception(told)
    else:
        waiting.is_new.set_result(told)
