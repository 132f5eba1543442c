"""Deletes what ended long ago, in many small transactions; others work on between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from worker.store import expired_rows
from worker.store.database import Database, Transaction

Result = TypeVar("Result")

JOBS_AT_ONCE = 100
BATCHES_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Pruned:
    """What is gone, or would be; of texts, the inputs that lost theirs."""

    before: datetime  # of the jobs: they had ended by then
    jobs: int = 0
    inputs: int = 0
    batches: int = 0
    events: int = 0


def count(database: Database, older_than: timedelta, *, texts_only: bool) -> Pruned:
    """What `prune` would delete, batches and events aside: they depend on what else is left."""
    before = datetime.now(UTC) - older_than
    with database.read() as connection:
        found = expired_rows.ended_jobs(connection, before, texts_only=texts_only)
    return Pruned(before, len(found), sum(job.inputs for job in found))


def prune(
    database: Database,
    older_than: timedelta,
    *,
    texts_only: bool = False,
    on_progress: Callable[[Pruned], None] = lambda _: None,
) -> Pruned:
    """Whole jobs that ended so long ago, or only their texts; then batches nobody refers to.

    A job that fits into a transaction goes in one; a larger one piece by piece, from its end.
    """
    sofar = Pruned(datetime.now(UTC) - older_than)
    change = expired_rows.delete_texts if texts_only else expired_rows.delete_jobs
    for job_ids in _groups(database, sofar.before, texts_only=texts_only):
        step, done = partial(change, job_ids=job_ids, before=sofar.before), False
        while not done:
            deleted = _unhurried(database, step)
            sofar = replace(
                sofar,
                jobs=sofar.jobs + deleted.jobs,
                inputs=sofar.inputs + deleted.inputs,
                events=sofar.events + deleted.events,
            )
            on_progress(sofar)
            done = deleted.done
    if not texts_only:
        sofar = _prune_batches(database, sofar)
    if sofar.jobs or sofar.batches:
        database.run(
            lambda tx: expired_rows.note(
                tx, sofar.before, jobs=sofar.jobs, inputs=sofar.inputs, texts_only=texts_only
            )
        )
    return sofar


def _groups(database: Database, before: datetime, *, texts_only: bool) -> Iterator[Sequence[UUID]]:
    """Jobs that fit into one transaction together, or one that is larger by itself."""
    last: UUID | None = None
    while True:
        with database.read() as connection:
            found: Sequence[Any] = expired_rows.ended_jobs(
                connection, before, texts_only=texts_only, after=last, limit=JOBS_AT_ONCE
            )
        group: list[UUID] = []
        inputs = 0
        for job in found:
            if group and inputs + job.inputs >= expired_rows.AT_ONCE:
                yield group
                group, inputs = [], 0
            group.append(job.id)
            inputs += job.inputs
        if not group:
            return
        yield group
        last = group[-1]


def _prune_batches(database: Database, sofar: Pruned) -> Pruned:
    with database.read() as connection:
        found = expired_rows.unreferenced_batches(connection, sofar.before)
    for start in range(0, len(found), BATCHES_AT_ONCE):
        some = found[start : start + BATCHES_AT_ONCE]
        batches, events = _unhurried(database, partial(expired_rows.delete_batches, batch_ids=some))
        sofar = replace(sofar, batches=sofar.batches + batches, events=sofar.events + events)
    return sofar


def _unhurried(database: Database, work: Callable[[Transaction], Result]) -> Result:
    """A transaction, and then a rest as long as it took: SQLite has one writer at a time."""
    began = time.monotonic()
    result = database.run(work)
    time.sleep(time.monotonic() - began)
    return result
