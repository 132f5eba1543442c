"""What an actor does: claim, call, record.

Two short transactions with the network call between them. Whatever happens in between, the row
already says that somebody is at it and until when; whatever the call comes to is a value, and
becomes a row. Nothing here is tried again by an exception.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError

from worker.domain.backoff import (
    LOOKS,
    LOST_AFTER_FAILURES,
    MAX_CLAIMS,
    NOT_FOUND_GRACE,
    UNFINISHED_READS,
    backoff,
    item_retry_wait,
)
from worker.domain.batch_result import is_new_word, is_running, read_answer
from worker.domain.outcomes import (
    Accepted,
    BatchExecution,
    Denied,
    Found,
    Invalid,
    NotFound,
    StatusOutcome,
    SubmitOutcome,
    Throttled,
    TooLarge,
    Unavailable,
)
from worker.domain.polling import ENOUGH_DURATIONS, Durations, poll_wait
from worker.pipeline import gate_policy
from worker.pipeline.messages import Messages
from worker.pipeline.recover import (
    OWN_TAG,
    Absent,
    Match,
    NoList,
    SearchOutcome,
    Sent,
    Unclear,
    search,
)
from worker.remote import JudgeAPI, clock
from worker.store import concurrency_limit, gates, leases, polling, submission
from worker.store.database import Database, Transaction
from worker.store.leases import Claim

log = structlog.get_logger("evalworker")

_ASKING = [gates.API, gates.STATUS]  # what every GET has to pass
AT_ONCE_SECONDS = 0.05  # a first poll that is due so soon needs no message
SEARCH_LATER_SECONDS = (1.0, 3.0)  # before a batch in doubt is searched for, after others
ONE_PLACE_SECONDS = 1.0  # before a batch that found no place at the remote asks again


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that steps go by; seconds where not said otherwise."""

    lease: float
    max_in_flight: int  # batches
    poll_min: float
    poll_max: float
    batch_timeout: float
    max_item_attempts: int
    tag_batches: bool  # a tag of its own lets a lost submission be found at once
    resubmit_unlisted: bool  # where there is no list: send again (True), or wait for a person


class Steps:
    """The steps of one process; `holder` names it in the leases."""

    def __init__(
        self,
        database: Database,
        api: JudgeAPI,
        messages: Messages,
        policy: Policy,
        *,
        holder: str,
        rng: Random,
        durations: Durations | None = None,
        monotonic: Callable[[], float] = clock,
    ) -> None:
        self.database = database
        self.api = api
        self.messages = messages
        self.policy = policy
        self.holder = holder
        self.rng = rng
        self.durations = durations or Durations()
        self.monotonic = monotonic
        self._searching = threading.Lock()

    # --- submit: planned, or in doubt, to submitted ----------------------------------------------

    def submit(self, batch_id: UUID) -> None:
        """Brings a batch to the remote; when one may be there already, looks for it first."""
        began = self.monotonic()
        claimed = self.database.run(lambda tx: self._claim_submission(tx, batch_id))
        if claimed is None:
            self._search(batch_id)
            return
        held, inputs = claimed
        if self.monotonic() - began > self.policy.lease / 3:
            # This process was asleep, and its lease may end before an answer comes. Nothing was
            # sent: whoever takes the batch up will find that at the remote.
            return
        tags = [*held.tags, held.own_tag] if held.own_tag else held.tags
        outcome = self.api.submit(
            held.judge_id,
            inputs,
            tags=tags,
            judge_version_id=held.judge_version_id,
            may_send=lambda: self.monotonic() - began < self.policy.lease,
        )
        self._record_submission(held, outcome, single=len(inputs) == 1)

    def _claim_submission(
        self, tx: Transaction, batch_id: UUID
    ) -> tuple[Claim, list[dict[str, Any]]] | None:
        held = submission.claim_submission(
            tx,
            batch_id,
            holder=self.holder,
            lease=self.policy.lease,
            own_tag=f"{OWN_TAG}{batch_id}" if self.policy.tag_batches else None,
        )
        if held is None:
            return None
        judge_id = held.judge_id
        scopes = [gates.API, gates.SUBMIT, gates.of_judge(judge_id)]
        scopes += [gates.pause_of(None), gates.pause_of(judge_id)]
        if (
            self._set_aside(tx, held)
            or self._held_back(tx, held, scopes)
            or self._no_place(tx, held)
        ):
            return None
        self._pass_through(tx, held, scopes)
        inputs = submission.inputs_to_send(tx, held)
        return (held, inputs) if inputs else None

    def _set_aside(self, tx: Transaction, held: Claim) -> bool:
        if held.claims <= MAX_CLAIMS:
            return False
        reason = f"{held.claims - 1} processes in a row died while they held it"
        return leases.hold(tx, held, reason=reason)

    def _held_back(self, tx: Transaction, held: Claim, scopes: list[str]) -> bool:
        closed = gates.closed(tx, scopes) if held.trouble else None
        if closed is None:
            return False
        wait = closed.wait + self.rng.uniform(0.0, 1.0)
        submission.hold_back(tx, held, wait=wait, gate=closed.scope, why=closed.reason)
        return True

    def _pass_through(self, tx: Transaction, held: Claim, scopes: list[str]) -> None:
        """Only when nothing else keeps it back: others wait for the answer to a probe."""
        if held.trouble:
            gates.pass_through(tx, scopes)

    def _no_place(self, tx: Transaction, held: Claim) -> bool:
        most = concurrency_limit.allowed_in_flight(tx, self.policy.max_in_flight)
        if held.live_batches <= most or submission.places_taken(tx) <= most:
            return False
        submission.hold_back(tx, held, wait=ONE_PLACE_SECONDS, gate=None, why="no place is free")
        return True

    def _record_submission(self, held: Claim, outcome: SubmitOutcome, *, single: bool) -> None:
        if isinstance(outcome, Invalid | TooLarge) and not single:
            reason = outcome.reason
            for half in self.database.run(lambda tx: self._record_split(tx, held, reason)):
                self.messages.submit(half)
            return
        first = self._first_poll(held)
        polled = self.database.run(lambda tx: self._record_outcome(tx, held, outcome, first))
        match outcome:
            case Accepted() if polled is not None:
                self._read(polled)
            case Accepted():
                self.messages.poll(held.id, delay=first)
            case Invalid() | TooLarge() | NotFound():
                self.messages.room()
            case Throttled() | Denied() | Unavailable():
                pass  # due later; the dispatcher sends the message then

    def _record_outcome(
        self, tx: Transaction, held: Claim, outcome: SubmitOutcome, first: float
    ) -> Claim | None:
        """Returns the claim of its first poll, where that is due at once."""
        match outcome:
            case Accepted(remote_id, status_url):
                gate_policy.answered(tx, held, gates.SUBMIT)
                accepted = self._record_accepted(tx, held, remote_id, status_url, first)
                return self._claim_poll(tx, held.id) if accepted and not first else None
            case Invalid(reason) | TooLarge(reason) | NotFound(reason):
                gate_policy.answered(tx, held, gates.SUBMIT)
                submission.record_refused(tx, held, reason=reason)
            case Unavailable(reason, sent=True):
                gate_policy.failed(tx, outcome, held, gates.SUBMIT, self.rng)
                submission.record_unknown(tx, held, reason=reason, wait=LOOKS[0])
            case Throttled(reason) | Denied(reason) | Unavailable(reason):
                wait, gate = gate_policy.failed(tx, outcome, held, gates.SUBMIT, self.rng)
                submission.record_not_started(tx, held, reason=reason, wait=wait, gate=gate)
        return None

    def _record_split(self, tx: Transaction, held: Claim, reason: str) -> Sequence[UUID]:
        gate_policy.answered(tx, held, gates.SUBMIT)
        return submission.record_split(tx, held, reason=reason)

    def _record_accepted(
        self, tx: Transaction, held: Claim, remote_id: str, status_url: str | None, first: float
    ) -> bool:
        moved = submission.record_accepted(
            tx,
            held,
            remote_batch_id=remote_id,
            status_url=status_url,
            wait=first,
        )
        if not moved and submission.known_remote_ids(tx, [remote_id]):
            reason = f"the remote answered with the id of another batch ({remote_id})"
            submission.record_unknown(tx, held, reason=reason, wait=LOOKS[0])
        return moved

    def record_surprise(self, batch_id: UUID, error: Exception) -> None:
        """A step raised: its row says so, and comes up again when the lease ends.

        Whether a request left is not known here, so the state stands as the claim left it. What
        the database could not do (full, shut down, out of locks) is no fault of the batch.
        """
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        counts = not isinstance(error, OperationalError | InterfaceError | InternalError)
        try:
            self.database.run(
                lambda tx: leases.note_surprise(
                    tx, batch_id, holder=self.holder, reason=reason, counts=counts
                )
            )
        except SQLAlchemyError as failure:
            log.warning("surprise.unrecorded", batch_id=str(batch_id), reason=str(failure))

    # --- search: what became of a submission without an answer -----------------------------------

    def _search(self, batch_id: UUID) -> None:
        """One at a time: each reads the same list, and many would be a burst that takes forever."""
        if not self._searching.acquire(blocking=False):
            self.database.run(lambda tx: self._search_later(tx, batch_id))
            return
        try:
            claimed = self.database.run(lambda tx: self._claim_search(tx, batch_id))
            if claimed is not None:
                self._look_for(*claimed)
        finally:
            self._searching.release()

    def _search_later(self, tx: Transaction, batch_id: UUID) -> None:
        claimed = submission.claim_search(tx, batch_id, holder=self.holder, lease=self.policy.lease)
        if claimed is not None:
            wait = self.rng.uniform(*SEARCH_LATER_SECONDS)
            submission.hold_back(
                tx, claimed[0], wait=wait, gate=None, why="others are searched for"
            )

    def _look_for(self, held: Claim, sent: Sent) -> None:
        outcome = search(self.api, sent, self._taken, monotonic=self.monotonic)
        moved_on = self.database.run(lambda tx: self._record_search(tx, held, outcome))
        if moved_on and isinstance(outcome, Match):
            self.messages.poll(held.id, delay=self.policy.poll_min)

    def _claim_search(self, tx: Transaction, batch_id: UUID) -> tuple[Claim, Sent] | None:
        claimed = submission.claim_search(tx, batch_id, holder=self.holder, lease=self.policy.lease)
        if claimed is None:
            return None
        held, inputs = claimed
        if self._set_aside(tx, held) or self._held_back(tx, held, _ASKING):
            return None
        self._pass_through(tx, held, _ASKING)
        if held.submitting_at is None:
            raise ValueError(f"batch {held.id} is in doubt, but its attempt has no time")
        return held, Sent(held.judge_id, held.own_tag, inputs, held.submitting_at)

    def _taken(self, remote_ids: Collection[str]) -> set[str]:
        return self.database.run(lambda tx: submission.known_remote_ids(tx, remote_ids))

    def _record_search(self, tx: Transaction, held: Claim, outcome: SearchOutcome) -> bool:
        match outcome:
            case Match(remote_id):
                gate_policy.answered(tx, held, gates.STATUS)
                return self._record_accepted(tx, held, remote_id, None, self.policy.poll_min)
            case Absent():
                gate_policy.answered(tx, held, gates.STATUS)
                return self._record_absent(tx, held, "not in the remote's list")
            case NoList(reason) if self.policy.resubmit_unlisted:
                return self._record_absent(tx, held, f"there is no list to search ({reason})")
            case NoList(reason):
                return leases.hold(tx, held, reason=f"there is no list to search ({reason})")
            case Unclear(reason, cause):
                wait, gate = backoff(held.failures + 2, self.rng), None
                if cause is not None:
                    wait, gate = gate_policy.failed(tx, cause, held, gates.STATUS, self.rng)
                return submission.record_search(
                    tx, held, wait=wait, reason=reason, looked=False, gate=gate
                )

    def _record_absent(self, tx: Transaction, held: Claim, what: str) -> bool:
        """One more look without finding it; after the last one it is sent again.

        A missing list takes as many: a proxy's page in its place must not cost a second bill.
        """
        looks = held.looks + 1
        if looks < len(LOOKS):
            wait = LOOKS[looks]
            return submission.record_search(tx, held, wait=wait, reason=what, looked=True)
        reason = f"{what} after {looks} looks: sent again"
        return submission.record_not_started(tx, held, reason=reason, wait=0.0)

    # --- poll: submitted to finished -------------------------------------------------------------

    def poll(self, batch_id: UUID) -> None:
        """Reads a batch once; records its results when it has ended, else comes back later."""
        held = self.database.run(lambda tx: self._claim_poll(tx, batch_id))
        if held is not None:
            self._read(held)

    def _read(self, held: Claim) -> None:
        if held.remote_batch_id is None:
            raise ValueError(f"batch {held.id} is at the remote, but has no id there")
        outcome = self.api.status(held.remote_batch_id, held.status_url)
        again = self.database.run(lambda tx: self._record_poll(tx, held, outcome))
        if again is None:
            self._note_duration(held, outcome)
            self.messages.room()
        else:
            self.messages.poll(held.id, delay=again)

    def _claim_poll(self, tx: Transaction, batch_id: UUID) -> Claim | None:
        held = polling.claim_poll(tx, batch_id, holder=self.holder, lease=self.policy.lease)
        if held is None or self._set_aside(tx, held) or self._held_back(tx, held, _ASKING):
            return None
        self._pass_through(tx, held, _ASKING)
        return held

    def _record_poll(self, tx: Transaction, held: Claim, outcome: StatusOutcome) -> float | None:
        """Returns the seconds until the next poll; None if there is none."""
        elapsed = held.seconds_submitted or 0.0
        late = elapsed > self.policy.batch_timeout
        match outcome:
            case Found(execution):
                gate_policy.answered(tx, held, gates.STATUS)
                if not is_running(execution):
                    return self._record_end(tx, held, execution)
                if late:
                    self._lose(tx, held, f"no end after {elapsed:.0f} s at the remote")
                    return None
                wait = self._poll_wait(held, elapsed)
                new_word = is_new_word(execution) and execution.status != held.remote_status
                polling.record_running(
                    tx, held, remote_status=execution.status, wait=wait, new_word=new_word
                )
                return wait
            case NotFound(reason) if elapsed > NOT_FOUND_GRACE:
                self._lose(tx, held, f"gone at the remote: {reason}")
                return None
            case Unavailable(reason) if late and held.failures >= LOST_AFTER_FAILURES:
                self._lose(tx, held, f"no usable answer after {elapsed:.0f} s: {reason}")
                return None
            case NotFound(reason):
                wait = self._poll_wait(held, elapsed)
                polling.record_poll_failed(tx, held, reason=reason, wait=wait)
                return wait
            case Throttled(reason) | Denied(reason) | Unavailable(reason):
                wait, gate = gate_policy.failed(tx, outcome, held, gates.STATUS, self.rng)
                polling.record_poll_failed(tx, held, reason=reason, wait=wait, gate=gate)
                return wait

    def _record_end(self, tx: Transaction, held: Claim, execution: BatchExecution) -> float | None:
        answer = read_answer(execution, held.item_count)
        if answer.missing and held.failures < UNFINISHED_READS:
            wait = self._poll_wait(held, held.seconds_submitted or 0.0)
            polling.record_poll_failed(tx, held, reason=answer.oddities[-1], wait=wait)
            return wait
        polling.record_results(
            tx,
            held,
            answer,
            max_attempts=self.policy.max_item_attempts,
            retry_wait=self._item_retry_wait,
        )
        return None

    def _lose(self, tx: Transaction, held: Claim, reason: str) -> None:
        polling.record_lost(
            tx,
            held,
            reason=reason,
            max_attempts=self.policy.max_item_attempts,
            retry_wait=self._item_retry_wait,
        )

    def _item_retry_wait(self, attempts: int) -> float:
        return item_retry_wait(attempts, self.rng)

    def _first_poll(self, held: Claim) -> float:
        """Seconds after the submission: none, where this judge's batches end at once."""
        durations = self.durations.of(held.judge_id)
        if len(durations) < ENOUGH_DURATIONS:
            return self.policy.poll_min
        wait = poll_wait(0.0, durations, least=0.0, most=self.policy.poll_max, rng=self.rng)
        return wait if wait >= AT_ONCE_SECONDS else 0.0

    def _poll_wait(self, held: Claim, elapsed: float) -> float:
        return poll_wait(
            elapsed,
            self.durations.of(held.judge_id),
            least=self.policy.poll_min,
            most=self.policy.poll_max,
            rng=self.rng,
        )

    def _note_duration(self, held: Claim, outcome: StatusOutcome) -> None:
        """How long it took, by the remote; else until it was seen to have ended."""
        if isinstance(outcome, Found) and not is_running(outcome.execution):
            seconds = outcome.execution.seconds
            seen = held.seconds_submitted or 0.0
            self.durations.note(held.judge_id, seen if seconds is None else min(seconds, seen))
