"""Decide which gate opens or closes after a response, and for how long: the circuit breaker."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from random import Random

from worker.domain.backoff import OUTAGE_THRESHOLD, backoff, gate_wait, throttle_wait
from worker.domain.outcomes import Denied, Throttled, Unavailable
from worker.store import concurrency_limit, gates, replicas
from worker.store.leases import Claim
from worker.store.transaction import Transaction

PROBE_TURN_SECONDS = 2.0  # others that wait for the gate try within a second after it may open
LEAVE_SECONDS = (0.2, 0.6)  # before work is due for a replica whose key is not refused


def record_success(tx: Transaction, claim: Claim, endpoint: str) -> None:
    """Open the gates that a request of this batch passed: the remote has dealt with it.

    Only gates of its own kind: a poll says nothing about a throttle on submissions, nor about a
    judge that takes none. A request sent before a gate closed says nothing about it either.
    """
    if not claim.trouble:
        return
    judge = gates.of_judge(claim.judge_id)
    scopes = [gates.API, endpoint]
    if endpoint == gates.SUBMIT or claim.gate == judge:
        scopes.append(judge)
    gates.open_gates(tx, scopes, sent_at=claim.claimed_at)


def record_failure(
    tx: Transaction,
    outcome: Throttled | Denied | Unavailable,
    claim: Claim,
    endpoint: str,
    rng: Random,
) -> tuple[float, str | None]:
    """Count the failure against its scope, and close the gate where it is time to.

    A throttle stops requests to the same endpoint, a missing permission stops its judge, and an
    outage stops everything once a few requests have failed. A wrong key stops everything, unless
    another replica may have a good one: then only this one stops (see `key_standby`).

    Returns the seconds that the batch itself waits, and the gate that it waits for, if any.
    """
    if isinstance(outcome, Throttled):
        return record_throttle(tx, outcome, endpoint, claim.claimed_at, rng), endpoint
    if isinstance(outcome, Denied) and outcome.key_refused:
        if replicas.record_key_refused(tx, claim.lease_holder, outcome.reason):
            gates.release_probe(tx, gates.API)
            return rng.uniform(*LEAVE_SECONDS), None  # another replica does it
        outcome = replace(outcome, reason=f"{outcome.reason} (the key of {claim.lease_holder})")
    scope = gates.API
    if isinstance(outcome, Denied) and outcome.judge_only:
        scope = gates.of_judge(claim.judge_id)
    failures = gates.count_failure(tx, scope, outcome.reason, sent_at=claim.claimed_at)
    match outcome:
        case Denied():
            wait = gate_wait(failures + 1, rng)
        case Unavailable() if failures < OUTAGE_THRESHOLD:
            return backoff(claim.failures, rng), None
        case Unavailable():
            wait = gate_wait(failures, rng)
    gates.close(tx, scope, wait=wait)
    # The others probe first: it may be this batch alone that is refused.
    return max(wait, backoff(claim.failures, rng)) + PROBE_TURN_SECONDS, scope


def record_throttle(
    tx: Transaction, outcome: Throttled, endpoint: str, sent_at: datetime, rng: Random
) -> float:
    """Close the gate of this endpoint; returns the seconds for which it is closed."""
    failures = gates.count_failure(tx, endpoint, outcome.reason, sent_at=sent_at)
    wait = throttle_wait(outcome.retry_after, failures, rng)
    gates.close(tx, endpoint, wait=wait)
    if endpoint == gates.SUBMIT:
        concurrency_limit.lower_limit(tx)
    return wait
