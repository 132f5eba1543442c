"""Jobs and their inputs into the outbox, however they come."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.events import Event
from worker.store.bulk import insert_rows, recorded
from worker.store.column_types import Json
from worker.store.database import EventRecorder, Transaction
from worker.store.driver import Ask, Often
from worker.store.sql_functions import now
from worker.store.tables import events, items, jobs
from worker.wire.inputs import COLUMN_FIELDS

COLUMNS = ("job_id", "item_index", *COLUMN_FIELDS, "extra")
_COLUMN_SET = frozenset(COLUMN_FIELDS)


def id_with_key(connection: sa.Connection, key: str | None) -> UUID | None:
    """The id of the job that has this key already."""
    if key is None:
        return None
    return connection.scalar(sa.select(jobs.c.id).where(jobs.c.idempotency_key == key))


def insert_job(connection: sa.Connection, job: dict[str, Any]) -> bool:
    """False where another transaction was first with this key."""
    return connection.scalar(_insert_job(connection.dialect.name), job) is not None


@cache
def _insert_job(dialect: str) -> sa.Executable:
    """Put together once: for a job of few inputs that costs as much as running it."""
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(jobs).on_conflict_do_nothing(index_elements=["idempotency_key"])
    return statement.returning(jobs.c.id)


def item_row(job_id: UUID, index: int, value: Mapping[str, Any]) -> tuple[object, ...]:
    """An input's values in the order of `COLUMNS`; ids and JSON are text."""
    extra = None
    if not value.keys() <= _COLUMN_SET:
        extra = {
            name: part
            for name, part in value.items()
            if name not in _COLUMN_SET and part is not None
        }
    return (
        str(job_id),
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
    """What is known to be good, and has a key, so that it may be put a second time."""

    id: UUID
    columns: Mapping[str, Any]  # the others, of `_JOB_COLUMNS`
    inputs: Sequence[Mapping[str, Any]]
    detail: Mapping[str, Any]  # of the event `job.taken`


def put_jobs(tx: Transaction, given: Sequence[NewJob]) -> set[UUID]:
    """Several jobs in as few statements as one.

    Returns the ids of those that are new: of the others the key was there already.
    """
    rows = [{"id": one.id, **one.columns} for one in _in_order(given)]
    new = set(tx.scalars(_insert_job(tx.connection.dialect.name), rows))
    put = [one for one in given if one.id in new]
    if put:
        insert_rows(tx.connection, items, COLUMNS, list(_item_rows(put)))
    _taken(tx, put)
    return new


async def put_at_once(ask: Ask, given: Sequence[NewJob], recorder: EventRecorder) -> set[UUID]:
    """The same in one statement of PostgreSQL's, and so one way to it and back instead of six.

    It is a transaction by itself. For few inputs: they are one document in memory, here and there.
    """
    rows = [{"id": str(one.id), **one.columns, "detail": one.detail} for one in _in_order(given)]
    inputs = list(_item_rows(given))
    found = await ask(_PUT_AT_ONCE, {"jobs": _json_text(rows), "items": _json_text(inputs)})
    new = {row.id for row in found}
    _taken(recorder, [one for one in given if one.id in new])
    return new


def _taken(recorder: EventRecorder, new: Sequence[NewJob]) -> None:
    for one in new:
        recorder.record_event(Event.JOB_TAKEN, job_id=one.id, **one.detail)


def _in_order(given: Sequence[NewJob]) -> list[NewJob]:
    """One order, whoever inserts them: else two that have the same keys wait for each other."""
    return sorted(given, key=lambda one: str(one.columns["idempotency_key"]))


def _item_rows(given: Sequence[NewJob]) -> Iterator[tuple[object, ...]]:
    for one in given:
        for index, value in enumerate(one.inputs):
            yield item_row(one.id, index, value)


_JOB_COLUMNS = (
    "id",
    "judge_id",
    "judge_version_id",
    "tags",
    "idempotency_key",
    "priority",
    "metadata",
    "owner",
    "trace_context",
)


_JOB_TAKEN: sa.ColumnElement[str] = sa.literal_column(f"'{Event.JOB_TAKEN}'")


def _put_at_once() -> Often:
    columns = [sa.column(name, jobs.c[name].type) for name in _JOB_COLUMNS]
    document = sa.cast(sa.bindparam("jobs", type_=sa.Text), Json)
    records = sa.func.jsonb_to_recordset(document).table_valued(
        *columns, sa.column("detail", Json), name="record"
    )
    given = sa.select(records.render_derived(with_types=True)).cte("given")
    new = (
        postgresql.insert(jobs)
        .from_select(_JOB_COLUMNS, sa.select(*(given.c[name] for name in _JOB_COLUMNS)))
        .on_conflict_do_nothing(index_elements=["idempotency_key"])
        .returning(jobs.c.id)
        .cte("new")
    )
    row, values = recorded(items, COLUMNS, sa.cast(sa.bindparam("items", type_=sa.Text), Json))
    of_new = sa.select(*values).select_from(row).join(new, new.c.id == values[0])
    put = sa.insert(items).from_select(COLUMNS, of_new).cte("put")
    accepted = sa.select(_JOB_TAKEN, given.c.id, given.c.detail, now())
    told = (
        sa.insert(events)
        .from_select(
            ("event", "job_id", "detail", "at"), accepted.join(new, new.c.id == given.c.id)
        )
        .cte("told")
    )
    return Often(sa.select(new.c.id).add_cte(put, told))


_PUT_AT_ONCE = _put_at_once()
