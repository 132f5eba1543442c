"""Plan: put waiting items into batches, as many as there are free slots at the remote."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from worker.domain.batching import pack, ready
from worker.domain.concurrency import fair_share, free_slots
from worker.pipeline.context import Policy
from worker.store import concurrency_limit, job_completion, planning
from worker.store.planning import Lane
from worker.store.transaction import Transaction
from worker.validation import judge_offences, tag_offences

MAX_BATCH_BYTES = 8 * 1024 * 1024  # of texts; the remote's own limit is not known


@dataclass(frozen=True, slots=True)
class Plan:
    """What a planning turn came to."""

    batch_ids: tuple[UUID, ...] = ()
    next_in: float | None = None  # seconds until a part-filled batch has waited long enough


def plan(tx: Transaction, policy: Policy) -> Plan:
    """Put waiting items into planned batches; one planner at a time, over all replicas.

    Lanes share the free slots: those of the highest priority first, lanes of equal priority fairly.
    """
    if not planning.lock_planning(tx, wait=False):
        return Plan()
    allowed = concurrency_limit.allowed_in_flight(tx, policy.max_in_flight)
    taken, in_doubt = planning.count_live_batches(tx)
    slots = free_slots(allowed, taken=taken, in_doubt=in_doubt)
    lanes = planning.due_lanes(tx) if slots > 0 else []
    planned: list[UUID] = []
    waits: list[float] = []
    for number, lane in enumerate(lanes):
        if slots <= 0:
            break
        equals = sum(1 for other in lanes[number:] if other.priority == lane.priority)
        batch_ids, wait = _plan_lane(tx, lane, fair_share(slots, equals), policy)
        planned += batch_ids
        slots -= len(batch_ids)
        if wait is not None:
            waits.append(wait)
    return Plan(tuple(planned), min(waits, default=None))


def _plan_lane(
    tx: Transaction, lane: Lane, slots: int, policy: Policy
) -> tuple[list[UUID], float | None]:
    """Plan batches of one lane; returns their ids, and the seconds until its rest may go."""
    offences = [*judge_offences(lane.judge_id), *tag_offences(lane.tags)]
    if lane.judge_version_id is not None:
        offences += judge_offences(lane.judge_version_id, "judge_version_id")
    if offences:
        job_completion.fail_lane(tx, lane.key, "; ".join(offences))
        return [], None
    limit = slots * policy.batch_size
    waiting = planning.waiting_items(tx, lane.key, limit)
    packed = pack(waiting, max_items=policy.batch_size, max_bytes=MAX_BATCH_BYTES)
    going, wait = ready(
        packed, max_items=policy.batch_size, linger=policy.linger, more=len(waiting) == limit
    )
    going = going[:slots]  # long texts make more batches than there are slots
    batch_ids = planning.insert_batches(tx, lane, going)
    planning.start_jobs(tx, {member.job_id for members in going for member in members})
    if len(waiting) < limit:
        job_completion.settle_idle_jobs(tx, lane.key)
    return batch_ids, wait
