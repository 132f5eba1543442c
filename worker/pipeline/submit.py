"""Submit a batch: planned -> submitting -> submitted, unknown, refused, or back to planned.

A step claims, calls and records: two short transactions with the network call between them. During
the call the row says which process is at it and until when. Whatever the call comes to is a value,
and becomes a row; no step is repeated because of an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from worker.domain.backoff import backoff, first_search_wait
from worker.domain.outcomes import (
    Accepted,
    Denied,
    Invalid,
    NotFound,
    SubmitOutcome,
    Throttled,
    TooLarge,
    Unavailable,
)
from worker.domain.polling import first_poll_wait
from worker.pipeline import gate_policy
from worker.pipeline.admission import Admitted, Deferred, NothingDue, OnHold, admit_submission
from worker.pipeline.context import StepContext
from worker.pipeline.path_check import Undecided, check_refusal
from worker.pipeline.poll import Poller
from worker.pipeline.recover import OWN_TAG, InDoubt, Recovery, record_accepted, record_foreign_id
from worker.store import gates, leases, submission
from worker.store.leases import Claim
from worker.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class ReadyToSubmit:
    """A claimed batch and what is sent for it."""

    claim: Claim
    inputs: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class NothingToSend:
    """None of the inputs could be sent; the batch is refused."""


SubmissionClaim = ReadyToSubmit | InDoubt | NothingToSend | Deferred | OnHold | NothingDue


class Submitter:
    """The submissions of one process."""

    def __init__(self, context: StepContext, poller: Poller, recovery: Recovery) -> None:
        self.context = context
        self.poller = poller
        self.recovery = recovery

    def submit(self, batch_id: UUID) -> None:
        """Bring a batch to the remote; if it may be there already, search for it instead."""
        if self.context.leaves_to_others(self.context.messages.submit, batch_id):
            return
        began = self.context.monotonic()
        match self.context.database.run(lambda tx: self._claim(tx, batch_id)):
            case ReadyToSubmit(claim, inputs):
                self._send(claim, inputs, began)
            case InDoubt() as doubt:
                self.recovery.recover(doubt)
            case NothingToSend() | Deferred() | OnHold() | NothingDue():
                pass

    # --- claim -----------------------------------------------------------------------------------

    def _claim(self, tx: Transaction, batch_id: UUID) -> SubmissionClaim:
        policy = self.context.policy
        claim = submission.claim_submission(
            tx,
            batch_id,
            holder=self.context.holder,
            lease=policy.lease,
            own_tag=f"{OWN_TAG}{batch_id}" if policy.tag_batches else None,
        )
        if claim is None:
            return self.recovery.claim(tx, batch_id)
        admission = admit_submission(
            tx, claim, self.context.rng, max_in_flight=policy.max_in_flight
        )
        if not isinstance(admission, Admitted):
            return admission
        inputs = submission.prepare_inputs(tx, claim)
        return ReadyToSubmit(claim, inputs) if inputs else NothingToSend()

    # --- call ------------------------------------------------------------------------------------

    def _send(self, claim: Claim, inputs: Sequence[dict[str, Any]], began: float) -> None:
        lease, monotonic = self.context.policy.lease, self.context.monotonic
        if monotonic() - began > lease / 3:
            # This process was asleep, or its database slow, and the lease may end before a
            # response comes.
            self._put_back(claim, "it took too long to begin")
            return
        outcome = self.context.api.submit(
            claim.judge_id,
            inputs,
            tags=[*claim.tags, claim.own_tag] if claim.own_tag else claim.tags,
            judge_version_id=claim.judge_version_id,
            may_send=lambda: monotonic() - began < lease,
        )
        if isinstance(outcome, Denied) and self._is_refused_alone(claim, outcome, len(inputs)):
            outcome = Invalid(outcome.reason)
        match check_refusal(self.context, claim, outcome):
            case Undecided(reason):
                self._put_back(claim, reason)
            case Invalid(reason) | TooLarge(reason) if len(inputs) > 1:
                self._split(claim, reason)
            case outcome:
                self._record(claim, outcome)

    def _is_refused_alone(self, claim: Claim, denied: Denied, item_count: int) -> bool:
        """Return whether a 403 is about one of the inputs: a firewall may not let it through."""
        return denied.is_foreign and self.context.database.run(
            lambda tx: submission.is_refused_alone(tx, claim, item_count=item_count)
        )

    # --- record ----------------------------------------------------------------------------------

    def _split(self, claim: Claim, reason: str) -> None:
        def record(tx: Transaction) -> Sequence[UUID]:
            gate_policy.record_success(tx, claim, gates.SUBMIT)
            return submission.record_split(tx, claim, reason=reason, doubts=claim.doubts)

        for half in self.context.database.run(record):
            self.context.messages.submit(half)

    def _put_back(self, claim: Claim, reason: str) -> None:
        wait = backoff(claim.failures + 1, self.context.rng)
        self.context.database.run(
            lambda tx: submission.record_not_started(tx, claim, reason=reason, wait=wait)
        )

    def _record(self, claim: Claim, outcome: SubmitOutcome) -> None:
        wait = self._first_poll_wait(claim.judge_id)
        poll_claim = self.context.database.run(
            lambda tx: self._record_outcome(tx, claim, outcome, wait)
        )
        match outcome:
            case Accepted() if poll_claim is not None:
                self.poller.read(poll_claim)
            case Accepted():
                self.context.messages.poll(claim.id, delay=wait)
            case Invalid() | TooLarge() | NotFound():
                self.context.messages.room()
            case Throttled() | Denied() | Unavailable():
                pass  # due later; the dispatcher sends the message then

    def _record_outcome(
        self, tx: Transaction, claim: Claim, outcome: SubmitOutcome, wait: float
    ) -> Claim | None:
        """Record what became of the POST; returns the claim if its first poll is due now."""
        rng = self.context.rng
        match outcome:
            case Accepted(remote_id, status_url):
                gate_policy.record_success(tx, claim, gates.SUBMIT)
                if not wait:
                    return self._record_accepted_and_poll(tx, claim, remote_id, status_url)
                record_accepted(tx, claim, remote_id, status_url, wait=wait)
            case Invalid(reason) | TooLarge(reason) | NotFound(reason):
                gate_policy.record_success(tx, claim, gates.SUBMIT)
                submission.record_refused(tx, claim, reason=reason)
            case Unavailable(reason, sent=True):
                gate_policy.record_failure(tx, outcome, claim, gates.SUBMIT, rng)
                submission.record_unknown(
                    tx,
                    claim,
                    reason=reason,
                    wait=first_search_wait(),
                    is_server_error=outcome.is_server_error,
                )
            case Throttled(reason) | Denied(reason) | Unavailable(reason):
                delay, gate = gate_policy.record_failure(tx, outcome, claim, gates.SUBMIT, rng)
                submission.record_not_started(tx, claim, reason=reason, wait=delay, gate=gate)
        return None

    def _record_accepted_and_poll(
        self, tx: Transaction, claim: Claim, remote_id: str, status_url: str | None
    ) -> Claim | None:
        poll_claim = leases.keep_for_first_poll(
            tx,
            claim,
            remote_batch_id=remote_id,
            status_url=status_url,
            lease=self.context.policy.lease,
        )
        if poll_claim is None:
            record_foreign_id(tx, claim, remote_id)
            return None
        return poll_claim if self.poller.admits(tx, poll_claim) else None

    def _first_poll_wait(self, judge_id: str) -> float:
        policy = self.context.policy
        return first_poll_wait(
            self.context.durations.of(judge_id),
            minimum=policy.poll_min,
            maximum=policy.poll_max,
            rng=self.context.rng,
        )
