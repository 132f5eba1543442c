"""Delete jobs that ended long ago, in many small transactions, so that others can work between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar
from uuid import UUID

from worker.store import expired_rows
from worker.store.database import Database
from worker.store.transaction import Transaction

Result = TypeVar("Result")

MAX_JOBS = 100  # in one transaction
MAX_BATCHES = 100  # in one transaction


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted, or would be."""

    before: datetime  # the jobs had ended by then
    jobs: int = 0
    inputs: int = 0  # if only texts are deleted, those that lost theirs
    batches: int = 0
    events: int = 0


def count(database: Database, older_than: timedelta, *, texts_only: bool) -> Pruned:
    """Count what `prune` would delete, without batches and events, which depend on what is left."""
    before = datetime.now(UTC) - older_than
    with database.read() as connection:
        found = expired_rows.expired_jobs(connection, before, texts_only=texts_only)
    return Pruned(before, len(found), sum(job.inputs for job in found))


def prune(
    database: Database,
    older_than: timedelta,
    *,
    texts_only: bool = False,
    on_progress: Callable[[Pruned], None] = lambda _: None,
) -> Pruned:
    """Delete jobs that ended so long ago, or only their texts; then batches that none refers to.

    A small job is deleted in one transaction, a large one in several, beginning with its end.
    """
    total = Pruned(datetime.now(UTC) - older_than)
    change = expired_rows.delete_texts if texts_only else expired_rows.delete_jobs
    for job_ids in _groups(database, total.before, texts_only=texts_only):
        step, done = partial(change, job_ids=job_ids, before=total.before), False
        while not done:
            deleted = _run_and_rest(database, step)
            total = replace(
                total,
                jobs=total.jobs + deleted.jobs,
                inputs=total.inputs + deleted.inputs,
                events=total.events + deleted.events,
            )
            on_progress(total)
            done = deleted.done
    if not texts_only:
        total = _prune_batches(database, total)
    if total.jobs or total.batches:
        database.run(
            lambda tx: expired_rows.record_prune(
                tx, total.before, jobs=total.jobs, inputs=total.inputs, texts_only=texts_only
            )
        )
    return total


def _groups(database: Database, before: datetime, *, texts_only: bool) -> Iterator[Sequence[UUID]]:
    """Yield groups of jobs that fit into one transaction; a larger job is a group by itself."""
    last: UUID | None = None
    while True:
        with database.read() as connection:
            found = expired_rows.expired_jobs(
                connection, before, texts_only=texts_only, after=last, limit=MAX_JOBS
            )
        group: list[UUID] = []
        inputs = 0
        for job in found:
            if group and inputs + job.inputs >= expired_rows.MAX_ROWS:
                yield group
                group, inputs = [], 0
            group.append(job.id)
            inputs += job.inputs
        if not group:
            return
        yield group
        last = group[-1]


def _prune_batches(database: Database, total: Pruned) -> Pruned:
    with database.read() as connection:
        found = expired_rows.unreferenced_batches(connection, total.before)
    for start in range(0, len(found), MAX_BATCHES):
        chunk = found[start : start + MAX_BATCHES]
        batches, events = _run_and_rest(
            database, partial(expired_rows.delete_batches, batch_ids=chunk)
        )
        total = replace(total, batches=total.batches + batches, events=total.events + events)
    return total


def _run_and_rest(database: Database, work: Callable[[Transaction], Result]) -> Result:
    """Run a transaction, then rest for as long as it took, as SQLite has one writer at a time."""
    began = time.monotonic()
    result = database.run(work)
    time.sleep(time.monotonic() - began)
    return result
