"""Read why inputs failed, over all jobs: the latest failures by reason and judge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from worker.store.rows import read_rows
from worker.store.tables import item_is_failed, items, jobs

LATEST = 10_000  # failures that are read


@dataclass(frozen=True, slots=True)
class FailureFilter:
    """Which failures; None: any. `since` and `until` are when their jobs were enqueued."""

    judge_id: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class FailureGroup(NamedTuple):
    """The failures of one judge for one reason."""

    error: str | None
    judge_id: str
    failures: int
    jobs: int


def group_failures(
    connection: sa.Connection, wanted: FailureFilter, *, limit: int
) -> list[FailureGroup]:
    """Group the latest failures by reason and judge, most frequent first."""
    latest = _latest(wanted, LATEST).subquery()
    count = sa.func.count()
    chosen = (
        sa.select(
            latest.c.error, latest.c.judge_id, count, sa.func.count(latest.c.job_id.distinct())
        )
        .group_by(latest.c.error, latest.c.judge_id)
        .order_by(count.desc(), latest.c.judge_id, latest.c.error)
        .limit(limit)
    )
    return read_rows(connection, FailureGroup, chosen)


def count_failures(connection: sa.Connection, wanted: FailureFilter) -> int:
    """Count failures, but no further than one more than `LATEST`."""
    found = _latest(wanted, LATEST + 1).subquery()
    return connection.scalar(sa.select(sa.func.count()).select_from(found)) or 0


def _latest(wanted: FailureFilter, limit: int) -> sa.Select[Any]:
    return (
        sa.select(items.c.job_id, items.c.error, jobs.c.judge_id)
        .join_from(items, jobs, jobs.c.id == items.c.job_id)
        .where(item_is_failed, *_conditions(wanted))
        .order_by(items.c.job_id.desc(), items.c.item_index.desc())
        .limit(limit)
    )


def _conditions(wanted: FailureFilter) -> Iterator[sa.ColumnElement[bool]]:
    if wanted.judge_id is not None:
        yield jobs.c.judge_id == wanted.judge_id
    if wanted.error is not None:
        yield items.c.error == wanted.error
    if wanted.since is not None:
        yield jobs.c.created_at >= wanted.since
    if wanted.until is not None:
        yield jobs.c.created_at < wanted.until
