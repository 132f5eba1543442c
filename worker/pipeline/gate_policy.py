"""Who has to wait when the API says no: decides which gate closes, and for how long."""

from __future__ import annotations

from datetime import datetime
from random import Random

from worker.domain.backoff import OUTAGE_THRESHOLD, backoff, gate_wait, throttle_wait
from worker.domain.outcomes import Denied, Throttled, Unavailable
from worker.store import concurrency_limit, gates
from worker.store.database import Transaction
from worker.store.leases import Claim


def answered(tx: Transaction, held: Claim, endpoint: str) -> None:
    """The remote dealt with a request: whatever was closed for its like is open again.

    Only for its like: a poll says nothing of a throttle on submissions, nor of a judge that takes
    none. And a request that was under way when a gate closed says nothing of what came after.
    """
    if not held.trouble:
        return
    judge = gates.of_judge(held.judge_id)
    scopes = [gates.API, endpoint]
    if endpoint == gates.SUBMIT or held.gate == judge:
        scopes.append(judge)
    gates.open_again(tx, scopes, asked_at=held.claimed_at)


def failed(
    tx: Transaction,
    outcome: Throttled | Denied | Unavailable,
    held: Claim,
    endpoint: str,
    rng: Random,
) -> tuple[float, str | None]:
    """Counts the failure against its scope and closes the gate where it is time to.

    Returns how long the batch itself waits, and the gate that it waits for, if any. A throttle
    stops requests to the same endpoint; a wrong key stops everything, a missing permission its
    judge; an outage everything, once it has lasted for a few requests.
    """
    if isinstance(outcome, Throttled):
        return throttled(tx, outcome, endpoint, held.claimed_at, rng), endpoint
    scope = gates.API
    if isinstance(outcome, Denied) and outcome.judge_only:
        scope = gates.of_judge(held.judge_id)
    failures = gates.count_failure(tx, scope, outcome.reason, asked_at=held.claimed_at)
    match outcome:
        case Denied():
            wait = gate_wait(failures + 1, rng)
        case Unavailable() if failures < OUTAGE_THRESHOLD:
            return backoff(held.failures, rng), None
        case Unavailable():
            wait = gate_wait(failures, rng)
    gates.close(tx, scope, wait=wait)
    return wait, scope


def throttled(
    tx: Transaction, outcome: Throttled, endpoint: str, asked_at: datetime, rng: Random
) -> float:
    """Closes the gate of such requests; returns for how many seconds."""
    failures = gates.count_failure(tx, endpoint, outcome.reason, asked_at=asked_at)
    wait = throttle_wait(outcome.retry_after, failures, rng)
    gates.close(tx, endpoint, wait=wait)
    if endpoint == gates.SUBMIT:
        concurrency_limit.lower_limit(tx)
    return wait
