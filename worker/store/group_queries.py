"""Sum up scores by groups of inputs that belong together."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa

from worker.domain.clusters import GroupedSums
from worker.store.score_functions import is_addable, square
from worker.store.sql_functions import value_at
from worker.store.views import scores


def grouped_sums(
    size: sa.ColumnElement[int],
    total: sa.ColumnElement[float],
    least: sa.ColumnElement[float],
    most: sa.ColumnElement[float],
) -> list[sa.ColumnElement[Any]]:
    """Build the fields of `GroupedSums`, from rows of which each is a group."""

    def sum_of(value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.func.coalesce(sa.func.sum(value), 0)

    return [
        sa.cast(sum_of(size), sa.BigInteger),
        sum_of(total),
        sa.func.min(least),
        sa.func.max(most),
        sa.func.count().filter(size > 0),
        sum_of(square(total)),
        sum_of(total * size),
        sa.cast(sum_of(size * size), sa.Double),
    ]


def sums_by_evaluator(
    connection: sa.Connection, job_id: UUID, group_key: str
) -> dict[str, GroupedSums]:
    """Sum up the scores of a job, grouped by a value in the metadata of its inputs.

    Inputs without that value are groups of their own.
    """
    value = value_at(scores.c.metadata, group_key)
    by_group = (
        sa.select(
            scores.c.evaluator_name,
            sa.func.count(scores.c.score).label("size"),
            sa.func.sum(scores.c.score).label("total"),
            sa.func.min(scores.c.score).label("least"),
            sa.func.max(scores.c.score).label("most"),
        )
        .where(scores.c.job_id == job_id, is_addable(scores.c.score))
        .group_by(scores.c.evaluator_name, value, sa.case((value.is_(None), scores.c.item_index)))
        .subquery()
    )
    groups = by_group.c
    chosen = sa.select(
        groups.evaluator_name, *grouped_sums(groups.size, groups.total, groups.least, groups.most)
    ).group_by(groups.evaluator_name)
    return {name: GroupedSums(*sums) for name, *sums in connection.execute(chosen)}
