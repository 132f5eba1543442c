"""Read the pairs of a comparison that changed most, over all evaluators."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from worker.store.comparison_queries import Change, JobPair, changes_by_size, requests_of


class ChangedPair(NamedTuple):
    """A pair whose score changed, and what was asked."""

    evaluator_name: str
    change: Change
    request: str | None


def changed_pairs(
    connection: sa.Connection,
    jobs: JobPair,
    *,
    losses: bool,
    limit: int,
    evaluator: str | None = None,
) -> list[ChangedPair]:
    """Return the largest losses, or gains, over all evaluators or of one."""
    changes = changes_by_size(
        connection, jobs, losses=losses, limit=limit, evaluator_name=evaluator
    )
    indexes = [change.second_index for _, change in changes]
    requests = requests_of(connection, jobs.second, indexes)
    return [
        ChangedPair(name, change, requests.get(change.second_index)) for name, change in changes
    ]
