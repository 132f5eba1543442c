"""Submissions become jobs, those that wait at the same time in one transaction.

One thread writes: a commit is what a submission costs most, and so all who wait share one. Nobody
is answered before it.
"""

from __future__ import annotations

import hashlib
import json
import queue
import re
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID, uuid4

from sqlalchemy.exc import DBAPIError

from worker.errors import InvalidInputs
from worker.outbox import enqueue
from worker.store import executions
from worker.store.database import Database, Transaction, worth_another_try
from worker.wire.problems import Problem, field_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.wire.submission import Submission

MOST_INPUTS = 2000  # in one transaction, beyond its first submission
KEY_PATTERN = "^[!-~]{1,255}$"  # an Idempotency-Key: ASCII that can be seen


@dataclass(frozen=True, slots=True)
class Taking:
    """A submission on its way into the outbox, and the job's id or why there is none."""

    owner: str
    judge_id: str
    given: Submission
    idempotency_key: str | None = None  # the caller's own
    trace_context: str | None = None  # of the caller's span
    own_key: str = field(default_factory=lambda: str(uuid4()))
    answer: Future[UUID] = field(default_factory=Future)

    def stored_key(self) -> str:
        """Of this owner alone. Without a key of the caller's, one for this request.

        So a commit whose answer was lost can be tried again without a second job.
        """
        if self.idempotency_key is None:
            return f"gateway/{self.owner}/request/{self.own_key}"
        return f"gateway/{self.owner}/key/{self.idempotency_key}"

    def inputs(self) -> list[dict[str, Any]]:
        """As they are sent: the project of a submission becomes that of its inputs.

        A batch at the judge API may hold inputs of several submissions.
        """
        inputs = [one.model_dump(exclude_unset=True) for one in self.given.inputs]
        if self.given.project_id is not None:
            for one in inputs:
                one["project_id"] = one.get("project_id") or self.given.project_id
        return inputs

    def metadata(self) -> dict[str, Any] | None:
        noted = {"project_id": self.given.project_id} if self.given.project_id else {}
        if self.idempotency_key is not None:
            noted["body_sha256"] = self._fingerprint()
        return noted or None

    def _fingerprint(self) -> str:
        body = [self.judge_id, self.given.model_dump(exclude_unset=True)]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def idempotency_key_in(header: str | None) -> str | None:
    """Raises `Problem`, 400, for what is no key."""
    if header is not None and not re.fullmatch(KEY_PATTERN, header):
        words = "Between 1 and 255 visible ASCII characters are allowed."
        raise field_problem({"Idempotency-Key": [words]})
    return header


def take(tx: Transaction, taking: Taking) -> UUID:
    """The job's id; raises `Problem`, and then has written nothing."""
    metadata = taking.metadata()
    try:
        job_id = enqueue(
            tx.connection,
            judge_id=taking.judge_id,
            inputs=taking.inputs(),
            tags=taking.given.tags or (),
            judge_version_id=taking.given.judge_version_id,
            idempotency_key=taking.stored_key(),
            metadata=metadata,
        )
    except InvalidInputs as error:
        raise field_problem({"non_field_errors": error.offences}) from None
    if executions.own(tx, job_id, taking.owner, taking.trace_context):
        count = len(taking.given.inputs)
        tx.happened("job.taken", job_id=job_id, owner=taking.owner, inputs=count)
    elif metadata != executions.metadata_of(tx, job_id):
        words = "This Idempotency-Key was used for another submission."
        raise Problem(422, "idempotency_key_reused", words)
    return job_id


class Taker:
    """The thread that writes. A context manager; what waits at its end is still written."""

    def __init__(self, database: Database, on_taken: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._on_taken = on_taken
        self._waiting: queue.SimpleQueue[Taking | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="gateway writer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()

    def put(self, taking: Taking) -> Future[UUID]:
        self._waiting.put(taking)
        return taking.answer

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            group = [first]
            count = 0
            while count < MOST_INPUTS and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    self._waiting.put(None)  # seen again, when the group is written
                    break
                group.append(following)
                count += len(following.given.inputs)
            # Who has gone meanwhile wants nothing any more.
            self._write([one for one in group if one.answer.set_running_or_notify_cancel()])

    def _write(self, group: Sequence[Taking]) -> None:
        try:
            answers = self._database.run(lambda tx: [_attempt(tx, one) for one in group])
        except Exception as error:  # noqa: BLE001 (told to everyone who waits for it)
            if len(group) > 1 and not (isinstance(error, DBAPIError) and worth_another_try(error)):
                for one in group:  # what one of them brought about is not the others' fault
                    self._write([one])
                return
            for one in group:
                one.answer.set_exception(error)
            return
        self._on_taken()
        for one, answer in zip(group, answers, strict=True):
            if isinstance(answer, Problem):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)


def _attempt(tx: Transaction, taking: Taking) -> UUID | Problem:
    try:
        return take(tx, taking)
    except Problem as problem:
        return problem
