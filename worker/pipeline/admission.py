"""Decide whether a batch just claimed may go on, and record it where it may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from worker.domain.backoff import MAX_CLAIMS
from worker.domain.concurrency import free_slots
from worker.store import concurrency_limit, gates, leases, pauses, submission
from worker.store.leases import Claim
from worker.store.transaction import Transaction

STATUS_SCOPES = (gates.API, gates.STATUS)  # the gates that every GET has to pass
NO_SLOT_SECONDS = 1.0  # before a batch that found no slot at the remote asks again


@dataclass(frozen=True, slots=True)
class Admitted:
    """The batch goes on; the caller holds its claim."""


@dataclass(frozen=True, slots=True)
class NothingDue:
    """There was nothing to claim: the message was duplicated, late or early."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """The batch is due again later: a gate or pause is in its way, or no slot is free."""

    wait: float  # seconds
    gate: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class OnHold:
    """The batch waits for a person."""

    reason: str


def admit_request(tx: Transaction, claim: Claim, rng: Random) -> Admitted | Deferred | OnHold:
    """Let a claimed batch send a GET, or record that it is deferred or on hold."""
    obstacle = _repeated_deaths(claim) or _closed_gate(tx, claim, STATUS_SCOPES, rng)
    return _record(tx, claim, obstacle, STATUS_SCOPES)


def admit_submission(
    tx: Transaction, claim: Claim, rng: Random, *, max_in_flight: int
) -> Admitted | Deferred | OnHold:
    """Let a claimed batch send its POST, or record that it is deferred or on hold."""
    scopes = (gates.API, gates.SUBMIT, gates.of_judge(claim.judge_id))
    obstacle = (
        _repeated_deaths(claim)
        or _pause(tx, claim, rng)
        or _closed_gate(tx, claim, scopes, rng)
        or _no_slot(tx, claim, max_in_flight)
    )
    return _record(tx, claim, obstacle, scopes)


def _repeated_deaths(claim: Claim) -> OnHold | None:
    if claim.claims <= MAX_CLAIMS:
        return None
    return OnHold(f"{claim.claims - 1} processes in a row died while they held it")


def _pause(tx: Transaction, claim: Claim, rng: Random) -> Deferred | None:
    pause = pauses.find(tx, claim.judge_id) if claim.trouble else None
    if pause is None:
        return None
    wait = pauses.RECHECK_SECONDS + rng.uniform(0.0, 1.0)
    return Deferred(wait, pauses.scope_of(pause.judge_id), f"paused: {pause.reason}")


def _closed_gate(
    tx: Transaction, claim: Claim, scopes: Sequence[str], rng: Random
) -> Deferred | None:
    gate = gates.find_closed(tx, scopes) if claim.trouble else None
    if gate is None:
        return None
    return Deferred(gate.wait + rng.uniform(0.0, 1.0), gate.scope, gate.reason)


def _no_slot(tx: Transaction, claim: Claim, max_in_flight: int) -> Deferred | None:
    allowed = max_in_flight
    if claim.is_limited:
        allowed = concurrency_limit.allowed_in_flight(tx, max_in_flight)
    if claim.live_batches <= allowed:
        return None
    taken, in_doubt = submission.count_taken_slots(tx)  # this batch is one of them
    if free_slots(allowed, taken=taken, in_doubt=in_doubt) >= 0:
        return None
    return Deferred(NO_SLOT_SECONDS, None, "no slot is free")


def _record(
    tx: Transaction, claim: Claim, obstacle: Deferred | OnHold | None, scopes: Sequence[str]
) -> Admitted | Deferred | OnHold:
    match obstacle:
        case None:
            if claim.trouble:
                gates.start_probe(tx, scopes)  # last: the others wait for the probe's response
            return Admitted()
        case Deferred(wait, gate, reason):
            leases.defer(tx, claim, wait=wait, gate=gate, reason=reason)
        case OnHold(reason):
            leases.put_on_hold(tx, claim, reason=reason)
    return obstacle
