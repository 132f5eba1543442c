"""Insert jobs and their inputs into the outbox, for `enqueue` and for the gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.events import Event
from worker.store.bulk import insert_rows
from worker.store.rows import read_rows, select_rows
from worker.store.tables import items, jobs
from worker.store.transaction import Transaction
from worker.wire.inputs import COLUMN_FIELDS

_COLUMNS: tuple[str, ...] = ("job_id", "item_index", *COLUMN_FIELDS, "extra")
_OWN_COLUMN = frozenset((*COLUMN_FIELDS, "metadata"))


class JobWithKey(NamedTuple):
    """A job that already has an idempotency key."""

    id: UUID
    content_digest: str | None  # None: its content was not recorded


def job_with_key(connection: sa.Connection, key: str) -> JobWithKey | None:
    """Return the job that already has this idempotency key."""
    chosen = select_rows(JobWithKey, jobs).where(jobs.c.idempotency_key == key)
    found = read_rows(connection, JobWithKey, chosen)
    return found[0] if found else None


def insert_job(connection: sa.Connection, job: dict[str, Any]) -> bool:
    """Insert a job; return False if another transaction has used its idempotency key."""
    return connection.scalar(_insert_job(connection.dialect.name), job) is not None


def record_content(connection: sa.Connection, job_id: UUID, digest: str) -> None:
    """Record the digest of a job that was inserted before all of its inputs were known."""
    if connection.dialect.name == "postgresql":  # producers may not update jobs
        connection.execute(sa.select(sa.func.eval_record_content(job_id, digest)))
        return
    values = {"content_digest": digest}
    connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(values))


@cache  # for a job of few inputs, building the statement costs as much as running it
def _insert_job(dialect: str) -> sa.Executable:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(jobs).on_conflict_do_nothing(index_elements=["idempotency_key"])
    return statement.returning(jobs.c.id)


def insert_items(
    connection: sa.Connection, inputs: Sequence[tuple[str, int, Mapping[str, Any]]]
) -> None:
    """Insert inputs, each given with its job's id, as text, and its index in that job."""
    columns = _COLUMNS
    rows = [_item_row(job_id, index, value) for job_id, index, value in inputs]
    # Most jobs have none. Left out, it costs nothing.
    if any("metadata" in value for _, _, value in inputs):
        columns = (*_COLUMNS, "metadata")
        rows = [
            (*row, _json_text(value.get("metadata")))
            for row, (_, _, value) in zip(rows, inputs, strict=True)
        ]
    insert_rows(connection, items, columns, rows)


def _item_row(job_id: str, index: int, value: Mapping[str, Any]) -> tuple[object, ...]:
    """Return an input's values in the order of `_COLUMNS`; JSON values are text."""
    extra = None
    if not value.keys() <= _OWN_COLUMN:
        extra = {
            name: part
            for name, part in value.items()
            if name not in _OWN_COLUMN and part is not None
        }
    return (
        job_id,
        index,
        value.get("request"),
        value.get("response"),
        _json_text(value.get("contexts")),
        _json_text(value.get("functions")),
        value.get("expected_output"),
        _json_text(extra or None),
    )


def _json_text(value: object) -> str | None:
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class NewJob(NamedTuple):
    """A validated job with an idempotency key, so that inserting it again is harmless."""

    id: UUID
    columns: Mapping[str, Any]  # of `eval_jobs`, without the id
    inputs: Sequence[Mapping[str, Any]]
    detail: Mapping[str, Any]  # of the event `job.taken`


def insert_jobs(tx: Transaction, new_jobs: Sequence[NewJob]) -> set[UUID]:
    """Insert several jobs in as few statements as one.

    Returns the ids of the jobs that were inserted; the idempotency keys of the others are in use.
    """
    # Sorted: two transactions that insert the same keys in different orders would deadlock.
    ordered = sorted(new_jobs, key=lambda job: str(job.columns["idempotency_key"]))
    values = [{"id": job.id, **job.columns} for job in ordered]
    ids = set(tx.scalars(_insert_job(tx.connection.dialect.name), values))
    inserted = [job for job in new_jobs if job.id in ids]
    if inserted:
        rows = [
            (str(job.id), index, value)
            for job in inserted
            for index, value in enumerate(job.inputs)
        ]
        insert_items(tx.connection, rows)
    for job in inserted:
        tx.record_event(Event.JOB_TAKEN, job_id=job.id, **job.detail)
    return ids
