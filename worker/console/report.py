"""Make a report of a job: one page with everything in it, which loads nothing and can be mailed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
from markupsafe import Markup

from worker import __version__
from worker.console.changed_pairs import ChangedPair, changed_pairs
from worker.console.comparison_charts import difference_line, largest_reach, outcome_bar
from worker.console.evaluator_rows import evaluator_views
from worker.console.renderer import STATIC, template_environment
from worker.domain.number_format import difference_text, p_text
from worker.domain.pair_key import Pairing
from worker.domain.phrases import timestamp
from worker.store import comparison_queries, input_queries, job_queries
from worker.store.comparison_notes import comparison_notes
from worker.store.comparison_queries import JobComparison, JobPair
from worker.store.input_queries import InputDetail, InputFilter, Order, ResultRow

WORST = 10
REASONS = 20
CHANGES = 10  # in each direction
MAX_CHARACTERS = 2_000  # of a text; a report is read by people


class WorstInput(NamedTuple):
    """An input with what each evaluator said about it."""

    input: InputDetail
    results: Sequence[ResultRow]


class Change(NamedTuple):
    """A pair whose score changed, and why its second input got that score."""

    pair: ChangedPair
    justification: str | None


@dataclass(frozen=True, slots=True)
class ComparisonPart:
    """How the job compares with another one."""

    found: JobComparison
    notes: Sequence[str]
    reach: float
    losses: Sequence[Change]
    gains: Sequence[Change]


def render_report(
    connection: sa.Connection,
    job_id: UUID,
    against: UUID | None = None,
    *,
    pairing: Pairing = Pairing(),  # noqa: B008 (a constant)
    cluster: str | None = None,
) -> str:
    """Return the report as HTML; raises `UnknownJob`, or `NotPossible` as a comparison does."""
    job = job_queries.progress_of(connection, job_id)
    comparison = None
    if against is not None:
        comparison = _comparison(connection, JobPair(against, job_id, pairing, cluster))
    style = Markup("\n").join(
        Markup((STATIC / name).read_text("utf-8"))  # noqa: S704 (our own files)
        for name in ("console.css", "report.css")
    )
    return (
        template_environment()
        .get_template("report.html")
        .render(
            job=job,
            comparison=comparison,
            evaluators=evaluator_views(connection, job_id, cluster=cluster),
            cluster=cluster,
            reasons=input_queries.reasons_of(connection, job_id, limit=REASONS),
            worst=_worst(connection, job_id),
            style=style,
            policy=_policy(style),
            made_at=timestamp(datetime.now(UTC)),
            version=__version__,
            max_characters=MAX_CHARACTERS,
            difference=difference_text,
            difference_line=difference_line,
            outcome_bar=outcome_bar,
            p=p_text,
            timestamp=timestamp,
        )
    )


def _policy(style: str) -> str:
    """Allow this style sheet and nothing else, should a text ever escape its escaping."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _worst(connection: sa.Connection, job_id: UUID) -> list[WorstInput]:
    wanted = InputFilter(job_id, order=Order.WORST)
    found = []
    for position in input_queries.list_positions(connection, wanted, limit=WORST):
        detail = input_queries.detail_of(connection, job_id, position.item_index)
        if detail is not None:
            results = input_queries.results_of(connection, job_id, position.item_index)
            found.append(WorstInput(detail, results))
    return found


def _comparison(connection: sa.Connection, jobs: JobPair) -> ComparisonPart:
    found = comparison_queries.compare_jobs(
        connection, jobs.first, jobs.second, jobs.pairing, jobs.group_key
    )
    pairs = changed_pairs(connection, jobs, limit=CHANGES)
    return ComparisonPart(
        found,
        comparison_notes(connection, found),
        largest_reach(list(found.evaluators)),
        losses=_changes(connection, jobs, pairs.losses),
        gains=_changes(connection, jobs, pairs.gains),
    )


def _changes(
    connection: sa.Connection, jobs: JobPair, pairs: Sequence[ChangedPair]
) -> list[Change]:
    return [Change(pair, _justification(connection, jobs.second, pair)) for pair in pairs]


def _justification(connection: sa.Connection, job_id: UUID, pair: ChangedPair) -> str | None:
    said = input_queries.results_of(connection, job_id, pair.change.second_index)
    own = (one.justification for one in said if one.evaluator_name == pair.evaluator_name)
    return next(own, None)
