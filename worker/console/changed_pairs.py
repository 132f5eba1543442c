"""Read the pairs of a comparison that changed most, over all evaluators."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from worker.store.comparison_queries import (
    Change,
    JobComparison,
    JobPair,
    largest_changes,
    requests_of,
)


class ChangedPair(NamedTuple):
    """A pair whose score changed, and what was asked."""

    evaluator_name: str
    change: Change
    request: str | None


def changed_pairs(
    connection: sa.Connection,
    jobs: JobPair,
    found: JobComparison,
    *,
    losses: bool,
    limit: int,
    evaluator: str | None = None,
) -> list[ChangedPair]:
    """Return the largest losses, or gains, over all evaluators or of one."""
    changes: list[tuple[str, Change]] = []
    for one in found.evaluators:
        name = one.scores.evaluator_name
        changed = one.scores.worse if losses else one.scores.better
        if changed and evaluator in (None, name):
            largest = largest_changes(connection, jobs, name, losses=losses, limit=limit)
            changes += [(name, change) for change in largest]
    changes.sort(key=lambda pair: pair[1].difference, reverse=not losses)
    largest_of_all = changes[:limit]
    indexes = [change.second_index for _, change in largest_of_all]
    requests = requests_of(connection, jobs.second, indexes)
    return [
        ChangedPair(name, change, requests.get(change.second_index))
        for name, change in largest_of_all
    ]
