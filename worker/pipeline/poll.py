"""Poll a batch: submitted -> finished, lost, or submitted again until the next poll."""

from __future__ import annotations

from uuid import UUID

from worker.domain.backoff import (
    GONE_READS,
    LOST_AFTER_FAILURES,
    NOT_FOUND_GRACE,
    UNFINISHED_READS,
    backoff,
)
from worker.domain.batch_result import (
    BatchResult,
    UnreadableResult,
    is_running,
    is_undocumented_status,
    read_batch_result,
)
from worker.domain.outcomes import (
    BatchExecution,
    Denied,
    Found,
    NotFound,
    StatusOutcome,
    Throttled,
    Unavailable,
)
from worker.domain.polling import poll_wait
from worker.pipeline import gate_policy
from worker.pipeline.admission import Admitted, admit_request
from worker.pipeline.context import StepContext
from worker.pipeline.path_check import LATELY_SECONDS, check_missing
from worker.store import gates, leases, polling
from worker.store.batch_items import batch_items
from worker.store.leases import Claim
from worker.store.transaction import Transaction


class Poller:
    """The polls of one process."""

    def __init__(self, context: StepContext) -> None:
        self.context = context

    def poll(self, batch_id: UUID) -> None:
        """Read a batch once; record its results if it has ended, else poll it again later."""
        if self.context.leaves_to_others(self.context.messages.poll, batch_id):
            return
        claim = self.context.database.run(lambda tx: self.claim(tx, batch_id))
        if claim is not None:
            self.read(claim)

    def claim(self, tx: Transaction, batch_id: UUID) -> Claim | None:
        """Claim a poll; None if nothing is due, or the batch was deferred or put on hold."""
        context = self.context
        claim = polling.claim_poll(tx, batch_id, holder=context.holder, lease=context.policy.lease)
        return claim if claim is not None and self.admits(tx, claim) else None

    def admits(self, tx: Transaction, claim: Claim) -> bool:
        """Return whether a claimed batch may be read now; else it was deferred or put on hold."""
        return isinstance(admit_request(tx, claim, self.context.rng), Admitted)

    def read(self, claim: Claim) -> None:
        """Read a claimed batch and record what the remote says of it."""
        if claim.remote_batch_id is None:
            raise ValueError(f"batch {claim.id} is at the remote, but has no id there")
        with self.context.api.budget.block():
            outcome = self.context.api.status(claim.remote_batch_id, claim.status_url)
            if (claim.seconds_submitted or 0.0) > NOT_FOUND_GRACE:
                outcome = check_missing(self.context, claim, outcome)
            wait = self.context.database.run(lambda tx: self._record(tx, claim, outcome))
        if wait is None:
            self._note_duration(claim, outcome)
            self.context.messages.room()
        else:
            self.context.messages.poll(claim.id, delay=wait)

    def _record(self, tx: Transaction, claim: Claim, outcome: StatusOutcome) -> float | None:
        """Record the outcome; returns the seconds until the next poll, None if there is none."""
        elapsed = claim.seconds_submitted or 0.0
        overdue = elapsed > self.context.policy.batch_timeout
        match outcome:
            case Found(execution):
                gate_policy.record_success(tx, claim, gates.STATUS)
                if not is_running(execution):
                    return self._record_end(tx, claim, execution)
                if not overdue:
                    return self._record_running(tx, claim, execution)
                self._record_overdue(tx, claim, execution, f"after {elapsed:.0f} s at the remote")
            case NotFound(reason) if elapsed > NOT_FOUND_GRACE and claim.failures >= GONE_READS - 1:
                self._record_lost(tx, claim, f"gone at the remote: {reason}")
            case Unavailable(reason, is_server_error=False) if (
                overdue and claim.failures >= LOST_AFTER_FAILURES and self._serves_others()
            ):
                # They may be too large, or too slow: another evaluation's would be as well.
                leases.put_on_hold(tx, claim, reason=f"its results cannot be read: {reason}")
            case Unavailable(reason) if overdue and claim.failures >= LOST_AFTER_FAILURES:
                reason = f"no usable response after {elapsed:.0f} s: {reason}"
                self._record_lost(tx, claim, reason)
            case Denied(reason, key_refused=False) if (
                overdue and claim.failures >= LOST_AFTER_FAILURES and self._serves_others()
            ):
                leases.put_on_hold(tx, claim, reason=f"its status may not be read: {reason}")
            case NotFound(reason):
                wait = self._poll_wait(claim)
                polling.record_poll_failed(tx, claim, reason=reason, wait=wait)
                return wait
            case Throttled(reason) | Denied(reason) | Unavailable(reason):
                wait, gate = gate_policy.record_failure(
                    tx, outcome, claim, gates.STATUS, self.context.rng
                )
                polling.record_poll_failed(tx, claim, reason=reason, wait=wait, gate=gate)
                return wait
        return None

    def _serves_others(self) -> bool:
        """Return whether the API has served a request lately: its URL and key are right."""
        return self.context.api.has_served_within(LATELY_SECONDS)

    def _record_running(self, tx: Transaction, claim: Claim, execution: BatchExecution) -> float:
        wait = self._poll_wait(claim)
        is_new = execution.status != claim.remote_status
        polling.record_running(
            tx,
            claim,
            remote_status=execution.status,
            wait=wait,
            undocumented=is_new and is_undocumented_status(execution),
        )
        return wait

    def _record_end(self, tx: Transaction, claim: Claim, execution: BatchExecution) -> float | None:
        # The texts of the inputs are only needed to compare them with their echoes.
        is_echoed = any(item.input for item in execution.items)
        rows = batch_items(tx, claim.id, with_inputs=is_echoed)
        result = read_batch_result(execution, {row.batch_index: row.input for row in rows})
        obstacle = _obstacle(result)
        if obstacle is not None and claim.failures < UNFINISHED_READS:
            wait = self._poll_wait(claim)
            polling.record_poll_failed(tx, claim, reason=obstacle, wait=wait)
            return wait
        if not isinstance(result, UnreadableResult):
            polling.record_results(tx, claim, rows, result, retry_wait=self._item_retry_wait)
        elif all(row.is_cancelled for row in rows):
            self._record_lost(tx, claim, result.reason)
        else:
            leases.put_on_hold(tx, claim, reason=f"its results cannot be read: {result.reason}")
        return None

    def _record_overdue(
        self, tx: Transaction, claim: Claim, execution: BatchExecution, when: str
    ) -> None:
        """Give up a batch that does not end; one whose status nobody knows may have ended."""
        if is_undocumented_status(execution):
            reason = f"'{execution.status}' {when}: what that means is not known"
            leases.put_on_hold(tx, claim, reason=reason)
        else:
            self._record_lost(tx, claim, f"no end {when}")

    def _record_lost(self, tx: Transaction, claim: Claim, reason: str) -> None:
        polling.record_lost(tx, claim, reason=reason, retry_wait=self._item_retry_wait)

    def _item_retry_wait(self, attempts: int) -> float | None:
        if attempts >= self.context.policy.max_item_attempts:
            return None
        return backoff(attempts, self.context.rng)

    def _poll_wait(self, claim: Claim) -> float:
        policy = self.context.policy
        return poll_wait(
            claim.seconds_submitted or 0.0,
            self.context.durations.of(claim.judge_id),
            minimum=policy.poll_min,
            maximum=policy.poll_max,
            rng=self.context.rng,
        )

    def _note_duration(self, claim: Claim, outcome: StatusOutcome) -> None:
        """Note how long the batch took: by the remote's clock, at most until its end was seen."""
        if isinstance(outcome, Found) and not is_running(outcome.execution):
            seconds, seen = outcome.execution.seconds, claim.seconds_submitted or 0.0
            self.context.durations.add(
                claim.judge_id, seen if seconds is None else min(seconds, seen)
            )


def _obstacle(result: BatchResult | UnreadableResult) -> str | None:
    """Return why an ended batch is read again; a later read may show more."""
    if isinstance(result, UnreadableResult):
        return result.reason
    return result.oddities[-1] if result.missing else None
