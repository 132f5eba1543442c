"""What holds at every write, after every event, and at the end; see docs/guarantees.md."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tests.simulation.judge_api import CHOKING, POISON, UNREADABLE
from worker.domain.lifecycle import GIVEN_UP_AT_REMOTE, TRANSITIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.simulation.judge_api import SimulatedBatch
    from tests.simulation.replica import Replica
    from tests.simulation.world import World


# --- at every write: triggers, which cost nothing ---


def triggers() -> list[str]:
    """Each forbids a change of a row that no promise allows."""
    steps = " OR ".join(
        f"(OLD.state = '{before}' AND NEW.state = '{after}')"
        for before, afters in TRANSITIONS.items()
        for after in (before, *afters)
    )
    forbidden = [
        ("UPDATE ON eval_batches", f"NOT ({steps})", "a batch goes where none may go"),
        ("UPDATE ON eval_batches", "NEW.epoch < OLD.epoch", "an epoch falls"),
        (
            "UPDATE ON eval_batches",
            "NEW.epoch > OLD.epoch AND (OLD.due_at > eval_now(0)) IS NOT 0",
            "a batch is claimed while another holds it",
        ),
        (
            "UPDATE ON eval_batches",
            "OLD.state IN ('finished', 'refused', 'lost')",
            "an ended batch changes",
        ),
        (
            "UPDATE ON eval_batches",
            "OLD.remote_batch_id IS NOT NULL AND NEW.remote_batch_id IS NOT OLD.remote_batch_id",
            "a batch changes its remote one",
        ),
        (
            "UPDATE ON eval_batches",
            "NEW.state = 'submitting' AND OLD.state = 'planned' AND NEW.epoch = OLD.epoch",
            "a submission without a claim",
        ),
        (
            "UPDATE ON eval_items",
            "OLD.status IN ('completed', 'cancelled') AND (NEW.status, NEW.attempts,"
            " NEW.finished_at) IS NOT (OLD.status, OLD.attempts, OLD.finished_at)"
            " AND NOT (by_person() AND NEW.status = 'pending')",
            "an ended item changes",
        ),
        (
            "UPDATE ON eval_items",
            "OLD.status = 'failed' AND NEW.status NOT IN ('failed', 'pending')",
            "a failed item goes on by itself",
        ),
        (
            "UPDATE ON eval_items",
            "NEW.status = 'processing' AND NEW.batch_id IS NOT OLD.batch_id AND 'planned' IS NOT"
            " (SELECT state FROM eval_batches WHERE id = NEW.batch_id)",
            "an item joins a batch that is on its way",
        ),
        (
            "UPDATE ON eval_items",
            "OLD.status = 'processing' AND NEW.batch_id IS NOT OLD.batch_id AND 'refused' IS NOT"
            " (SELECT state FROM eval_batches WHERE id = OLD.batch_id)",
            "an item leaves a batch that has not ended",
        ),
        (
            "INSERT ON eval_evaluator_results",
            "'processing' IS NOT (SELECT status FROM eval_items"
            " WHERE job_id = NEW.job_id AND item_index = NEW.item_index)",
            "results for an item that awaits none",
        ),
        ("UPDATE ON eval_evaluator_results", "1", "results change"),
        ("DELETE ON eval_evaluator_results", "is_recording() AND NOT by_person()", "results go"),
        ("UPDATE ON eval_events", "1", "history changes"),
        ("DELETE ON eval_events", "is_recording()", "history goes"),
    ]
    forbidden.append(
        (
            "UPDATE ON eval_gates",
            "NEW.closed_at IS NOT OLD.closed_at AND NEW.reason LIKE '%(the key of %' AND EXISTS"
            " (SELECT 1 FROM eval_replicas r WHERE r.expires_at > eval_now(0)"
            " AND r.key_error IS NULL AND instr(NEW.reason, r.holder || ')') = 0)",
            "all stop for the key of one replica",
        )
    )
    forbidden.append(
        (
            "UPDATE ON eval_batches",
            "NEW.epoch = OLD.epoch AND"
            " (NEW.state, NEW.lease_holder, NEW.remote_batch_id, NEW.looks) IS NOT"
            " (OLD.state, OLD.lease_holder, OLD.remote_batch_id, OLD.looks)"
            " AND NOT may_record(OLD.id, OLD.epoch)",
            "a step records without its claim",
        )
    )
    claims = (
        "CREATE TEMP TRIGGER claims AFTER UPDATE ON eval_batches WHEN NEW.epoch > OLD.epoch"
        " BEGIN SELECT claimed(NEW.id, NEW.epoch); END"
    )
    return [claims] + [
        f"CREATE TEMP TRIGGER forbidden_{number} BEFORE {change} WHEN {condition}"
        f" BEGIN SELECT RAISE(ABORT, 'forbidden: {words}'); END"
        for number, (change, condition, words) in enumerate(forbidden)
    ]


def functions(world: Callable[[], World]) -> dict[str, Callable[..., Any]]:
    """What the triggers ask: only who claimed a batch moves it on, under its epoch; or a person."""

    def claimed(batch_id: str, epoch: int) -> None:
        task = world().running
        if task is not None:
            task.claims[batch_id] = epoch

    def may_record(batch_id: str, epoch: int) -> bool:
        task = world().running
        return task is None or task.claims.get(batch_id) == epoch

    def by_person() -> bool:
        return world().running is None

    return {"claimed": claimed, "may_record": may_record, "by_person": by_person}


# --- after every event that wrote something ---

SUMS = """
SELECT s.job_id, s.evaluator_name, s.judge_version_id, count(s.score), count(*) - count(s.score),
    round(sum(s.score), 9), round(sum(s.score * s.score), 9), min(s.score), max(s.score)
FROM eval_scores s JOIN eval_jobs j ON j.id = s.job_id
WHERE j.finished_at IS NOT NULL GROUP BY 1, 2, 3
"""
ROLLED_UP = """
SELECT job_id, evaluator_name, judge_version_id, scored, unscored, round(sum, 9),
    round(sum_of_squares, 9), least, most
FROM eval_job_scores
"""
ALWAYS = f"""
SELECT 'an item waits for a batch that has ended', i.job_id, i.item_index
FROM eval_items i LEFT JOIN eval_batches b ON b.id = i.batch_id
WHERE i.status = 'processing' AND b.due_at IS NULL AND b.state IS NOT 'held'
UNION ALL
SELECT 'an item waits, and nobody will plan it', i.job_id, i.item_index
FROM eval_items i JOIN eval_jobs j ON j.id = i.job_id
WHERE i.status = 'pending' AND j.due_at IS NULL
UNION ALL
SELECT 'a job has ended before its items', i.job_id, i.item_index
FROM eval_items i JOIN eval_jobs j ON j.id = i.job_id
WHERE i.status IN ('pending', 'processing') AND j.finished_at IS NOT NULL
UNION ALL
SELECT 'a completed item without its two results', i.job_id, i.item_index
FROM eval_items i
WHERE i.status = 'completed' AND 2 <> (SELECT count(*) FROM eval_evaluator_results r
    WHERE r.job_id = i.job_id AND r.item_index = i.item_index AND r.justification = i.request)
UNION ALL
SELECT 'results of an item that is not completed', r.job_id, r.item_index
FROM eval_evaluator_results r JOIN eval_items i USING (job_id, item_index)
WHERE i.status <> 'completed'
UNION ALL
SELECT 'the sums of a job are not those of its scores', job_id, evaluator_name
FROM (SELECT * FROM ({SUMS}) EXCEPT SELECT * FROM ({ROLLED_UP}))
UNION ALL
SELECT 'there are sums without such scores', job_id, evaluator_name
FROM (SELECT * FROM ({ROLLED_UP}) EXCEPT SELECT * FROM ({SUMS}))
"""


def check_always(world: World) -> None:
    """Inputs that their producer adds late, to a job that is planned already, wait for a sweep."""
    broken = [row for row in world.sql(ALWAYS) if row[1] not in world.late_jobs]
    assert not broken, broken


# --- whenever the remote takes a batch ---


def check_taken(world: World, batch: SimulatedBatch) -> None:
    check_slots(world)
    for given in batch.inputs:
        check_evaluations(world, given["request"])


def check_slots(world: World) -> None:
    """Not more of our live batches run at the remote than allowed.

    Not promised, and not counted: a batch that was given up and runs on, because it was lost or
    held; and one that was in doubt, as such batches never take the last slot.
    """
    now = world.now
    running = {str(b.ours) for b in world.remote.batches.values() if b.ends_at > now}
    if len(running) <= world.max_in_flight:
        return
    live = {batch_id for (batch_id,) in world.sql(LIVE_AND_NEVER_IN_DOUBT)}
    assert len(running & live) <= world.max_in_flight, "more batches at the remote than allowed"


LIVE_AND_NEVER_IN_DOUBT = """
SELECT id FROM eval_batches b WHERE due_at IS NOT NULL AND state NOT IN ('planned', 'unknown')
    AND NOT EXISTS (SELECT 1 FROM eval_events e WHERE e.batch_id = b.id
        AND e.event IN ('batch.held', 'batch.unknown', 'batch.searched'))
"""


def check_evaluations(world: World, text: str) -> None:
    """Each evaluation beyond the first has its reason, and that was on record before it.

    Whatever the reasons, there are never more than the limit allows.
    """
    times = world.remote.evaluated[text]
    if times > world.allowed[text]:
        hidden = vanished(world, text)
        most = world.allowed[text] + retried(world, text) + doubted(world, text) + hidden
        assert times <= most, f"{text!r} was evaluated {times} times, {most} at most are allowed"
        limit = world.allowed[text] * world.max_item_attempts + blamed(world, text)
        assert times <= limit, f"{text!r} was evaluated {times} times, beyond the limit of {limit}"


def retried(world: World, text: str) -> int:
    """The evaluation before it failed, or its batch was lost."""
    ((count,),) = world.sql(
        "SELECT count(*) FROM eval_events e JOIN eval_items i"
        " ON i.job_id = e.job_id AND i.item_index = e.item_index"
        " WHERE e.event = 'item.retried' AND i.request = ?",
        (text,),
    )
    return int(count)


def doubted(world: World, text: str) -> int:
    """The answer was lost, and the batch cannot be found: there is no list, or it does not show it.

    A batch is not found among those that show other inputs, where no tag tells whose it is.
    """
    unknowable = {str(b.ours) for b in world.remote.batches.values() if b.strange in UNREADABLE}
    again = world.sql(
        "SELECT batch_id, detail FROM eval_events WHERE event = 'batch.waits'"
        " AND detail LIKE '%sent again%'"
    )
    return sum(
        world.remote.posted.get(UUID(batch_id), []).count(text)
        for batch_id, detail in again
        if "there is no list" in detail or batch_id in unknowable
    )


def vanished(world: World, text: str) -> int:
    """A batch that its server no longer knows cannot be found."""
    gone = [b for b in world.remote.batches.values() if b.missing]
    return sum(given["request"] == text for b in gone for given in b.inputs)


def blamed(world: World, text: str) -> int:
    """A batch was answered with 5xx, does not show, and was split like one that is refused."""
    refused = {batch_id for (batch_id,) in world.sql(REFUSED)}
    gone = [
        b
        for b in world.remote.batches.values()
        if str(b.ours) in refused and (b.missing or b.strange in UNREADABLE)
    ]
    return sum(given["request"] == text for b in gone for given in b.inputs)


REFUSED = "SELECT id FROM eval_batches WHERE state = 'refused'"


# --- whenever a request leaves ---


def check_throttle(world: World, request: httpx.Request) -> None:
    """Nobody who starts after a 429 is on record asks again before its time.

    Those that were under way already cannot know of it.
    """
    task, kind = world.running, world.remote.kind_of(request)
    assert task is not None
    for throttled, since, until in world.throttles:
        if throttled == kind and since < task.began and world.now < until:
            raise AssertionError(f"asked {until - world.now:.1f} s before its throttle is over")


def check_pause(world: World, request: httpx.Request) -> None:
    """Nobody who starts after a pause is on record submits anything to its judge."""
    task = world.running
    assert task is not None
    if world.remote.kind_of(request) != "submit":
        return
    for judge_id, since in world.pauses.items():
        if since < task.began and judge_id in (None, request.url.path.split("/")[3]):
            raise AssertionError(f"submitted although {judge_id or 'everything'} is paused")


def check_standby(world: World) -> None:
    """Nobody whose key is refused takes work that another can do, but for a try now and then."""
    task = world.running
    assert task is not None
    holder = task.replica.context.holder
    if task.stood_by_at == world.now:
        others = {other for (other,) in world.sql(ACCEPTED)} - {holder}
        assert not others, f"{holder} asked, although it stands by for {others}"


ACCEPTED = "SELECT holder FROM eval_replicas WHERE key_error IS NULL AND expires_at > eval_now(0)"


# --- after every heartbeat ---


def check_named(world: World, awake: list[Replica]) -> None:
    """Everybody can read which of the replicas have a key that is refused.

    That a key is accepted again may stand there later: with the next row that is written anyway.
    """
    named = {holder for (holder,) in world.sql(NAMED)}
    for replica in awake:
        is_refused = replica.context.api.key.refusal is not None
        assert replica.context.holder in named or not is_refused, named


NAMED = "SELECT holder FROM eval_replicas WHERE key_error IS NOT NULL"


# --- at the end ---

AT_THE_END = """
SELECT 'a job without an end', id, status FROM eval_jobs WHERE finished_at IS NULL
UNION ALL
SELECT 'an item without an end', job_id, item_index FROM eval_items WHERE finished_at IS NULL
UNION ALL
SELECT 'a batch without an end', id, state FROM eval_batches WHERE finished_at IS NULL
UNION ALL
SELECT 'a poisoned input was not refused', job_id, request FROM eval_items
WHERE (request LIKE 'poison%' OR request LIKE 'choking%') AND status = 'completed'
UNION ALL
SELECT 'the reason of a failure is missing', job_id, request FROM eval_items
WHERE status = 'failed' AND error IS NULL
UNION ALL
SELECT 'a job says something else than its items', j.id, j.status FROM eval_jobs j
WHERE j.status <> 'cancelled' AND j.error IS NOT 'the job has no inputs' AND j.status IS NOT (
    SELECT CASE WHEN sum(status = 'completed') THEN 'completed'
                WHEN sum(status = 'failed') THEN 'failed' ELSE 'cancelled' END
    FROM eval_items WHERE job_id = j.id)
    AND EXISTS (SELECT 1 FROM eval_items WHERE job_id = j.id)
UNION ALL
SELECT 'a batch finished twice', batch_id, count(*) FROM eval_events
WHERE event = 'batch.finished' GROUP BY batch_id HAVING count(*) > 1
"""


def check_at_the_end(world: World) -> None:
    broken = world.sql(AT_THE_END)
    assert not broken, broken
    world.late_jobs.clear()
    check_always(world)
    check_attempts(world)


def check_attempts(world: World) -> None:
    """An input fails for good by its own fault, or when its attempts are used up; and an attempt
    is spent only where the remote had taken it, or may have."""
    spent: Counter[str] = Counter()
    for text, status, attempts, error, word in world.sql(
        "SELECT i.request, i.status, i.attempts, i.error, b.remote_status"
        " FROM eval_items i LEFT JOIN eval_batches b ON b.id = i.batch_id"
    ):
        refused = text.startswith((POISON, CHOKING)) or "No such judge" in (error or "")
        refused |= word in GIVEN_UP_AT_REMOTE
        if status == "failed" and not refused:
            assert attempts >= world.max_item_attempts, f"{text!r} failed early: {error}"
        if not refused:
            spent[text] += attempts
    ((doubts,),) = world.sql("SELECT coalesce(sum(doubts * item_count), 0) FROM eval_batches")
    for text, times in spent.items():
        taken = world.remote.evaluated[text] + doubts
        assert times <= taken, f"{text!r} spent {times} attempts on {taken} evaluations"
