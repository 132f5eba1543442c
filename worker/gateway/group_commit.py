"""Group commit: submissions that wait at the same time share one transaction.

A commit waits for the disk, which costs more than the rest of a submission. While one transaction
is under way, new submissions queue up, and the next transaction takes all of them (DeWitt et al.,
"Implementation techniques for main memory database systems", SIGMOD 1984).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from worker.store.database import Database, is_transient
from worker.store.job_insert import NewJob, insert_jobs

MAX_GROUP_INPUTS = 250  # a job with more is committed alone


@dataclass(frozen=True, slots=True)
class _QueuedJob:
    job: NewJob
    is_new: asyncio.Future[bool]

    def resolve(self, outcome: bool | Exception) -> None:
        if self.is_new.done():  # its client has disconnected
            return
        if isinstance(outcome, Exception):
            self.is_new.set_exception(outcome)
        else:
            self.is_new.set_result(outcome)


class GroupCommit:
    """The submissions that wait for a transaction. Not thread-safe: use it on one event loop.

    `on_commit` is called when jobs were inserted.
    """

    def __init__(self, database: Database, on_commit: Callable[[], None]) -> None:
        self._database = database
        self._on_commit = on_commit
        self._thread = ThreadPoolExecutor(1, "gateway writer")
        self._queue: deque[_QueuedJob] = deque()
        self._committing: asyncio.Task[None] | None = None

    async def insert(self, job: NewJob) -> bool:
        """Return when the job is committed; False if its idempotency key was already in use."""
        queued = _QueuedJob(job, asyncio.get_running_loop().create_future())
        self._queue.append(queued)
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_queue())
        return await queued.is_new

    async def close(self) -> None:
        """Commit the queued submissions, then close."""
        if self._committing is not None:
            await self._committing
        self._thread.shutdown()

    async def _commit_queue(self) -> None:
        try:
            while self._queue:
                if group := self._next_group():
                    await self._commit(group)
        finally:
            self._committing = None

    def _next_group(self) -> list[_QueuedJob]:
        group: list[_QueuedJob] = []
        inputs = 0
        while self._queue:
            inputs += len(self._queue[0].job.inputs)
            if group and inputs > MAX_GROUP_INPUTS:
                break
            queued = self._queue.popleft()
            if not queued.is_new.done():  # its client is still connected
                group.append(queued)
        return group

    async def _commit(self, group: Sequence[_QueuedJob]) -> None:
        jobs = [queued.job for queued in group]
        try:
            inserted = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._insert, jobs
            )
        except Exception as error:  # noqa: BLE001 (passed on to every waiting client)
            if len(group) == 1 or (isinstance(error, DBAPIError) and is_transient(error)):
                for queued in group:
                    queued.resolve(error)
                return
            for queued in group:  # one by one: the error may concern a single submission
                await self._commit([queued])
            return
        if inserted:
            self._on_commit()
        for queued in group:
            queued.resolve(queued.job.id in inserted)

    def _insert(self, jobs: Sequence[NewJob]) -> set[UUID]:
        return self._database.run(lambda tx: insert_jobs(tx, jobs))
