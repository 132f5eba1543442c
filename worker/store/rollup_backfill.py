"""Fill the roll-up of scores for jobs that ended without it, in many small transactions.

They ended before the roll-up existed, or under a worker that does not know it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import ENDED
from worker.store import job_completion, score_rollup
from worker.store.database import Database
from worker.store.schema_version import REVISION, current_revision
from worker.store.sql_functions import among
from worker.store.tables import evaluator_results, job_scores, jobs
from worker.store.transaction import Transaction

MAX_JOBS = 100  # in one transaction
MAX_SCORES = 10_000  # the same, unless a single job has more


def fill(database: Database) -> None:
    """Sum up the scores of all ended jobs that have no rows. It can be interrupted and repeated.

    Nothing happens on a database that was not migrated up to the roll-up.
    """
    if current_revision(database) != REVISION:
        return
    for job_ids in _pieces(database):
        database.run(partial(_write_if_ended, job_ids=job_ids))


def _write_if_ended(tx: Transaction, job_ids: Sequence[UUID]) -> None:
    job_completion.lock_jobs(tx, job_ids)
    ended = tx.scalars(sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids), _HAS_ENDED)).all()
    if ended:
        score_rollup.write(tx, ended)


def _pieces(database: Database) -> Iterator[list[UUID]]:
    """Yield the ids of jobs that fit into one transaction; a larger job is alone."""
    piece: list[UUID] = []
    size = 0
    last: UUID | None = None
    while True:
        with database.read() as connection:
            after = _MISSING if last is None else _MISSING.where(jobs.c.id > last)
            found = connection.execute(after).all()
        for job_id, count in found:
            if piece and size + count > MAX_SCORES:
                yield piece
                piece, size = [], 0
            piece.append(job_id)
            size += count
        if not found:
            return
        yield piece
        piece, size, last = [], 0, found[-1][0]


_HAS_ENDED = among(jobs.c.status, sorted(ENDED))
_COUNT = (
    sa.select(sa.func.count())
    .where(evaluator_results.c.job_id == jobs.c.id)
    .correlate(jobs)
    .scalar_subquery()
)
_MISSING = (
    sa.select(jobs.c.id, _COUNT)
    .where(
        _HAS_ENDED,
        sa.exists().where(evaluator_results.c.job_id == jobs.c.id),
        ~sa.exists().where(job_scores.c.job_id == jobs.c.id),
    )
    .order_by(jobs.c.id)
    .limit(MAX_JOBS)
)
