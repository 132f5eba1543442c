"""Keep the roll-up of scores: one row per ended job, evaluator and judge version.

A job that ends gets its rows in the same transaction, and one that is opened again loses them. So
they always agree with the scores, which do not change while a job has ended.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from itertools import pairwise
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.domain.score_summary import SHARE_EDGES
from worker.store.score_functions import square, sum_if_addable
from worker.store.sql_functions import json_array, looked_up
from worker.store.tables import batches, evaluator_results, items, job_scores, jobs
from worker.store.transaction import Transaction


def write(tx: Transaction, job_ids: Collection[UUID]) -> None:
    """Sum up the scores of jobs that have just ended."""
    tx.execute(_write(tx.connection.dialect.name), {"job_ids": sorted(job_ids)})


@cache
def _write(dialect: str) -> sa.Executable:
    columns = [column.name for column in job_scores.columns]
    insert = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(job_scores)
    insert = insert.from_select(columns, _SUMS)
    # There are no such rows, unless somebody opened the job again by hand.
    return insert.on_conflict_do_update(
        index_elements=["job_id", "position"],
        set_={name: insert.excluded[name] for name in columns[2:]},
    )


# Input by input, with a look-up of its batch and results by whole keys. For a first large job
# after small ones, statistics promise few rows, and PostgreSQL would otherwise read all inputs of
# the job for each of its results.
_scores = (
    sa.select(
        items.c.job_id,
        evaluator_results.c.evaluator_name,
        sa.func.coalesce(batches.c.ran_judge_version_id, jobs.c.judge_version_id).label(
            "judge_version_id"
        ),
        evaluator_results.c.score,
    )
    .select_from(items)
    .join(jobs, jobs.c.id == items.c.job_id)
    .outerjoin(batches, batches.c.id == items.c.batch_id)
    .join(
        evaluator_results,
        sa.and_(
            evaluator_results.c.job_id == looked_up(items.c.job_id),
            evaluator_results.c.item_index == items.c.item_index,
        ),
    )
    .where(items.c.job_id.in_(sa.bindparam("job_ids", expanding=True)))
    .subquery("scores")
)
_GROUP = (_scores.c.job_id, _scores.c.evaluator_name, _scores.c.judge_version_id)
_SCORE = _scores.c.score
_SCORED = sa.func.count(_SCORE)


def _bins(score: sa.ColumnElement[float]) -> sa.ColumnElement[object]:
    """Count the scores in each bin; NULL unless all are on the scale from 0 to 1."""
    edges: list[sa.ColumnElement[float]] = [sa.literal_column(repr(edge)) for edge in SHARE_EDGES]
    bins = [sa.and_(score >= low, score < high) for low, high in pairwise(edges[:-1])]
    counts = [sa.func.count().filter(condition) for condition in [*bins, score >= edges[-2]]]
    on_scale = sa.and_(sa.func.min(score) >= edges[0], sa.func.max(score) <= edges[-1])
    return sa.case((on_scale, json_array(*counts)))


_SUMS = sa.select(
    _scores.c.job_id,
    sa.func.row_number().over(partition_by=_GROUP[0], order_by=_GROUP[1:]),
    _scores.c.evaluator_name,
    _scores.c.judge_version_id,
    _SCORED,
    sa.func.count() - _SCORED,
    sum_if_addable(_SCORE, _SCORE),
    sum_if_addable(_SCORE, square(_SCORE)),
    sa.func.min(_SCORE),
    sa.func.max(_SCORE),
    _bins(_SCORE),
).group_by(*_GROUP)


def delete(tx: Transaction, job_ids: Collection[UUID]) -> None:
    """Take the sums back of jobs that are no longer ended, or that are about to be deleted."""
    tx.execute(_DELETE, {"job_ids": sorted(job_ids)})


_DELETE = sa.delete(job_scores).where(
    job_scores.c.job_id.in_(sa.bindparam("job_ids", expanding=True))
)
