"""A submission becomes a job, or the job that an earlier one with its key became."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast
from uuid import UUID

from uuid_utils.compat import uuid7

from worker.errors import InvalidInputs
from worker.gateway.group_commit import Writing
from worker.gateway.reader import Reading
from worker.outbox import validate_job
from worker.store import gateway_queries
from worker.store.job_insert import NewJob
from worker.wire.problems import Problem, field_problem
from worker.wire.submission import Submission

CHECKED_AT_ONCE = 250  # inputs, in some milliseconds; more in a thread, while others are answered
KEY_PATTERN = "^[!-~]{1,255}$"  # an Idempotency-Key: ASCII that can be seen


@dataclass(frozen=True)
class Taking:
    """A submission on its way into the outbox, as a job with this id if it is new."""

    owner: str
    judge_id: str
    given: Submission
    idempotency_key: str | None = None  # the caller's own
    trace_context: str | None = None  # of the caller's span
    id: UUID = field(default_factory=uuid7)

    @cached_property
    def job(self) -> NewJob:
        columns = {
            "judge_id": self.judge_id,
            "judge_version_id": self.given.judge_version_id,
            "tags": sorted(set(self.given.tags or [])),
            "idempotency_key": self.stored_key,
            "priority": 0,
            "metadata": self.metadata,
            "owner": self.owner,
            "trace_context": self.trace_context,
        }
        detail = {"owner": self.owner, "inputs": len(self.given.inputs)}
        return NewJob(self.id, columns, self._inputs(), detail)

    @cached_property
    def stored_key(self) -> str:
        """Of this owner alone. Without a key of the caller's, one for this request.

        So a commit whose answer was lost can be tried again without a second job.
        """
        if self.idempotency_key is None:
            return f"gateway/{self.owner}/request/{self.id}"
        return f"gateway/{self.owner}/key/{self.idempotency_key}"

    def _inputs(self) -> list[dict[str, Any]]:
        """As they are sent: the project of a submission becomes that of its inputs.

        A batch at the judge API may hold inputs of several submissions.
        """
        inputs = [one.model_dump(exclude_unset=True) for one in self.given.inputs]
        if self.given.project_id is not None:
            for one in inputs:
                one["project_id"] = one.get("project_id") or self.given.project_id
        return inputs

    @cached_property
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


async def take(taking: Taking, writing: Writing, reading: Reading) -> UUID:
    """The job's id, once it is committed; raises `Problem` where there is none."""
    try:
        if len(taking.given.inputs) <= CHECKED_AT_ONCE:
            _check(taking)
        else:
            await asyncio.to_thread(_check, taking)
    except InvalidInputs as error:
        raise field_problem({"non_field_errors": error.offences}) from None
    while not await writing.put(taking.job):
        known = await gateway_queries.with_key(reading.ask, taking.stored_key)
        if known is None:
            continue  # it was deleted meanwhile
        if (known.owner, known.metadata) != (taking.owner, taking.metadata):
            words = "This Idempotency-Key was used for another submission."
            raise Problem(422, "idempotency_key_reused", words)
        return cast("UUID", known.id)
    return taking.id


def _check(taking: Taking) -> None:
    validate_job(taking.job.columns, taking.job.inputs)
