"""Every effect of the worker, under the scenario that brings it about.

A scenario is a few inputs and what goes wrong with them, certainly and without help, so that the
worker has these effects whatever the machine is busy with. `killed_process` names the effects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa

from worker.domain.backoff import MAX_CLAIMS
from worker.domain.lifecycle import BatchState, NoticeState
from worker.domain.polling import ENOUGH_DURATIONS
from worker.sandbox.options import SandboxOptions
from worker.store import gates
from worker.store.sql_functions import now
from worker.store.tables import batches, items, jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from worker.store.transaction import Transaction

    Change = Callable[[Transaction], object]

SHORT = (1.5, 1.8)  # seconds that a batch takes: long enough to be found running
ONE = {"request": "one question", "response": "one answer", "expected_output": "one"}
TWO = {"request": "other question", "response": "two answers", "expected_output": "two"}
THREE = {"request": "third question", "response": "three", "expected_output": "three"}
INCOMPLETE = {"request": "what is missing?", "response": "what is expected"}
HUGE = {"request": "long", "response": "word " * 10_000}

PLAIN = SandboxOptions(latency=SHORT)


def nothing(_: Transaction) -> None:
    """Leave the rows as they are."""


@dataclass(frozen=True)
class ExpectedEnd:
    """The expected end: inputs by their status, and what the sandbox evaluated."""

    evaluated: int
    completed: int = 0
    failed: int = 0
    again: int = 0  # evaluated a second time because the first one failed, or had no end


@dataclass(frozen=True)
class Scenario:
    """What happens, stage by stage, each with a sandbox that knows the batches of the one before.

    An earlier process dies at `killed_at`, all being well with the sandbox. Then `prepare`, and
    the process that counts meets a sandbox with `options`. Then `relieve`, and a last process
    meets one as `afterwards` says. Batches that are held at the end, a person resolves.
    """

    effects: Sequence[str]
    ending: ExpectedEnd
    inputs: Sequence[Mapping[str, Any]] = (ONE, TWO)
    judge: str = "response-checks"
    options: SandboxOptions = PLAIN
    settings: Mapping[str, object] = field(default_factory=dict)
    killed_at: str | None = None  # None: there is no earlier process
    prepare: Change = nothing
    relieve: Change = nothing
    afterwards: SandboxOptions | None = None  # None: the same as before
    notice: NoticeState | None = None  # its state at the end; None: the job has no notice

    @property
    def points(self) -> list[str]:
        """Return the names of the moments at which a process can be killed."""
        return [f"{moment} {effect}" for effect in self.effects for moment in ("before", "after")]


def closed(scope: str) -> Change:
    """Close a gate for ten minutes, as after a throttled request."""

    def close(tx: Transaction) -> None:
        gates.count_failure(tx, scope, "429: slow down", sent_at=datetime.now(UTC))
        gates.close(tx, scope, wait=600.0)

    return close


def open_again(scope: str) -> Change:
    return lambda tx: gates.open_gates(tx, [scope], sent_at=datetime.now(UTC))


def holders_died(tx: Transaction) -> None:
    """Count as many claims as are allowed, as if each of their holders had died."""
    tx.execute(sa.update(batches).values(claims=MAX_CLAIMS))


def batches_took_no_time(tx: Transaction) -> None:
    """Store as many short batches of the judge as are needed to know its durations."""
    finished = {
        "judge_id": "response-checks",
        "tags": [],
        "state": BatchState.FINISHED,
        "item_count": 0,
    }
    moments = {name: now() for name in ("created_at", "submitted_at", "finished_at")}
    for _ in range(ENOUGH_DURATIONS):
        tx.execute(sa.insert(batches).values(id=uuid4(), **finished, **moments))


def plain_text_as_contexts(tx: Transaction) -> None:
    """Store an input that no judge would accept, as plain SQL can."""
    tx.execute(sa.update(items).where(items.c.item_index == 0).values(contexts="not a list"))


def forgotten_job(tx: Transaction) -> None:
    """Leave inputs waiting in a job that is not due, as after a late insert."""
    tx.execute(sa.update(jobs).values(due_at=None))


SCENARIOS = {
    "in batches, one input failing and tried again": Scenario(
        effects=[
            "GET of the list",
            "commit of insert_batches",
            "message to submit, after insert_batches",
            "commit of claim_submission",
            "claim_submission: POST of a batch",
            "claim_submission: commit of record_accepted",
            "claim_submission: message to poll, after record_accepted",
            "commit of claim_poll",
            "claim_poll: GET of a batch",
            "claim_poll: commit of record_running",
            "claim_poll: message to poll, after record_running",
            "claim_poll: commit of record_results",
        ],
        judge="answer-quality",
        inputs=[ONE, INCOMPLETE, TWO, THREE],
        settings={"batch_size": 2, "max_item_attempts": 2},
        ending=ExpectedEnd(completed=3, failed=1, evaluated=5, again=1),
    ),
    "the list tells which batches have ended": Scenario(
        effects=[
            "commit of claim_read",
            "claim_read: GET of the list",
            "claim_read: commit of schedule_read",
            "claim_read: commit of record_snapshot",
            "claim_read: message to poll, after record_snapshot",
        ],
        inputs=[ONE, TWO, THREE],
        options=SandboxOptions(latency=(3.0, 4.0)),
        settings={"batch_size": 1, "poll_min_seconds": 20},
        ending=ExpectedEnd(completed=3, evaluated=3),
    ),
    "the judge ends its batches at once": Scenario(
        effects=[
            "claim_submission: commit of keep_for_first_poll",
            "claim_submission: GET of a batch",
            "claim_submission: commit of record_results",
        ],
        prepare=batches_took_no_time,
        options=SandboxOptions(latency=(0.0, 0.0)),
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "the answer to the submission gets lost": Scenario(
        effects=[
            "claim_submission: commit of record_unknown",
            "commit of claim_search",
            "claim_search: GET of the list",
            "claim_search: commit of record_accepted",
            "claim_search: message to poll, after record_accepted",
        ],
        options=SandboxOptions(latency=SHORT, lose_answers=1.0),
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "and the server shows no tags": Scenario(
        effects=["claim_search: GET of a batch"],
        options=SandboxOptions(latency=SHORT, lose_answers=1.0, show_tags=False),
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "killed before the submission left": Scenario(
        effects=[
            "claim_search: commit of record_search",
            "claim_search: commit of record_resubmission",
        ],
        killed_at="after commit of claim_submission",
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "polls are answered 503": Scenario(
        effects=[
            "claim_poll: commit of record_poll_failed",
            "claim_poll: message to poll, after record_poll_failed",
        ],
        killed_at="after claim_submission: commit of record_accepted",
        options=SandboxOptions(server_errors=1.0),
        afterwards=PLAIN,
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "the submission is throttled": Scenario(
        effects=["claim_submission: commit of record_not_started"],
        options=SandboxOptions(latency=SHORT, max_running=0),
        afterwards=PLAIN,
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "a batch is too large, and one of its inputs alone": Scenario(
        effects=[
            "claim_submission: commit of record_split",
            "claim_submission: message to submit, after record_split",
            "claim_submission: commit of record_refused",
        ],
        inputs=[ONE, TWO, HUGE],
        options=SandboxOptions(latency=SHORT, max_body_bytes=10_000),
        ending=ExpectedEnd(completed=2, failed=1, evaluated=2),
    ),
    "an input that no submission could carry": Scenario(
        effects=["commit of claim_submission and prepare_inputs"],
        prepare=plain_text_as_contexts,
        ending=ExpectedEnd(completed=1, failed=1, evaluated=1),
    ),
    "inputs that nothing would plan": Scenario(
        effects=["commit of wake_stray_jobs"],
        prepare=forgotten_job,
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "batches that never end": Scenario(
        effects=["claim_poll: commit of record_lost"],
        options=SandboxOptions(latency=(600.0, 600.0)),
        settings={"batch_timeout_seconds": 1, "poll_max_seconds": 0.5, "max_item_attempts": 2},
        ending=ExpectedEnd(failed=2, evaluated=4, again=2),
    ),
    "killed before the message to submit": Scenario(
        effects=["commit of nudge_overdue", "message to submit, after nudge_overdue"],
        killed_at="after commit of insert_batches",
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "killed before the message to poll": Scenario(
        effects=["message to poll, after nudge_overdue"],
        killed_at="after claim_submission: commit of record_accepted",
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "a receiver that answers": Scenario(
        effects=[
            "commit of nudge_due",
            "message to notify, after nudge_due",
            "commit of claim_notice",
            "claim_notice: POST of a notice",
            "claim_notice: commit of record_sent",
        ],
        notice=NoticeState.SENT,
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "a receiver that fails": Scenario(
        effects=["claim_notice: commit of record_waiting"],
        notice=NoticeState.WAITING,
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "a receiver where none may be": Scenario(
        effects=["claim_notice: commit of record_failed"],
        notice=NoticeState.FAILED,
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "a closed gate before submissions": Scenario(
        effects=["commit of claim_submission and defer"],
        prepare=closed(gates.SUBMIT),
        relieve=open_again(gates.SUBMIT),
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "a closed gate before a search": Scenario(
        effects=["commit of claim_search and defer"],
        killed_at="after claim_submission: POST of a batch",
        prepare=closed(gates.STATUS),
        relieve=open_again(gates.STATUS),
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "a closed gate before polls": Scenario(
        effects=["commit of claim_poll and defer"],
        killed_at="after claim_submission: commit of record_accepted",
        prepare=closed(gates.STATUS),
        relieve=open_again(gates.STATUS),
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "holders died while they submitted": Scenario(
        effects=["commit of claim_submission and put_on_hold"],
        killed_at="after commit of insert_batches",
        prepare=holders_died,
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "holders died while they searched": Scenario(
        effects=["commit of claim_search and put_on_hold"],
        killed_at="after claim_submission: POST of a batch",
        prepare=holders_died,
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "holders died while they polled": Scenario(
        effects=["commit of claim_poll and put_on_hold"],
        killed_at="after commit of claim_poll",
        prepare=holders_died,
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
    "no list to search, and a person is to decide": Scenario(
        effects=["claim_search: commit of put_on_hold"],
        options=SandboxOptions(latency=SHORT, lose_answers=1.0, serve_list=False),
        afterwards=PLAIN,
        settings={"on_lost_answer": "hold"},
        ending=ExpectedEnd(completed=2, evaluated=2),
    ),
}

BY_CHANCE = {
    f"{moment} claim_search: commit of defer": "two threads claim a search at the same moment"
    for moment in ("before", "after")
}
"""Points that a scenario may reach, but cannot be sure to: what has to happen for it."""

UNPLACED = {
    "allowed_in_flight": "reads",
    "batches_at_remote": "reads",
    "count_live_batches": "reads",
    "count_taken_slots": "reads",
    "due_lanes": "reads",
    "fail_lane": "plans nothing: ends jobs whose lane names no judge",
    "find": "reads",
    "find_closed": "reads",
    "is_another_accepted": "reads",
    "is_any_closed": "reads",
    "is_due": "reads",
    "is_refused_alone": "reads",
    "known_remote_ids": "reads",
    "lock_planning": "locks",
    "read_doubt": "reads",
    "note_surprise": "after an error in our own code; adds a remark, and the claim stands",
    "settle_idle_jobs": "plans nothing: ends jobs without inputs",
    "waiting_items": "reads",
}
"""What the pipeline calls in the store, and no scenario is killed at: why not."""
