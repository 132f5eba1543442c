"""The producer's side: `enqueue` puts a job into the outbox, in the caller's transaction.

It needs the two tables and nothing else: no broker, no key, no running worker.
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
from worker.store.bulk import insert_rows
from worker.store.job_insert import COLUMNS, id_with_key, insert_job, item_row
from worker.store.tables import items, jobs
from worker.tracing.context import producers_span
from worker.validation import judge_offences, offences_of, tag_offences, url_offences

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

CHUNK = 1000  # inputs per statement: a million of them never are in memory together


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
    """Adds a job of any number of inputs, in the caller's transaction; never commits.

    `inputs` are mappings with the judge API's input fields (`request`, `response`, `contexts`,
    `functions`, `expected_output`, …), from any iterable, read once and in chunks. A `priority`
    that is higher goes first. `metadata` is the producer's own and comes back in the views. An
    `idempotency_key` that is there already makes this a no-op that returns the first job's id. The
    worker POSTs a notice to `callback_url` when the job has ended: see docs/notices.md.

    Returns the job's id; for an `AsyncSession` or `AsyncConnection`, awaitable. Raises
    `InvalidInputs`, naming every offence; then nothing of the job is left in the transaction.
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
    if (context := producers_span()) is not None:  # else not named: before its migration, too
        job["trace_context"] = context
    if callback_url is not None:
        job["callback_url"] = callback_url
    # Not by type: SQLAlchemy's asyncio part cannot be imported without greenlet, which a producer
    # without asyncio need not have.
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
        # Also look at the inputs: everything that is wrong is told at once.
        raise _refusal(itertools.chain(offences, _input_offences(enumerate(inputs))))
    job["tags"] = sorted(set(job["tags"]))
    known = id_with_key(connection, job["idempotency_key"])
    if known is not None:
        return known
    # Nothing is written before the first chunk is known to be good: most jobs are no longer than
    # that, and need no undoing.
    given = enumerate(inputs)
    first = _next_chunk(given)
    if not first:
        raise InvalidInputs(["inputs is empty: a job needs at least one"])
    job = {"id": uuid7(), **job}
    with _undone_if_refused(connection, job["id"]) if len(first) == CHUNK else nullcontext():
        if not insert_job(connection, job):
            return cast("UUID", id_with_key(connection, job["idempotency_key"]))
        chunk = first
        while chunk:
            rows = [item_row(job["id"], index, value) for index, value in chunk]
            insert_rows(connection, items, COLUMNS, rows)
            chunk = _next_chunk(given)
    return cast("UUID", job["id"])


def _next_chunk(
    given: Iterator[tuple[int, Mapping[str, Any]]],
) -> list[tuple[int, Mapping[str, Any]]]:
    """The next inputs, each with its index; a bad one is told with all others, up to the last."""
    chunk = list(itertools.islice(given, CHUNK))
    offences = list(_input_offences(chunk))
    if offences:
        raise _refusal(itertools.chain(offences, _input_offences(given)))
    return chunk


@contextmanager
def _undone_if_refused(connection: sa.Connection, job_id: UUID) -> Iterator[None]:
    """Leaves nothing of the job where the block raises, and the transaction of use."""
    if connection.dialect.name == "postgresql":
        with connection.begin_nested():  # a producer may insert, and need not be able to delete
            yield
        return
    try:
        yield
    except sa.exc.SQLAlchemyError:
        raise  # the transaction is beyond use: its rollback takes everything along
    except BaseException:
        # Not a savepoint: on SQLite, releasing one that the driver did not begin commits.
        connection.execute(sa.delete(items).where(items.c.job_id == job_id))
        connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
        raise


def check(job: Mapping[str, Any], inputs: Iterable[Mapping[str, Any]]) -> None:
    """Raises `InvalidInputs` for what `enqueue` would refuse; the job is given by its columns."""
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
        offences.append("priority must be a whole number")
    elif not -(2**31) <= priority < 2**31:
        offences.append("priority must fit in 32 bits")
    try:
        json.dumps(job["metadata"], allow_nan=False)
    except (TypeError, ValueError) as error:
        offences.append(f"metadata cannot be written as JSON: {error}")
    return offences


def _input_offences(inputs: Iterable[tuple[int, object]]) -> Iterator[str]:
    for index, value in inputs:
        for offence in offences_of(value):
            joint = "" if offence.startswith(("must", "is")) else "."
            yield f"inputs[{index}]{joint or ' '}{offence}"


def _refusal(offences: Iterable[str]) -> InvalidInputs:
    shown, total = [], 0
    for total, offence in enumerate(offences, 1):
        if total <= SHOWN:
            shown.append(offence)
    return InvalidInputs(shown, total=total)
