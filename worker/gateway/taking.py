"""Submissions become jobs, those that wait at the same time in one transaction.

One thread writes: a commit is what a submission costs most, and so all who wait share one, and
its statements. Nobody is answered before it.
"""

from __future__ import annotations

import hashlib
import json
import queue
import re
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID, uuid4

from sqlalchemy.exc import DBAPIError

from worker.errors import InvalidInputs
from worker.gateway.telling import Telling
from worker.outbox import check, put_jobs
from worker.store import executions
from worker.store.database import Database, Transaction, worth_another_try
from worker.wire.problems import Problem, field_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.wire.submission import Submission

MOST_INPUTS = 2000  # in one transaction, beyond its first submission
KEY_PATTERN = "^[!-~]{1,255}$"  # an Idempotency-Key: ASCII that can be seen


@dataclass(frozen=True)
class Taking:
    """A submission on its way into the outbox, and the job's id or why there is none."""

    owner: str
    judge_id: str
    given: Submission
    idempotency_key: str | None = None  # the caller's own
    trace_context: str | None = None  # of the caller's span
    own_key: str = field(default_factory=lambda: str(uuid4()))
    answer: Telling[UUID] = field(default_factory=Telling)

    @cached_property
    def job(self) -> dict[str, Any]:
        """The columns of its row."""
        return {
            "judge_id": self.judge_id,
            "judge_version_id": self.given.judge_version_id,
            "tags": self.given.tags or [],
            "idempotency_key": self.stored_key(),
            "priority": 0,
            "metadata": self.metadata(),
            "owner": self.owner,
            "trace_context": self.trace_context,
        }

    def stored_key(self) -> str:
        """Of this owner alone. Without a key of the caller's, one for this request.

        So a commit whose answer was lost can be tried again without a second job.
        """
        if self.idempotency_key is None:
            return f"gateway/{self.owner}/request/{self.own_key}"
        return f"gateway/{self.owner}/key/{self.idempotency_key}"

    @cached_property
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


def take(tx: Transaction, group: Sequence[Taking]) -> list[UUID | Problem]:
    """The id of each one's job, or why there is none; what they hold is checked already."""
    found = put_jobs(tx.connection, [(one.job, one.inputs) for one in group])
    return [_taken(tx, one, *job) for one, job in zip(group, found, strict=True)]


def _taken(tx: Transaction, one: Taking, job_id: UUID, is_new: bool) -> UUID | Problem:
    if is_new:
        tx.happened("job.taken", job_id=job_id, owner=one.owner, inputs=len(one.inputs))
    elif executions.noted_with(tx, job_id) != (one.owner, one.job["metadata"]):
        words = "This Idempotency-Key was used for another submission."
        return Problem(422, "idempotency_key_reused", words)
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

    async def take(self, taking: Taking) -> UUID:
        """The job's id, once it is committed; raises why there is none."""
        self._waiting.put(taking)
        return await taking.answer

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
            self._write([one for one in group if one.answer.is_wanted() and _is_sound(one)])

    def _write(self, group: Sequence[Taking]) -> None:
        if not group:
            return
        try:
            answers = self._database.run(lambda tx: take(tx, group))
        except Exception as error:  # noqa: BLE001 (told to everyone who waits for it)
            if len(group) > 1 and not (isinstance(error, DBAPIError) and worth_another_try(error)):
                for one in group:  # what one of them brought about is not the others' fault
                    self._write([one])
                return
            for one in group:
                one.answer.tell(error)
            return
        self._on_taken()
        for one, answer in zip(group, answers, strict=True):
            one.answer.tell(answer)


def _is_sound(taking: Taking) -> bool:
    """Whoever asks for what cannot be taken is told so, and holds up nobody else."""
    try:
        check(taking.job, taking.inputs)
    except InvalidInputs as error:
        taking.answer.tell(field_problem({"non_field_errors": error.offences}))
        return False
    return True
