"""Turn a submission into a job, or find the job that its idempotency key already made."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from worker.errors import InvalidInputs
from worker.gateway.group_commit import GroupCommit
from worker.gateway.reader import DatabaseReader
from worker.outbox import validate_job
from worker.store.gateway_queries import keyed_job
from worker.store.job_insert import NewJob
from worker.validation import missing_content
from worker.wire.problems import Problem, field_problem
from worker.wire.submission import Submission

INLINE_INPUTS = 250  # checked on the event loop in a few milliseconds; more in a thread
KEY_PATTERN = "^[!-~]{1,255}$"  # an Idempotency-Key: visible ASCII


@dataclass(frozen=True)
class PendingSubmission:
    """A submission that is not committed yet; `id` will be its job's id if it is new."""

    owner: str
    judge_id: str
    body: Submission
    idempotency_key: str | None = None  # the client's
    trace_context: str | None = None  # of the client's span
    id: UUID = field(default_factory=uuid7)

    @cached_property
    def job(self) -> NewJob:
        columns = {
            "judge_id": self.judge_id,
            "judge_version_id": self.body.judge_version_id,
            "tags": sorted(set(self.body.tags or [])),
            "idempotency_key": self.stored_key,
            "priority": 0,
            "metadata": self.metadata,
            "owner": self.owner,
            "trace_context": self.trace_context,
        }
        detail = {"owner": self.owner, "inputs": len(self.body.inputs)}
        return NewJob(self.id, columns, self._inputs(), detail)

    @cached_property
    def stored_key(self) -> str:
        """Return the key as the database has it, unique to the owner.

        A submission without a key gets one from its id, so that a commit whose outcome is unknown
        can be repeated without making a second job.
        """
        if self.idempotency_key is None:
            return f"gateway/{self.owner}/request/{self.id}"
        return f"gateway/{self.owner}/key/{self.idempotency_key}"

    def _inputs(self) -> list[dict[str, Any]]:
        """Copy the submission's project to its inputs.

        A batch at the judge API may hold inputs of several submissions.
        """
        inputs = [value.model_dump(exclude_unset=True) for value in self.body.inputs]
        if self.body.project_id is not None:
            for value in inputs:
                value["project_id"] = value.get("project_id") or self.body.project_id
        return inputs

    @cached_property
    def metadata(self) -> dict[str, Any] | None:
        metadata = {"project_id": self.body.project_id} if self.body.project_id else {}
        if self.idempotency_key is not None:
            metadata["body_sha256"] = self._fingerprint()
        return metadata or None

    def _fingerprint(self) -> str:
        body = [self.judge_id, self.body.model_dump(exclude_unset=True)]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def checked_idempotency_key(header: str | None) -> str | None:
    """Return the header's value; raise `Problem`, 400, if it cannot be a key."""
    if header is not None and not re.fullmatch(KEY_PATTERN, header):
        detail = "Between 1 and 255 visible ASCII characters are allowed."
        raise field_problem({"Idempotency-Key": [detail]})
    return header


async def submit(
    pending: PendingSubmission, group_commit: GroupCommit, reader: DatabaseReader
) -> UUID:
    """Return the job's id when it is committed; raise `Problem` if the submission is refused."""
    try:
        if len(pending.body.inputs) <= INLINE_INPUTS:
            _validate(pending)
        else:
            await asyncio.to_thread(_validate, pending)
    except InvalidInputs as error:
        raise field_problem({"non_field_errors": error.offences}) from None
    while not await group_commit.insert(pending.job):
        first = await reader.run(partial(keyed_job, key=pending.stored_key))
        if first is None:
            continue  # it was deleted meanwhile
        if (first.owner, first.metadata) != (pending.owner, pending.metadata):
            detail = "This Idempotency-Key was used for another submission."
            raise Problem(422, "idempotency_key_reused", detail)
        return first.id
    return pending.id


def _validate(pending: PendingSubmission) -> None:
    missing = [missing_content(value) for value in pending.job.inputs]
    if any(missing):
        fields = [{"non_field_errors": [f"This input {text}."]} if text else {} for text in missing]
        raise field_problem({"inputs": fields})
    validate_job(pending.job.columns, pending.job.inputs)
