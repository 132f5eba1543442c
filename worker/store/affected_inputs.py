"""Find the inputs that an action on jobs would change, and count them before it does."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import ENDED
from worker.store.tables import item_is_failed, item_is_live, items, jobs


class Affected(StrEnum):
    """The inputs that an action changes: a retry, a retry of everything, or cancelling."""

    FAILED = "failed"
    ENDED = "ended"
    OPEN = "open"


_CONDITIONS = {
    Affected.FAILED: item_is_failed,
    Affected.ENDED: items.c.status.in_(sorted(ENDED)),
    Affected.OPEN: item_is_live,
}


def has_inputs(affected: Affected, *, error: str | None = None) -> sa.ColumnElement[bool]:
    """Build the condition that a job has such inputs; with `error`, ones with this reason."""
    found = sa.exists().where(items.c.job_id == jobs.c.id, _CONDITIONS[affected])
    return found if error is None else found.where(items.c.error == error)


def count_inputs(
    connection: sa.Connection,
    job_ids: Collection[UUID],
    affected: Affected,
    *,
    error: str | None = None,
) -> dict[UUID, int]:
    """Count these inputs of each of these jobs; with `error`, those that failed for this reason."""
    chosen = (
        sa.select(items.c.job_id, sa.func.count())
        .where(items.c.job_id.in_(job_ids), _CONDITIONS[affected])
        .group_by(items.c.job_id)
    )
    if error is not None:
        chosen = chosen.where(items.c.error == error)
    return {row[0]: row[1] for row in connection.execute(chosen)}
