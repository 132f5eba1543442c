"""Turn a comparison into plain values, for JSON and for callers in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from worker.domain.comparison import Comparison
from worker.domain.intervals import Interval, NoInterval
from worker.store.comparison_notes import comparison_notes
from worker.store.comparison_queries import (
    JobComparison,
    JobPair,
    PairCounts,
    largest_changes,
    requests_of,
)
from worker.store.job_queries import JobProgress

_JOB_FIELDS = ("job_id", "judge_id", "judge_version_id", "tags", "status", "total", "completed")


def comparison_document(
    connection: sa.Connection, found: JobComparison, *, changes: int
) -> dict[str, Any]:
    """Return a comparison as dictionaries, with so many losses and gains of each evaluator."""
    jobs = JobPair(found.first.job_id, found.second.job_id, found.pairing, found.group_key)
    return {
        "first": _job(found.first),
        "second": _job(found.second),
        "by": str(found.pairing),
        "cluster": found.group_key,
        **_counts(found.counts),
        "evaluators": [
            {
                **_evaluator(one),
                "losses": _changes(connection, jobs, one, losses=True, limit=changes),
                "gains": _changes(connection, jobs, one, losses=False, limit=changes),
            }
            for one in found.evaluators
        ],
        "not_compared": list(found.not_compared),
        "notes": comparison_notes(connection, found),
    }


def _job(job: JobProgress) -> dict[str, Any]:
    return {name: getattr(job, name) for name in _JOB_FIELDS}


def _counts(counts: PairCounts) -> dict[str, int]:
    return {name: count for name, count in counts._asdict().items() if name != "repeated"}


def _evaluator(one: Comparison) -> dict[str, Any]:
    scores = one.scores
    return {
        "evaluator_name": scores.evaluator_name,
        "pairs": scores.pairs,
        "groups": scores.groups,
        "first_mean": scores.first_mean,
        "second_mean": scores.second_mean,
        "difference": scores.mean_difference,
        **interval_document(one.interval),
        "better": scores.better,
        "same": scores.same,
        "worse": scores.worse,
        "p": one.p,
        "smallest_visible": one.smallest_visible,
        "verdict": str(one.verdict),
        "sentence": one.sentence,
    }


def interval_document(interval: Interval | NoInterval) -> dict[str, Any]:
    """Return the ends of an interval, or None and why there is none."""
    if isinstance(interval, NoInterval):
        return {"low": None, "high": None, "without_interval": interval.reason}
    return {"low": interval.low, "high": interval.high, "without_interval": None}


def _changes(
    connection: sa.Connection, jobs: JobPair, one: Comparison, *, losses: bool, limit: int
) -> Sequence[dict[str, Any]]:
    if not (one.scores.worse if losses else one.scores.better):
        return []
    found = largest_changes(connection, jobs, one.scores.evaluator_name, losses=losses, limit=limit)
    requests = requests_of(connection, jobs.second, [change.second_index for change in found])
    return [{**change._asdict(), "request": requests.get(change.second_index)} for change in found]
