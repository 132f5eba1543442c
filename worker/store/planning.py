"""Waiting items become batches. One planner at a time plans, over all replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from worker.domain.batching import Waiting, pack, ready
from worker.domain.concurrency import allowance
from worker.domain.lifecycle import BatchState, Status
from worker.events import Event
from worker.store import concurrency_limit, gates, job_completion
from worker.store.bulk import UpdateEach
from worker.store.column_types import Id
from worker.store.database import Transaction
from worker.store.sql_functions import now, octet_length
from worker.store.tables import batches, item_is_waiting, items, jobs
from worker.validation import judge_offences, tag_offences

PLANNING_LOCK = 0x65766C01  # an advisory lock of PostgreSQL; SQLite has one writer anyway
MAX_BATCH_BYTES = 8 * 1024 * 1024  # of texts; what the remote allows is not known


@dataclass(frozen=True, slots=True)
class Plan:
    """What a planning turn came to."""

    batch_ids: tuple[UUID, ...] = ()
    next_in: float | None = None  # seconds until a part-filled batch has waited long enough


def plan(tx: Transaction, *, max_in_flight: int, batch_size: int, linger: float) -> Plan:
    """waiting items -> planned batches, as many as there are free places at the remote."""
    if not lock_planning(tx, wait=False):
        return Plan()
    places = concurrency_limit.allowed_in_flight(tx, max_in_flight) - live_batches(tx)
    lanes = _due_lanes(tx) if places > 0 else []
    planned: list[UUID] = []
    waits: list[float] = []
    for number, lane in enumerate(lanes):
        if places <= 0:
            break
        equals = sum(1 for other in lanes[number:] if other.priority == lane.priority)
        batch_ids, wait = _plan_lane(tx, lane, allowance(places, equals), batch_size, linger)
        planned += batch_ids
        places -= len(batch_ids)
        if wait is not None:
            waits.append(wait)
    return Plan(tuple(planned), min(waits, default=None))


def _plan_lane(
    tx: Transaction, lane: sa.Row[Any], places: int, batch_size: int, linger: float
) -> tuple[list[UUID], float | None]:
    """Batches of one lane for so many places; and in how many seconds its rest may go."""
    offences = [*judge_offences(lane.judge_id), *tag_offences(lane.tags)]
    if offences:
        job_completion.fail_lane(tx, lane.lane, "; ".join(offences))
        return [], None
    most = places * batch_size
    waiting = _waiting_items(tx, lane.lane, most)
    packed = pack(waiting, most_items=batch_size, most_bytes=MAX_BATCH_BYTES)
    going, wait = ready(packed, most_items=batch_size, linger=linger, more=len(waiting) == most)
    going = going[:places]  # long texts make more batches than there are places
    batch_ids = [_insert_batch(tx, lane, members) for members in going]
    _note_planned(tx, [member.job_id for members in going for member in members])
    if len(waiting) < most:
        job_completion.settle_idle_jobs(tx, lane.lane)
    return batch_ids, wait


def lock_planning(tx: Transaction, *, wait: bool) -> bool:
    """Takes the planners' lock until the end of the transaction; False if another has it."""
    if not tx.on_postgresql:
        return True
    if wait:
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(PLANNING_LOCK)))
        return True
    return bool(tx.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(PLANNING_LOCK))))


def live_batches(tx: Transaction) -> int:
    """Batches that have not ended: each takes a place at the remote, or soon will.

    Those behind a pause take none: the other judges' work goes on.
    """
    return int(tx.scalar(_LIVE_BATCHES) or 0)


_LIVE_BATCHES = (
    sa.select(sa.func.count())
    .select_from(batches)
    .where(batches.c.due_at.isnot(None), sa.not_(gates.behind_pause()))
)


def _due_lanes(tx: Transaction) -> Sequence[Any]:
    """Judge, version and tags that have due jobs: highest priority first, then longest waiting.

    Nothing is planned for a paused judge.
    """
    return tx.execute(_DUE_LANES).all()


_LANE = (jobs.c.lane, jobs.c.judge_id, jobs.c.judge_version_id, jobs.c.tags)
_PRIORITY = sa.func.max(jobs.c.priority).label("priority")
_DUE_LANES = (
    sa.select(*_LANE, _PRIORITY)
    .where(jobs.c.due_at <= now(), sa.not_(gates.paused(jobs.c.judge_id)))
    .group_by(*_LANE)
    .order_by(_PRIORITY.desc(), sa.func.min(jobs.c.due_at))
)


def _waiting_items(tx: Transaction, lane: str, limit: int) -> list[Waiting]:
    """The next items of a lane, in the order in which they are to be sent."""
    statement = _WAITING_ON_POSTGRESQL if tx.on_postgresql else _WAITING_ON_SQLITE
    return [
        Waiting(job_id, index, size, (moment - due_at).total_seconds())
        for job_id, index, due_at, size, moment in tx.execute(
            statement, {"of_lane": lane, "most": limit}
        )
    ]


def _bytes(text: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(octet_length(text), 0)


def _size() -> sa.ColumnElement[int]:
    """Bytes of an item's texts."""
    size: sa.ColumnElement[int] = sa.literal(0)
    for text in (items.c.request, items.c.response, items.c.expected_output):
        size += _bytes(text)
    for json in (items.c.contexts, items.c.functions, items.c.extra):
        size += _bytes(sa.cast(json, sa.Text))
    return size


_WAITS_NOW = sa.and_(item_is_waiting, items.c.due_at <= now())
_MOST = sa.bindparam("most", type_=sa.Integer)
_DUE_OF_LANE = (
    sa.select(jobs.c.id, jobs.c.priority)
    .where(jobs.c.lane == sa.bindparam("of_lane"), jobs.c.due_at <= now())
    .order_by(jobs.c.priority.desc(), jobs.c.id)
    .subquery("due_job")
)
# Nobody else takes waiting items while the planners' lock is held, so that none is locked here.
_WAITING_ON_SQLITE = (
    sa.select(items.c.job_id, items.c.item_index, items.c.due_at, _size(), now().label("now"))
    .join_from(jobs, items, items.c.job_id == jobs.c.id)
    .where(jobs.c.lane == sa.bindparam("of_lane"), jobs.c.due_at <= now(), _WAITS_NOW)
    .order_by(jobs.c.priority.desc(), jobs.c.id, items.c.item_index)
    .limit(_MOST)
)
# Job by job, until there are enough: of a join PostgreSQL would read and sort all that waits.
_OF_ONE_JOB = (
    sa.select(items.c.item_index, items.c.due_at, _size().label("size"))
    .where(items.c.job_id == _DUE_OF_LANE.c.id, _WAITS_NOW)
    .order_by(items.c.item_index)
    .limit(_MOST)
    .lateral("waiting")
)
_WAITING_ON_POSTGRESQL = (
    sa.select(
        _DUE_OF_LANE.c.id,
        _OF_ONE_JOB.c.item_index,
        _OF_ONE_JOB.c.due_at,
        _OF_ONE_JOB.c.size,
        now().label("now"),
    )
    .join_from(_DUE_OF_LANE, _OF_ONE_JOB, sa.true())
    .order_by(_DUE_OF_LANE.c.priority.desc(), _DUE_OF_LANE.c.id, _OF_ONE_JOB.c.item_index)
    .limit(_MOST)
)


def _insert_batch(tx: Transaction, lane: sa.Row[Any], members: Sequence[Waiting]) -> UUID:
    """One planned batch and its items: pending -> processing."""
    batch_id = uuid7()
    insert_planned(
        tx,
        batch_id,
        judge_id=lane.judge_id,
        judge_version_id=lane.judge_version_id,
        tags=lane.tags,
        item_count=len(members),
    )
    _ASSIGN_RUN.run(tx, _runs(members), to_batch=batch_id)
    return batch_id


def _runs(members: Sequence[Waiting]) -> list[dict[str, Any]]:
    """The members as runs of consecutive items of one job; keys: of_job, first, last, place.

    Mostly there is one: what is enqueued together travels together.
    """
    runs: list[dict[str, Any]] = []
    for place, member in enumerate(members):
        job_id, index = member.job_id, member.item_index
        if runs and runs[-1]["last"] == index - 1 and runs[-1]["of_job"] == job_id:
            runs[-1]["last"] = index
        else:
            runs.append({"of_job": job_id, "first": index, "last": index, "place": place})
    return runs


_ASSIGN_RUN = UpdateEach(
    lambda given: (
        sa.update(items)
        .where(
            items.c.job_id == given.of_job,
            items.c.item_index.between(given.first, given.last),
            item_is_waiting,
            # Always so. It lets PostgreSQL expect one run, and look for its items by the index:
            # for the hundred that it expects of any JSON, it reads all that waits instead.
            sa.func.abs(given.place) == given.place,
        )
        .values(
            status=Status.PROCESSING,
            batch_id=given.to_batch,
            batch_index=given.place + items.c.item_index - given.first,
        )
    ),
    shared={"to_batch": Id},
    of_job=Id,
    first=sa.Integer,
    last=sa.Integer,
    place=sa.Integer,
)


def insert_planned(tx: Transaction, batch_id: UUID, *, item_count: int, **lane: Any) -> None:
    """Adds a planned batch that is due at once; its message is sent after the commit."""
    given = {"id": batch_id, "item_count": item_count, "state": BatchState.PLANNED, **lane}
    tx.execute(_INSERT_PLANNED, given)
    tx.record_event(
        Event.BATCH_PLANNED, batch_id=batch_id, judge_id=lane["judge_id"], items=item_count
    )


_INSERT_PLANNED = sa.insert(batches).values(due_at=now(), created_at=now())


def _note_planned(tx: Transaction, job_ids: Sequence[Any]) -> None:
    """Jobs of planned items: pending -> processing; due again when the next of their items is."""
    if not job_ids:
        return
    tx.execute(_NOTE_PLANNED, {"job_ids": sorted(set(job_ids))})


_WAITS = (items.c.job_id == jobs.c.id, item_is_waiting)
# In an order, so that PostgreSQL looks into the index of live items and never reads the table.
_ONE_WAITS = (
    sa.select(items.c.item_index)
    .where(*_WAITS, items.c.due_at <= now())
    .order_by(items.c.item_index.desc())
    .limit(1)
    .scalar_subquery()
)
_NOTE_PLANNED = (
    sa.update(jobs)
    .where(jobs.c.id.in_(sa.bindparam("job_ids", expanding=True)))
    .values(
        status=Status.PROCESSING,
        started_at=sa.func.coalesce(jobs.c.started_at, now()),
        # Only when nothing is due now are the few that wait for their retry looked through.
        due_at=sa.case(
            (_ONE_WAITS.isnot(None), jobs.c.due_at),
            else_=sa.select(sa.func.min(items.c.due_at)).where(*_WAITS).scalar_subquery(),
        ),
    )
)
