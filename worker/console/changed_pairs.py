"""Read the pairs of a comparison that changed most, over all evaluators."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from worker.store.comparison_queries import Change, JobPair, largest_changes_of_all, requests_of


class ChangedPair(NamedTuple):
    """A pair whose score changed, and what was asked."""

    evaluator_name: str
    change: Change
    request: str | None


class ChangedPairs(NamedTuple):
    """The largest losses and gains, the largest first."""

    losses: list[ChangedPair]
    gains: list[ChangedPair]


def changed_pairs(
    connection: sa.Connection, jobs: JobPair, *, limit: int, evaluator: str | None = None
) -> ChangedPairs:
    """Return the pairs that changed most, over all evaluators or of one."""
    found = largest_changes_of_all(connection, jobs, limit=limit, evaluator_name=evaluator)
    indexes = [change.second_index for changes in found for _, change in changes]
    requests = requests_of(connection, jobs.second, indexes)
    return ChangedPairs(
        *(
            [ChangedPair(name, change, requests.get(change.second_index)) for name, change in side]
            for side in found
        )
    )
