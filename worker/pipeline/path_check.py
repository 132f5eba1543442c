"""Tell a judge or batch that is not there from a URL that is wrong: both are a 404.

A wrong URL concerns every request, so nothing may fail because of it. Where the list of batches is
not there either, the URL is wrong, unless the API has just served another request.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.domain.outcomes import (
    Denied,
    Invalid,
    Listed,
    ListOutcome,
    NotFound,
    StatusOutcome,
    SubmitOutcome,
    Throttled,
    Unavailable,
)
from worker.pipeline import gate_policy
from worker.pipeline.context import StepContext
from worker.store import gates
from worker.store.leases import Claim

LATELY_SECONDS = 60.0  # for which a request that was served proves that the URL is right


@dataclass(frozen=True, slots=True)
class Undecided:
    """Whether the URL is wrong is not known yet; nothing was started."""

    reason: str


def check_refusal(
    context: StepContext, claim: Claim, outcome: SubmitOutcome
) -> SubmitOutcome | Undecided:
    """Ask the list where a submission met a 404, or a 400 that is not in the API's form."""
    match outcome:
        case NotFound(reason, is_foreign) | Invalid(reason, is_foreign=True as is_foreign):
            listed = _ask_list(context, claim)
        case _:
            return outcome
    match listed:
        case NotFound(list_reason, is_path_known=False) if (
            is_foreign or not context.api.has_served_within(LATELY_SECONDS)
        ):
            return Denied(
                f"{reason.rstrip('.')}; the list of batches is not there either "
                f"({list_reason.rstrip('.')}): is EVALWORKER_API_URL right?"
            )
        case Denied(judge_only=False):
            return listed
        case Throttled() | Unavailable() | Undecided():
            return Undecided(f"{reason}; the list of batches, which tells more: {listed.reason}")
        case Listed() | NotFound() | Denied() if is_foreign and isinstance(outcome, NotFound):
            return Denied(reason, judge_only=True)
        case Listed() | NotFound() | Denied():
            return outcome


def check_missing(context: StepContext, claim: Claim, outcome: StatusOutcome) -> StatusOutcome:
    """Ask the list before a batch counts as gone, unless the URL is known to be right."""
    if not isinstance(outcome, NotFound) or context.api.has_served_within(LATELY_SECONDS):
        return outcome
    listed = _ask_list(context, claim)
    if isinstance(listed, Listed) or (isinstance(listed, NotFound) and listed.is_path_known):
        return outcome
    return Unavailable(f"{outcome.reason}; the list of batches: {listed.reason}")


def _ask_list(context: StepContext, claim: Claim) -> ListOutcome | Undecided:
    gate = context.database.run(lambda tx: gates.find_closed(tx, [gates.STATUS]))
    if gate is not None:
        return Undecided(gate.reason)
    listed = context.api.list_executions(page_size=1)
    if isinstance(listed, Throttled):
        context.database.run(
            lambda tx: gate_policy.record_throttle(
                tx, listed, gates.STATUS, claim.claimed_at, context.rng
            )
        )
    return listed
