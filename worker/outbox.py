"""Provide `enqueue`, which adds a job to the outbox in the caller's own transaction.

This is a transactional outbox (Richardson, "Microservices Patterns", 2018): the job commits or
rolls back with the producer's rows. It needs the tables, and no broker, API key or running worker.
"""

from __future__ import annotations

import itertools
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, cast, overload
from uuid import UUID

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from worker.domain.content_digest import ContentDigest, can_be_compared
from worker.errors import SHOWN, IdempotencyKeyReused, InvalidInputs
from worker.store.job_insert import (
    JobWithKey,
    insert_items,
    insert_job,
    job_with_key,
    record_content,
)
from worker.store.producer_connection import async_runner, connection_of
from worker.store.tables import items, jobs
from worker.tracing.context import current_traceparent
from worker.validation import (
    given_offences,
    iterable_offences,
    judge_offences,
    key_offences,
    metadata_offences,
    tag_offences,
    url_offences,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

Chunk = list[tuple[int, Mapping[str, Any]]]

CHUNK = 1000  # inputs per statement, so that memory use does not grow with the job


@overload
def enqueue(
    session_or_connection: Session | scoped_session[Any] | sa.Connection,
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
    session_or_connection: AsyncSession | async_scoped_session[Any] | AsyncConnection,
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
    session_or_connection: Session
    | scoped_session[Any]
    | sa.Connection
    | AsyncSession
    | async_scoped_session[Any]
    | AsyncConnection,
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
            prepared. A scoped session is one, too. Not in AUTOCOMMIT mode.
        judge_id: Id of the judge at the judge API: a non-empty string of at most 255 characters,
            or a UUID.
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
        idempotency_key: Non-empty string of at most 255 characters that identifies this job, and
            does not begin with `gateway/`. If a job with this key exists already, nothing is
            written. Its id is returned if it has the same judge, version, tags and inputs; else
            `IdempotencyKeyReused` is raised. Jobs that plain SQL or an older version wrote
            cannot be compared: their ids are returned.
        priority: Signed 32-bit integer. Jobs with a higher priority are submitted first.
        metadata: JSON object of the producer's own (a dict). The views show it; it is never sent
            to the judge.
        callback_url: HTTP(S) URL of at most 2,000 characters. The worker POSTs a signed webhook
            to it when the job has ended.

    Returns:
        The id of the job, a UUIDv7. With an `AsyncSession` or `AsyncConnection`, a coroutine
        that returns it.

    Raises:
        InvalidInputs: An argument or an input is invalid. All problems are reported together,
            each with its path, such as `inputs[3].contexts`. Nothing of the job is left in the
            transaction, which stays usable.
        IdempotencyKeyReused: The key belongs to a job with other content, or to another
            producer's. Nothing was written. It is an `InvalidInputs`, too.
        sqlalchemy.exc.SQLAlchemyError: The database refused a statement. Roll back.
    """
    columns = _columns(
        judge_id=judge_id,
        tags=tags,
        judge_version_id=judge_version_id,
        idempotency_key=idempotency_key,
        priority=priority,
        metadata=metadata,
        callback_url=callback_url,
    )
    run_sync = async_runner(session_or_connection)
    if run_sync is not None:
        return cast(
            "Coroutine[Any, Any, UUID]",
            run_sync(lambda given: _enqueue(connection_of(given), columns, inputs).job_id),
        )
    return _enqueue(connection_of(session_or_connection), columns, inputs).job_id


class Enqueued(NamedTuple):
    """A job that was enqueued, or that was there already."""

    job_id: UUID
    is_new: bool = False
    is_compared: bool = True  # whether the content of a job that was there is known to be equal


def enqueue_once(
    connection: sa.Connection, *, inputs: Iterable[Mapping[str, Any]], **columns: Any
) -> Enqueued:
    """Add a job as `enqueue` does, and say whether it was there already."""
    return _enqueue(connection_of(connection), _columns(**columns), inputs)


def _columns(
    *,
    judge_id: str | UUID,
    tags: Iterable[str] = (),
    judge_version_id: str | UUID | None = None,
    idempotency_key: str | None = None,
    priority: int = 0,
    metadata: Mapping[str, Any] | None = None,
    callback_url: str | None = None,
) -> dict[str, Any]:
    """Return the columns of a job as they are given; nothing is validated yet."""
    job = {
        "judge_id": str(judge_id) if isinstance(judge_id, UUID) else judge_id,
        "judge_version_id": (
            str(judge_version_id) if isinstance(judge_version_id, UUID) else judge_version_id
        ),
        "tags": tags if isinstance(tags, str | bytes | Mapping) else _listed(tags),
        "idempotency_key": idempotency_key,
        "priority": priority,
        "metadata": dict(metadata) if isinstance(metadata, Mapping) else metadata,
    }
    # Optional columns are left out unless set, so that older schemas still accept the insert.
    if (context := current_traceparent()) is not None:
        job["trace_context"] = context
    if callback_url is not None:
        job["callback_url"] = callback_url
    return job


def _listed(tags: object) -> object:
    return list(tags) if isinstance(tags, Iterable) else tags


def _enqueue(
    connection: sa.Connection, job: dict[str, Any], inputs: Iterable[Mapping[str, Any]]
) -> Enqueued:
    offences = [*_job_offences(job), *iterable_offences(inputs)]
    if offences:
        # Validate the inputs as well, so that one error reports every problem.
        values = enumerate(inputs) if not iterable_offences(inputs) else ()
        raise _refusal(itertools.chain(offences, _input_offences(values)))
    job["tags"] = sorted(set(job["tags"]))
    key = job["idempotency_key"]
    digest = None if key is None else ContentDigest.of_job(job)
    chunks = _chunks(enumerate(inputs), digest)
    if digest is not None and (known := job_with_key(connection, key)) is not None:
        return _compare(known, key, chunks, digest)
    # The first chunk is validated before anything is written. Most jobs are no longer than that
    # and never need to be undone.
    first = next(chunks, None)
    if first is None:
        raise InvalidInputs(["inputs is empty: a job needs at least one"])
    is_whole = len(first) < CHUNK
    if digest is not None and is_whole:
        job["content_digest"] = digest.value()
    job = {"id": uuid7(), **job}
    with nullcontext() if is_whole else _removed_on_error(connection, job["id"]):
        if not insert_job(connection, job):
            return _compare(job_with_key(connection, key), key, chunks, cast("Any", digest))
        job_id = str(job["id"])
        for chunk in itertools.chain([first], chunks):
            insert_items(connection, [(job_id, index, value) for index, value in chunk])
        if digest is not None and not is_whole:
            record_content(connection, job["id"], digest.value())
    return Enqueued(job["id"], is_new=True)


def _compare(
    known: JobWithKey | None, key: str, chunks: Iterator[Chunk], digest: ContentDigest
) -> Enqueued:
    """Return the job that has this key; raise `IdempotencyKeyReused` if its content differs."""
    if known is None:  # another producer's, which this one may not see
        raise IdempotencyKeyReused(key)
    if not can_be_compared(known.content_digest):
        return Enqueued(known.id, is_compared=False)
    for _ in chunks:
        pass  # each adds to the digest
    if known.content_digest != digest.value():
        raise IdempotencyKeyReused(key, known.id)
    return Enqueued(known.id)


def _chunks(
    numbered: Iterator[tuple[int, Mapping[str, Any]]], digest: ContentDigest | None
) -> Iterator[Chunk]:
    """Yield the inputs in chunks that are valid, and add them to the digest."""
    while chunk := _next_chunk(numbered):
        if digest is not None:
            digest.add(value for _, value in chunk)
        yield chunk


def _next_chunk(numbered: Iterator[tuple[int, Mapping[str, Any]]]) -> Chunk:
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
    if job["idempotency_key"] is not None and "owner" not in job:  # the gateway makes its own
        offences += key_offences(job["idempotency_key"])
    priority = job["priority"]
    if isinstance(priority, bool) or not isinstance(priority, int):
        offences.append("priority must be an integer")
    elif not -(2**31) <= priority < 2**31:
        offences.append("priority must fit in 32 bits")
    offences += metadata_offences(job["metadata"])
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
