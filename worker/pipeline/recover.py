"""Recover a batch whose submission had no response: search the remote's list before sending again.

There is no idempotency key: a second POST would be billed again. But the judge's batches can be
listed, and ours is recognised by its own tag, where the server shows tags, or else by the number
and the content of its inputs.

Not every server has a list. Its 404 is believed from a URL that has served something else to this
process, or that says itself that the path is known. Until then the URL may be wrong, and the batch
at the right one: the search goes on, and in the end a person decides.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from worker.domain.backoff import LOST_AFTER_FAILURES, backoff, first_search_wait, search_wait
from worker.domain.batch_result import is_running
from worker.domain.doubt import Continuation, continue_in_doubt
from worker.domain.echoes import has_content, is_echo
from worker.domain.item_assignment import Assignment, assign_items
from worker.domain.outcomes import (
    BatchExecution,
    Denied,
    Found,
    Listed,
    NotFound,
    Throttled,
    Unavailable,
)
from worker.domain.phrases import quantity
from worker.pipeline import gate_policy
from worker.pipeline.admission import Admitted, Deferred, NothingDue, OnHold, admit_request
from worker.pipeline.context import StepContext
from worker.pipeline.path_check import LATELY_SECONDS
from worker.remote import JudgeAPI
from worker.remote.pagination import Incomplete, list_pages
from worker.store import gates, leases, submission
from worker.store.batch_items import batch_items
from worker.store.leases import Claim
from worker.store.transaction import Transaction

CLOCK_MARGIN = timedelta(minutes=2)  # between our database's clock and the remote's
MAX_PAGES = 50
MAX_SECONDS = 20.0  # of one search; it ends before the usual lease does
BUSY_SECONDS = (1.0, 3.0)  # before a batch is searched for after another one

OWN_TAG = "evalworker:"  # followed by the id of the batch: no two batches have the same


# --- the step ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LostSubmission:
    """What may have been submitted, and when the attempt began."""

    judge_id: str
    own_tag: str | None
    inputs: Sequence[Mapping[str, Any]]
    since: datetime


@dataclass(frozen=True, slots=True)
class InDoubt:
    """A claimed batch that may be at the remote already."""

    claim: Claim
    submission: LostSubmission


class Recovery:
    """The searches of one process, one at a time: each reads the same list."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self._searching = threading.Lock()

    def claim(self, tx: Transaction, batch_id: UUID) -> InDoubt | Deferred | OnHold | NothingDue:
        """Claim a batch in doubt, with what may have been sent."""
        context = self.context
        claim = submission.claim_search(
            tx, batch_id, holder=context.holder, lease=context.policy.lease
        )
        if claim is None:
            return NothingDue()
        if self._searching.locked():
            return self._defer(tx, claim)
        admission = admit_request(tx, claim, context.rng)
        if not isinstance(admission, Admitted):
            return admission
        if claim.submitting_at is None:
            raise ValueError(f"batch {claim.id} is in doubt, but its attempt has no time")
        inputs = [item.input for item in batch_items(tx, claim.id)]
        lost = LostSubmission(claim.judge_id, claim.own_tag, inputs, claim.submitting_at)
        return InDoubt(claim, lost)

    def recover(self, doubt: InDoubt) -> None:
        """Search the remote for the batch, and record what came of it."""
        database, claim = self.context.database, doubt.claim
        if not self._searching.acquire(blocking=False):
            database.run(lambda tx: self._defer(tx, claim))
            return
        try:
            outcome = search(
                self.context.api, doubt.submission, self._known, monotonic=self.context.monotonic
            )
        finally:
            self._searching.release()
        recorded, halves = database.run(lambda tx: self._record(tx, claim, outcome))
        if recorded and isinstance(outcome, Match):
            self.context.messages.poll(claim.id, delay=self.context.policy.poll_min)
        for half in halves:
            self.context.messages.submit(half)

    def _defer(self, tx: Transaction, claim: Claim) -> Deferred:
        wait = self.context.rng.uniform(*BUSY_SECONDS)
        deferred = Deferred(wait, None, "another batch is being searched for")
        leases.defer(tx, claim, wait=wait, gate=None, reason=deferred.reason)
        return deferred

    def _known(self, remote_ids: Collection[str]) -> set[str]:
        return self.context.database.run(lambda tx: submission.known_remote_ids(tx, remote_ids))

    def _record(
        self, tx: Transaction, claim: Claim, outcome: SearchOutcome
    ) -> tuple[bool, Sequence[UUID]]:
        """Record the outcome; returns whether the claim still held, and the halves of a split."""
        context = self.context
        match outcome:
            case Match(remote_id):
                gate_policy.record_success(tx, claim, gates.STATUS)
                wait = context.policy.poll_min
                return record_accepted(tx, claim, remote_id, None, wait=wait), ()
            case Absent():
                gate_policy.record_success(tx, claim, gates.STATUS)
                return self._record_absent(tx, claim, "not in the remote's list", has_list=True)
            case NoList(reason) if not context.policy.resubmit_unlisted:
                return leases.put_on_hold(tx, claim, reason=reason), ()
            case NoList(reason, may_be_wrong_url=False):
                return self._record_absent(tx, claim, reason, has_list=False)
            case Indistinct(reason):
                gate_policy.record_success(tx, claim, gates.STATUS)
                return leases.put_on_hold(tx, claim, reason=reason), ()
            case NoList(reason):
                reason = f"{reason}, unless EVALWORKER_API_URL is wrong: nothing has been served "
                reason += "there since this process started"
                return self._record_unclear(tx, claim, reason, None), ()
            case Unclear(reason, cause):
                return self._record_unclear(tx, claim, reason, cause), ()

    def _record_unclear(
        self,
        tx: Transaction,
        claim: Claim,
        reason: str,
        cause: Throttled | Denied | Unavailable | None,
    ) -> bool:
        """Record a search that says nothing; it is repeated until the batch is overdue."""
        rng = self.context.rng
        is_lasting = cause is None or claim.failures >= LOST_AFTER_FAILURES
        concerns_others = cause is not None and self._concerns_others(cause)
        if is_lasting and not concerns_others and self._is_overdue(claim):
            return leases.put_on_hold(tx, claim, reason=reason)
        wait, gate = backoff(claim.failures + 2, rng), None
        if cause is not None and concerns_others:
            wait, gate = gate_policy.record_failure(tx, cause, claim, gates.STATUS, rng)
        return submission.record_search(
            tx, claim, wait=wait, reason=reason, was_whole=False, gate=gate
        )

    def _concerns_others(self, cause: Throttled | Denied | Unavailable) -> bool:
        """Return whether other requests would fail as well: not while the API serves some."""
        if isinstance(cause, Throttled) or (isinstance(cause, Denied) and cause.key_refused):
            return True
        return not self.context.api.has_served_within(LATELY_SECONDS)

    def _is_overdue(self, claim: Claim) -> bool:
        """Return whether the batch is in doubt for longer than any batch may take."""
        since = claim.submitting_at or claim.claimed_at
        return (claim.claimed_at - since).total_seconds() > self.context.policy.batch_timeout

    def _record_absent(
        self, tx: Transaction, claim: Claim, reason: str, *, has_list: bool
    ) -> tuple[bool, Sequence[UUID]]:
        """Record one more search in vain; after the last one the batch goes on in doubt.

        A 404 on the list is searched as often: it may be a proxy's page, and resubmitting early is
        billed twice.
        """
        searches = claim.looks + 1
        wait = search_wait(searches)
        if wait is not None:
            recorded = submission.record_search(tx, claim, wait=wait, reason=reason, was_whole=True)
            return recorded, ()
        return self._continue(tx, claim, f"{reason} after {searches} searches", has_list=has_list)

    def _continue(
        self, tx: Transaction, claim: Claim, reason: str, *, has_list: bool
    ) -> tuple[bool, Sequence[UUID]]:
        doubt = submission.read_doubt(tx, claim, has_list=has_list)
        error = claim.server_error or reason
        continuation = continue_in_doubt(doubt, max_attempts=self.context.policy.max_item_attempts)
        match continuation:
            case Continuation.SUBMIT_AGAIN:
                return submission.record_resubmission(tx, claim, reason=f"{reason}: sent again"), ()
            case Continuation.HOLD:
                times = f"{quantity(doubt.attempts, 'attempt')} may have been evaluated"
                reason = (
                    f"{error}; {reason}: {times}" if claim.server_error else f"{reason}: {times}"
                )
                return leases.put_on_hold(tx, claim, reason=reason), ()
            case Continuation.BLAME if claim.item_count == 1:
                doubts = claim.doubts + 1
                return submission.record_refused(tx, claim, reason=error, doubts=doubts), ()
            case Continuation.BLAME | Continuation.SPLIT:
                spent = continuation is Continuation.SPLIT
                halves = submission.record_split(
                    tx, claim, reason=error, doubts=claim.doubts + spent
                )
                return bool(halves), halves


def record_accepted(
    tx: Transaction, claim: Claim, remote_id: str, status_url: str | None, *, wait: float
) -> bool:
    """Record that the remote has the batch; one whose id is another batch's stays in doubt."""
    moved = submission.record_accepted(
        tx, claim, remote_batch_id=remote_id, status_url=status_url, wait=wait
    )
    if not moved:
        record_foreign_id(tx, claim, remote_id)
    return moved


def record_foreign_id(tx: Transaction, claim: Claim, remote_id: str) -> None:
    """Leave a batch in doubt if the remote responded with an id that another batch has."""
    if submission.known_remote_ids(tx, [remote_id]):
        reason = f"the remote responded with the id of another batch ({remote_id})"
        submission.record_unknown(tx, claim, reason=reason, wait=first_search_wait())


# --- the search ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Match:
    """This is the batch: nothing is to be sent again."""

    batch_execution_id: str


@dataclass(frozen=True, slots=True)
class Absent:
    """The whole list was read, and the batch is not in it."""


@dataclass(frozen=True, slots=True)
class NoList:
    """This server has no list that could be searched, or its URL is wrong."""

    reason: str
    may_be_wrong_url: bool = False  # it has served nothing since this process started


@dataclass(frozen=True, slots=True)
class Unclear:
    """The list, or one candidate, could not be read as a whole; the search is repeated later."""

    reason: str
    cause: Throttled | Denied | Unavailable | None = None


@dataclass(frozen=True, slots=True)
class Indistinct:
    """A batch that has ended may be this one, but does not show what was sent: nobody can tell."""

    reason: str


SearchOutcome = Match | Absent | NoList | Unclear | Indistinct


def search(
    api: JudgeAPI,
    lost: LostSubmission,
    known: Callable[[Collection[str]], Collection[str]],
    *,
    monotonic: Callable[[], float],
) -> SearchOutcome:
    """Search the judge's batches since the attempt began.

    `known` returns which of the given remote ids belong to other batches. The tag decides; without
    it, the oldest of several equal candidates is taken: a younger one may be all that is left to an
    attempt that began later, which does not search further back.
    """
    end = monotonic() + MAX_SECONDS
    listed = _candidates(api, lost, monotonic)
    if not isinstance(listed, tuple):
        return listed
    candidates, gap = listed
    others = known([row.batch_execution_id for row in candidates])
    candidates.sort(key=lambda row: (not _has_own_tag(row, lost), row.created_at or lost.since))
    for row in candidates:
        if monotonic() > end:
            return Unclear("the search took too long")
        if row.batch_execution_id in others:
            continue
        found = _is_lost_batch(api, row, lost)
        if isinstance(found, Unclear | Indistinct):
            return found  # it may be the one, and a younger one another's
        if found:
            return Match(row.batch_execution_id)
    return gap or Absent()


def _candidates(
    api: JudgeAPI, lost: LostSubmission, monotonic: Callable[[], float]
) -> tuple[list[BatchExecution], Unclear | None] | NoList | Unclear:
    """Return what may be the batch, and why there may be more; or why there is nothing to show."""
    candidates: list[BatchExecution] = []
    unclear: Unclear | None = None
    since = lost.since - CLOCK_MARGIN
    for page in list_pages(
        lambda cursor: api.list_executions(judge_id=lost.judge_id, date_from=since, cursor=cursor),
        max_pages=MAX_PAGES,
        max_seconds=MAX_SECONDS,
        monotonic=monotonic,
    ):
        match page:
            case Listed(executions, gap=gap):
                candidates += [row for row in executions if _may_be_lost_batch(row, lost)]
                if any(_has_own_tag(row, lost) for row in candidates):  # no other can be it
                    return candidates, Unclear("the batch with its tag belongs to another one")
                unclear = Unclear(gap) if gap else unclear
            case NotFound(reason, is_path_known=is_path_known):
                has_served = is_path_known or api.has_served_within(math.inf)
                return NoList(f"there is no list to search ({reason})", not has_served)
            case Incomplete(reason):
                return Unclear(reason)
            case Throttled(reason) | Denied(reason) | Unavailable(reason):
                return Unclear(f"the list cannot be read: {reason}", page)
    return candidates, unclear


def _may_be_lost_batch(row: BatchExecution, lost: LostSubmission) -> bool:
    """Decide by what the list shows: the tag, or else the number of inputs and the time.

    Only tags that are there say something: some servers show an empty list for every batch.
    """
    if row.tags and lost.own_tag is not None:
        return _has_own_tag(row, lost) or _has_cut_tag(row, lost.own_tag)
    if any(tag.casefold().startswith(OWN_TAG) for tag in row.tags or ()):
        return False  # it belongs to another batch, even if it has the same inputs
    if row.created_at is not None and row.created_at < lost.since - CLOCK_MARGIN:
        return False
    return row.total_count is None or row.total_count == len(lost.inputs)


def _has_own_tag(row: BatchExecution, lost: LostSubmission) -> bool:
    tags = {tag.casefold() for tag in row.tags or ()}
    return lost.own_tag is not None and lost.own_tag.casefold() in tags


def _has_cut_tag(row: BatchExecution, own_tag: str) -> bool:
    """Return whether a server that shortens tags may have made one of them of our own."""
    cut = (tag.casefold() for tag in row.tags or () if len(tag) > len(OWN_TAG))
    return any(own_tag.casefold().startswith(tag) for tag in cut)


def _is_lost_batch(
    api: JudgeAPI, row: BatchExecution, lost: LostSubmission
) -> bool | Unclear | Indistinct:
    if _has_own_tag(row, lost):
        return True
    match api.status(row.batch_execution_id, spaced=True):
        case Found(execution):
            shown = sum(has_content(item.input) for item in execution.items)
            if shown == len(execution.items) >= len(lost.inputs):
                return _has_inputs(execution, lost.inputs)
            reason = f"batch {row.batch_execution_id} may be this one, but does not show its inputs"
            return Unclear(reason) if is_running(execution) else Indistinct(reason)
        case NotFound():
            return False
        case Throttled(reason) | Denied(reason) | Unavailable(reason) as cause:
            return Unclear(f"batch {row.batch_execution_id} cannot be read: {reason}", cause)


def _has_inputs(execution: BatchExecution, inputs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the batch has these inputs and no others, however its items are numbered."""
    assignment = assign_items(execution.items, dict(enumerate(inputs)))
    return (
        isinstance(assignment, Assignment)
        and not assignment.surplus
        and len(assignment.items) == len(inputs)
        and all(is_echo(item.input, inputs[index]) for index, item in assignment.items.items())
    )
