"""Read what waits, and turn it into planned batches; `pipeline.planner` decides which."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from worker.domain.batching import WaitingItem
from worker.domain.lifecycle import BatchState, Status
from worker.events import Event
from worker.store import pauses
from worker.store.bulk import BulkUpdate
from worker.store.column_types import Id
from worker.store.leases import Claim
from worker.store.sql_functions import now, octet_length, seconds_between
from worker.store.tables import batches, item_is_waiting, items, jobs
from worker.store.transaction import Transaction

EVER = 1e9  # seconds: longer than any item waits for others
PLANNING_LOCK = 0x65766C01  # an advisory lock of PostgreSQL; SQLite has one writer anyway


class Lane(NamedTuple):
    """Judge, version and tags of due jobs, whose items may share a batch."""

    key: str
    judge_id: Any  # as plain SQL may have written them: not validated yet
    judge_version_id: Any
    tags: Any
    priority: int


def lock_planning(tx: Transaction, *, wait: bool) -> bool:
    """Take the planners' lock until the transaction ends; False if another process has it."""
    if not tx.on_postgresql:
        return True
    if wait:
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(PLANNING_LOCK)))
        return True
    return bool(tx.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(PLANNING_LOCK))))


def count_live_batches(tx: Transaction) -> tuple[int, int]:
    """Count the batches that take a slot at the remote, or soon will; and those in doubt.

    Those behind a pause take none, so that the other judges' work goes on.
    """
    taken, in_doubt = tx.execute(_LIVE_BATCHES).one()
    return int(taken), int(in_doubt)


def build_doubt_counts(condition: sa.ColumnElement[bool]) -> sa.Executable:
    """Build two counts of live batches that meet a condition: not in doubt, and in doubt."""
    in_doubt = batches.c.state == BatchState.UNKNOWN
    counts = [sa.func.count().filter(part) for part in (sa.not_(in_doubt), in_doubt)]
    return sa.select(*counts).select_from(batches).where(batches.c.due_at.isnot(None), condition)


_LIVE_BATCHES = build_doubt_counts(sa.not_(pauses.is_behind_pause()))


def due_lanes(tx: Transaction) -> list[Lane]:
    """Return lanes with due jobs: highest priority first, then longest waiting.

    Lanes of paused judges are left out.
    """
    return [Lane(*row) for row in tx.execute(_DUE_LANES)]


_LANE = (jobs.c.lane, jobs.c.judge_id, jobs.c.judge_version_id, jobs.c.tags)
_PRIORITY = sa.func.max(jobs.c.priority).label("priority")
_DUE_LANES = (
    sa.select(*_LANE, _PRIORITY)
    .where(jobs.c.due_at <= now(), sa.not_(pauses.is_paused(jobs.c.judge_id)))
    .group_by(*_LANE)
    .order_by(_PRIORITY.desc(), sa.func.min(jobs.c.due_at))
)


def waiting_items(tx: Transaction, lane: str, limit: int) -> list[WaitingItem]:
    """Return the next items of a lane, in the order in which they are to be sent."""
    statement = _WAITING_ON_POSTGRESQL if tx.on_postgresql else _WAITING_ON_SQLITE
    given = {"of_lane": lane, "maximum": limit}
    return [WaitingItem(*row) for row in tx.execute(statement, given).all()]


def _bytes(text: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(octet_length(text), 0)


def _size() -> sa.ColumnElement[int]:
    """Build the number of bytes of an item's texts."""
    size: sa.ColumnElement[int] = sa.literal(0)
    for text in (items.c.request, items.c.response, items.c.expected_output):
        size += _bytes(text)
    for json in (items.c.contexts, items.c.functions, items.c.extra):
        size += _bytes(sa.cast(json, sa.Text))
    return size


_WAITS_NOW = sa.and_(item_is_waiting, items.c.due_at <= now())
# An item that is due since '-infinity' has waited for no number of seconds: it goes now.
_WAITED = sa.func.coalesce(seconds_between(items.c.due_at, now()), EVER)
_LIMIT = sa.bindparam("maximum", type_=sa.Integer)
_DUE_OF_LANE = (
    sa.select(jobs.c.id, jobs.c.priority)
    .where(jobs.c.lane == sa.bindparam("of_lane"), jobs.c.due_at <= now())
    .order_by(jobs.c.priority.desc(), jobs.c.id)
    .subquery("due_job")
)
# No row is locked: nobody else plans items while this transaction has the planners' lock.
_WAITING_ON_SQLITE = (
    sa.select(items.c.job_id, items.c.item_index, _size(), _WAITED)
    .join_from(jobs, items, items.c.job_id == jobs.c.id)
    .where(jobs.c.lane == sa.bindparam("of_lane"), jobs.c.due_at <= now(), _WAITS_NOW)
    .order_by(jobs.c.priority.desc(), jobs.c.id, items.c.item_index)
    .limit(_LIMIT)
)
# Job by job, until there are enough: for a join, PostgreSQL would read and sort all that waits.
_OF_ONE_JOB = (
    sa.select(items.c.item_index, _size().label("size"), _WAITED.label("waited"))
    .where(items.c.job_id == _DUE_OF_LANE.c.id, _WAITS_NOW)
    .order_by(items.c.item_index)
    .limit(_LIMIT)
    .lateral("waiting")
)
_WAITING_ON_POSTGRESQL = (
    sa.select(_DUE_OF_LANE.c.id, _OF_ONE_JOB.c.item_index, _OF_ONE_JOB.c.size, _OF_ONE_JOB.c.waited)
    .join_from(_DUE_OF_LANE, _OF_ONE_JOB, sa.true())
    .order_by(_DUE_OF_LANE.c.priority.desc(), _DUE_OF_LANE.c.id, _OF_ONE_JOB.c.item_index)
    .limit(_LIMIT)
)


def insert_batches(
    tx: Transaction, lane: Lane, groups: Sequence[Sequence[WaitingItem]]
) -> list[UUID]:
    """Insert a planned batch for each group, and put its items into it: pending -> processing."""
    batch_ids = insert_planned(tx, lane, item_counts=[len(members) for members in groups])
    runs = [
        {**run, "to_batch": batch_id}
        for batch_id, members in zip(batch_ids, groups, strict=True)
        for run in _runs(members)
    ]
    _ASSIGN_RUN.run(tx, runs)
    return batch_ids


def _runs(members: Sequence[WaitingItem]) -> list[dict[str, Any]]:
    """Group the members into runs of consecutive items of one job.

    Keys: of_job, first and last (item indices), index (of the first one in the batch). Mostly there
    is one run, as items of one job are planned together.
    """
    runs: list[dict[str, Any]] = []
    for position, member in enumerate(members):
        job_id, index = member.job_id, member.item_index
        if runs and runs[-1]["last"] == index - 1 and runs[-1]["of_job"] == job_id:
            runs[-1]["last"] = index
        else:
            runs.append({"of_job": job_id, "first": index, "last": index, "index": position})
    return runs


_ASSIGN_RUN = BulkUpdate(
    lambda given: (
        sa.update(items)
        .where(
            items.c.job_id == given.of_job,
            items.c.item_index.between(given.first, given.last),
            item_is_waiting,
            # Always true. It makes PostgreSQL expect one run and use the index: it expects a
            # hundred rows of any JSON document, and would read everything that waits instead.
            sa.func.abs(given.index) == given.index,
        )
        .values(
            status=Status.PROCESSING,
            batch_id=given.to_batch,
            # In this order, the sum of two large indices does not overflow.
            batch_index=given.index + (items.c.item_index - given.first),
        )
    ),
    to_batch=Id,
    of_job=Id,
    first=sa.Integer,
    last=sa.Integer,
    index=sa.Integer,
)


def insert_planned(
    tx: Transaction, lane: Lane | Claim, *, item_counts: Sequence[int]
) -> list[UUID]:
    """Insert planned batches that are due now; their messages are sent after the commit."""
    rows: list[dict[str, Any]] = [
        {
            "id": uuid7(),
            "state": BatchState.PLANNED,
            "judge_id": lane.judge_id,
            "judge_version_id": lane.judge_version_id,
            "tags": list(lane.tags),
            "item_count": item_count,
        }
        for item_count in item_counts
    ]
    if rows:
        tx.execute(_INSERT_PLANNED, rows)
    for row in rows:
        tx.record_event(
            Event.BATCH_PLANNED, batch_id=row["id"], judge_id=lane.judge_id, items=row["item_count"]
        )
    return [row["id"] for row in rows]


_INSERT_PLANNED = sa.insert(batches).values(due_at=now(), created_at=now())


def start_jobs(tx: Transaction, job_ids: Collection[UUID]) -> None:
    """pending -> processing, for jobs of planned items; due again when the next item is."""
    if job_ids:
        tx.execute(_START_JOBS, {"job_ids": sorted(job_ids)})


_WAITS = (items.c.job_id == jobs.c.id, item_is_waiting)
# The ORDER BY makes PostgreSQL use the index of live items and never read the table.
_ONE_WAITS = (
    sa.select(items.c.item_index)
    .where(*_WAITS, items.c.due_at <= now())
    .order_by(items.c.item_index.desc())
    .limit(1)
    .scalar_subquery()
)
_START_JOBS = (
    sa.update(jobs)
    .where(jobs.c.id.in_(sa.bindparam("job_ids", expanding=True)))
    .values(
        status=Status.PROCESSING,
        started_at=sa.func.coalesce(jobs.c.started_at, now()),
        # The items that wait for a retry are read only where none is due now.
        due_at=sa.case(
            (_ONE_WAITS.isnot(None), jobs.c.due_at),
            else_=sa.select(sa.func.min(items.c.due_at)).where(*_WAITS).scalar_subquery(),
        ),
    )
)
