"""Read the figures of each evaluator of a job, with the bars of its histogram."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.console.charts import Bar
from worker.domain.clusters import clustered_interval
from worker.domain.number_format import score_text
from worker.domain.score_summary import Bin, ScoreSummary, summarize
from worker.store import input_queries
from worker.store.group_queries import sums_by_evaluator

BarLink = Callable[[ScoreSummary, Bin], str]


class EvaluatorView(NamedTuple):
    """What an evaluator gave, with the bars of its histogram."""

    summary: ScoreSummary
    bars: Sequence[Bar]


def evaluator_views(
    connection: sa.Connection, job_id: UUID, *, cluster: str | None, link: BarLink | None = None
) -> list[EvaluatorView]:
    """Return the evaluators by name; `cluster` names what groups inputs, `link` where bars lead."""
    grouped = {} if cluster is None else sums_by_evaluator(connection, job_id, cluster)
    found = []
    for name, (counts, unscored) in input_queries.score_counts(connection, job_id).items():
        summary = summarize(name, counts, unscored)
        if name in grouped:
            summary = replace(summary, interval=clustered_interval(grouped[name]))
        found.append(EvaluatorView(summary, [_bar(one, summary, link) for one in summary.bins]))
    return found


def _bar(one: Bin, summary: ScoreSummary, link: BarLink | None) -> Bar:
    label = f"{score_text(one.low)} to {score_text(one.high)}"
    return Bar(one.count, label, None if link is None else link(summary, one))
