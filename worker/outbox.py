"""Provide `enqueue`, which adds a job to the outbox in the caller's own transaction.

This is a transactional outbox (Richardson, "Microservices Patterns", 2018): the job commits or
rolls back with the producer's rows. It needs the tables, and no broker, API key or running worker.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast, overload
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from worker.errors import SHOWN, InvalidInputs
from worker.store.job_insert import id_with_key, insert_items, insert_job
from worker.store.tables import items, jobs
from worker.tracing.context import current_traceparent
from worker.validation import given_offences, judge_offences, tag_offences, url_offences

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

CHUNK = 1000  # inputs per statement, so that memory use does not grow with the job


@overload
def enqueue(
    session_or_connection: Session | sa.Connection,
    *,
    judge_id: str | UUID,
    inputs: Iterable[Mapping[str, Any]],
    tags: Iterable[str] = (),
    judge_version_id: str | UUID | None = None,
    idempotency_key: str | None = None,
    priority: int = 0,
    metadata: Mapping[str, Any] | None = None,
    callback_url: str | None = None,
) -> UUID: ...
@overload
def enqueue(
    session_or_connection: AsyncSession | AsyncConnection,
    *,
    judge_id: str | UUID,
    inputs: Iterable[Mapping[str, Any]],
    tags: Iterable[str] = (),
    judge_version_id: str | UUID | None = None,
    idempotency_key: str | None = None,
    priority: int = 0,
    metadata: Mapping[str, Any] | None = None,
    callback_url: str | None = None,
) -> Coroutine[Any, Any, UUID]: ...


def enqueue(
    session_or_connection: Session | sa.Connection | AsyncSession | AsyncConnection,
    *,
    judge_id: str | UUID,
    inputs: Iterable[Mapping[str, Any]],
    tags: Iterable[str] = (),
    judge_version_id: str | UUID | None = None,
    idempotency_key: str | None = None,
    priority: int = 0,
    metadata: Mapping[str, Any] | None = None,
    callback_url: str | None = None,
) -> UUID | Coroutine[Any, Any, UUID]:
    """Add a job to the outbox in the caller's transaction; never commit.

    The job becomes visible to workers when the caller commits, and leaves no trace if the caller
    rolls back. Import this function from `worker`.

    Args:
        session_or_connection: An SQLAlchemy `Session` or `Connection`, or an `AsyncSession` or
            `AsyncConnection`, to a SQLite or PostgreSQL database that `evalworker migrate` has
            prepared.
        judge_id: Id of the judge at the judge API: a non-empty string or a UUID.
        inputs: One mapping per input, from any iterable; at least one. The keys are the judge
            API's input fields: `request`, `response` and `expected_output` (strings), `contexts`
            (list of strings), `functions` (list of objects), `turns`, `tools`, and so on. One of
            `request`, `response` and `turns` is required; a judge may need others, too.
            `metadata`, a JSON object, is stored with its input, shown by the views, and never
            sent to the judge. The iterable is read once, in chunks of 1,000, so it may be larger
            than memory.
        tags: Non-empty strings that label the job and its batches at the judge API. Stored
            sorted and without duplicates.
        judge_version_id: Version of the judge to use. `None` means the latest version at the
            time of submission.
        idempotency_key: Non-empty string that identifies this job. If a job with this key exists
            already, nothing is written and that job's id is returned.
        priority: Signed 32-bit integer. Jobs with a higher priority are submitted first.
        metadata: JSON object of the producer's own. The views show it; it is never sent to the
            judge.
        callback_url: HTTP(S) URL of at most 2,000 characters. The worker POSTs a signed webhook
            to it when the job has ended.

    Returns:
        The id of the job, a UUIDv7. With an `AsyncSession` or `AsyncConnection`, a coroutine
        that returns it.

    Raises:
        InvalidInputs: An argument or an input is invalid. All problems are reported together,
            each with its path, such as `inputs[3].contexts`. Nothing of the job is left in the
            transaction, which stays usable.
        sqlalchemy.exc.SQLAlchemyError: The database refused a statement. Roll back.
    """
    job = {
        "judge_id": str(judge_id) if isinstance(judge_id, UUID) else judge_id,
        "judge_version_id": (
            str(judge_version_id) if isinstance(judge_version_id, UUID) else judge_version_id
        ),
        "tags": tags if isinstance(tags, str) else list(tags),
        "idempotency_key": idempotency_key,
        "priority": priority,
        "metadata": dict(metadata) if metadata is not None else None,
    }
    # Optional columns are left out unless set, so that older schemas still accept the insert.
    if (context := current_traceparent()) is not None:
        job["trace_context"] = context
    if callback_url is not None:
        job["callback_url"] = callback_url
    # Not an isinstance check: importing SQLAlchemy's asyncio types requires greenlet, which a
    # synchronous producer may not have installed.
    run_sync = getattr(session_or_connection, "run_sync", None)
    if run_sync is not None:
        return cast(
            "Coroutine[Any, Any, UUID]", run_sync(lambda given: _enqueue(given, job, inputs))
        )
    return _enqueue(cast("Session | sa.Connection", session_or_connection), job, inputs)


def _enqueue(
    session_or_connection: Session | sa.Connection,
    job: dict[str, Any],
    inputs: Iterable[Mapping[str, Any]],
) -> UUID:
    connection = session_or_connection
    if isinstance(connection, Session):
        connection = connection.connection()
    offences = _job_offences(job)
    if offences:
        # Validate the inputs as well, so that one error reports every problem.
        raise _refusal(itertools.chain(offences, _input_offences(enumerate(inputs))))
    job["tags"] = sorted(set(job["tags"]))
    known = id_with_key(connection, job["idempotency_key"])
    if known is not None:
        return known
    # The first chunk is validated before anything is written. Most jobs are no longer than that
    # and never need to be undone.
    numbered = enumerate(inputs)
    first = _next_chunk(numbered)
    if not first:
        raise InvalidInputs(["inputs is empty: a job needs at least one"])
    job = {"id": uuid7(), **job}
    with _removed_on_error(connection, job["id"]) if len(first) == CHUNK else nullcontext():
        if not insert_job(connection, job):
            return cast("UUID", id_with_key(connection, job["idempotency_key"]))
        chunk = first
        while chunk:
            insert_items(connection, [(job["id"], index, value) for index, value in chunk])
            chunk = _next_chunk(numbered)
    return cast("UUID", job["id"])


def _next_chunk(
    numbered: Iterator[tuple[int, Mapping[str, Any]]],
) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the next inputs with their indexes.

    If one is invalid, all remaining inputs are validated too, so that one error reports them all.
    """
    chunk = list(itertools.islice(numbered, CHUNK))
    offences = list(_input_offences(chunk))
    if offences:
        raise _refusal(itertools.chain(offences, _input_offences(numbered)))
    return chunk


@contextmanager
def _removed_on_error(connection: sa.Connection, job_id: UUID) -> Iterator[None]:
    """If the block raises, remove the job's rows and keep the transaction usable."""
    if connection.dialect.name == "postgresql":
        with connection.begin_nested():  # a savepoint: producers need no right to delete
            yield
        return
    try:
        yield
    except sa.exc.SQLAlchemyError:
        raise  # the transaction is broken: its rollback removes the rows
    except BaseException:
        # Not a savepoint: on SQLite, releasing a savepoint commits if the driver had not begun a
        # transaction.
        connection.execute(sa.delete(items).where(items.c.job_id == job_id))
        connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
        raise


def validate_job(job: Mapping[str, Any], inputs: Iterable[Mapping[str, Any]]) -> None:
    """Raise `InvalidInputs` if `enqueue` would refuse this job, given by its columns."""
    offences = [*_job_offences(job), *_input_offences(enumerate(inputs))]
    if offences:
        raise _refusal(offences)


def _job_offences(job: Mapping[str, Any]) -> list[str]:
    offences = [*judge_offences(job["judge_id"]), *tag_offences(job["tags"])]
    if job["judge_version_id"] is not None:
        offences += judge_offences(job["judge_version_id"], "judge_version_id")
    if "callback_url" in job:
        offences += url_offences(job["callback_url"])
    key = job["idempotency_key"]
    if key is not None:
        offences += judge_offences(key, "idempotency_key")
    priority = job["priority"]
    if isinstance(priority, bool) or not isinstance(priority, int):
        offences.append("priority must be an integer")
    elif not -(2**31) <= priority < 2**31:
        offences.append("priority must fit in 32 bits")
    try:
        json.dumps(job["metadata"], allow_nan=False)
    except (TypeError, ValueError) as error:
        offences.append(f"metadata cannot be written as JSON: {error}")
    return offences


def _input_offences(inputs: Iterable[tuple[int, object]]) -> Iterator[str]:
    for index, value in inputs:
        for offence in given_offences(value):
            separator = " " if offence.startswith(("must", "is", "needs")) else "."
            yield f"inputs[{index}]{separator}{offence}"


def _refusal(offences: Iterable[str]) -> InvalidInputs:
    shown, total = [], 0
    for total, offence in enumerate(offences, 1):
        if total <= SHOWN:
            shown.append(offence)
    return InvalidInputs(shown, total=total)
