"""Compare the scores of two jobs, input by input, by the views that any reader may read.

Pairs are found by grouping the rows of both jobs by their key, and by counting the rows of each job
in a group. A join of the two jobs would take SQLite minutes where the key is a text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.domain.clusters import EQUAL, GroupedSums
from worker.domain.comparison import Comparison, PairedScores, compare
from worker.domain.pair_key import PairedBy, Pairing
from worker.domain.phrases import quantity
from worker.errors import NotPossible
from worker.store.group_queries import grouped_sums
from worker.store.job_queries import JobProgress, progress_of
from worker.store.score_functions import is_addable
from worker.store.sql_functions import value_at
from worker.store.views import item_results, scores

SHOWN_KEYS = 3  # of those that occur more than once


class PairCounts(NamedTuple):
    """How the inputs of two jobs meet."""

    pairs: int
    only_first: int
    only_second: int
    without_key: int
    repeated: int  # keys that several inputs of a job have
    different_requests: int  # pairs whose two requests are not the same


class Change(NamedTuple):
    """A pair of scores; the difference is the second one minus the first."""

    first_index: int
    second_index: int
    first_score: float
    second_score: float
    difference: float


@dataclass(frozen=True, slots=True)
class JobComparison:
    """Two jobs, how their inputs pair, and what follows for each evaluator of both."""

    first: JobProgress
    second: JobProgress
    pairing: Pairing
    group_key: str | None
    counts: PairCounts
    evaluators: Sequence[Comparison]
    not_compared: Sequence[str]  # evaluators without a score for both inputs of any pair


class JobPair:
    """Two jobs and what pairs their inputs; `group_key` names what groups pairs, if anything does.

    Inputs with the same value under that key of their metadata belong together: several questions
    about one text, for example, are not as much evidence as questions about several.
    """

    def __init__(
        self, first: UUID, second: UUID, pairing: Pairing, group_key: str | None = None
    ) -> None:
        self.first = first
        self.second = second
        self.pairing = pairing
        self.input_key = _key(item_results, pairing)
        self.score_key = _key(scores, pairing)
        self.group_key = group_key

    def is_first(self, column: sa.ColumnElement[UUID]) -> sa.ColumnElement[bool]:
        return column == self.first

    def is_second(self, column: sa.ColumnElement[UUID]) -> sa.ColumnElement[bool]:
        return column == self.second


def _key(view: sa.Table, pairing: Pairing) -> sa.ColumnElement[Any]:
    """Build what pairs rows; the same element has to be selected and grouped by."""
    match pairing.by:
        case PairedBy.INDEX:
            return view.c.item_index
        case PairedBy.REQUEST if view is scores:
            return _REQUEST_OF_SCORE
        case PairedBy.REQUEST:
            return view.c.request
        case PairedBy.METADATA:
            return value_at(view.c.metadata, pairing.key)


# Looked up for each score: for a join, PostgreSQL may read the inputs of all jobs.
_REQUEST_OF_SCORE = (
    sa.select(item_results.c.request)
    .where(
        item_results.c.job_id == scores.c.job_id, item_results.c.item_index == scores.c.item_index
    )
    .scalar_subquery()
)


def compare_jobs(
    connection: sa.Connection,
    first: UUID,
    second: UUID,
    pairing: Pairing = Pairing(),  # noqa: B008 (a constant)
    group_key: str | None = None,
) -> JobComparison:
    """Compare two jobs; raises `UnknownJob`, or `NotPossible` where their inputs do not pair."""
    if first == second:
        raise NotPossible(f"job {first} cannot be compared with itself")
    jobs = JobPair(first, second, pairing, group_key)
    progress = progress_of(connection, first), progress_of(connection, second)
    counts = _count_pairs(connection, jobs)
    if counts.repeated:
        raise NotPossible(_repeated_keys(connection, jobs, counts.repeated))
    if not counts.pairs:
        raise NotPossible(_no_pairs(jobs, counts))
    found = [_paired_scores(row) for row in connection.execute(_sums(jobs))]
    return JobComparison(
        *progress,
        pairing,
        group_key,
        counts,
        compare([one for one in found if one.pairs]),
        [one.evaluator_name for one in found if not one.pairs],
    )


def _keys(jobs: JobPair) -> sa.Subquery:
    """Select how many inputs of each job have a key, and whether their requests are the same."""
    is_same: sa.ColumnElement[bool] = sa.true()
    if jobs.pairing.by is not PairedBy.REQUEST:
        is_same = sa.func.min(item_results.c.request) == sa.func.max(item_results.c.request)
    return (
        sa.select(
            jobs.input_key.label("key"),
            sa.func.count().filter(jobs.is_first(item_results.c.job_id)).label("in_first"),
            sa.func.count().filter(jobs.is_second(item_results.c.job_id)).label("in_second"),
            is_same.label("is_same"),
        )
        .where(item_results.c.job_id.in_([jobs.first, jobs.second]))
        .group_by(jobs.input_key)
        .subquery("keys")
    )


def _count_pairs(connection: sa.Connection, jobs: JobPair) -> PairCounts:
    keys = _keys(jobs).c
    has_key = keys.key.isnot(None)
    in_both = sa.and_(has_key, keys.in_first > 0, keys.in_second > 0)

    def total(column: sa.ColumnElement[int], condition: sa.ColumnElement[bool]) -> Any:
        return sa.func.coalesce(sa.func.sum(column).filter(condition), 0)

    counted = sa.select(
        sa.func.count().filter(in_both),
        total(keys.in_first, sa.and_(has_key, keys.in_second == 0)),
        total(keys.in_second, sa.and_(has_key, keys.in_first == 0)),
        total(keys.in_first + keys.in_second, sa.not_(has_key)),
        sa.func.count().filter(has_key, sa.or_(keys.in_first > 1, keys.in_second > 1)),
        sa.func.count().filter(in_both, sa.not_(keys.is_same)),
    )
    return PairCounts(*(int(count) for count in connection.execute(counted).one()))


def _repeated_keys(connection: sa.Connection, jobs: JobPair, repeated: int) -> str:
    keys = _keys(jobs).c
    several = sa.or_(keys.in_first > 1, keys.in_second > 1)
    found = connection.execute(
        sa.select(keys.key, keys.in_first, keys.in_second)
        .where(keys.key.isnot(None), several)
        .limit(SHOWN_KEYS)
    ).all()
    shown = "; ".join(
        f"{str(key)[:60]!r} ({first} in the first job, {second} in the second)"
        for key, first, second in found
    )
    return (
        f"several inputs of a job have the same {jobs.pairing.words} "
        f"({quantity(repeated, 'value')}), so that there are no clear pairs: {shown}"
    )


def _no_pairs(jobs: JobPair, counts: PairCounts) -> str:
    message = (
        f"no input of job {jobs.second} has the same {jobs.pairing.words} as one of job "
        f"{jobs.first}"
    )
    if counts.without_key:
        message += f"; {counts.without_key:,} inputs have none"
    return f"{message}. Choose another key to pair by"


def _pairs(jobs: JobPair) -> sa.Subquery:
    return _select_pairs(jobs).subquery("pairs")


def _select_pairs(jobs: JobPair) -> sa.Select[Any]:
    """Select the pairs of each evaluator, and incomplete ones: their difference is NULL.

    What has no key is grouped as one, and is no pair. To leave it out earlier, the key would have
    to be looked up twice.
    """
    given = _scores_of_both(jobs).c
    of_first, of_second = (
        sa.and_(is_one(given.job_id), is_addable(given.score))
        for is_one in (jobs.is_first, jobs.is_second)
    )
    first = sa.func.avg(given.score).filter(of_first)
    second = sa.func.avg(given.score).filter(of_second)
    return sa.select(
        given.evaluator_name,
        given.key,
        sa.func.min(given.item_index).filter(of_first).label("first_index"),
        sa.func.min(given.item_index).filter(of_second).label("second_index"),
        first.label("first_score"),
        second.label("second_score"),
        sa.case((given.key.isnot(None), second - first)).label("difference"),
        sa.func.min(given.group_value).label("group_value"),
    ).group_by(given.evaluator_name, given.key)


def _scores_of_both(jobs: JobPair) -> sa.Subquery:
    """Select the scores of both jobs with their keys.

    One select for each job: with both ids in a list, PostgreSQL reads the inputs of every job.
    """
    group: sa.ColumnElement[Any] = sa.cast(sa.null(), sa.Text)
    if jobs.group_key is not None:
        group = value_at(scores.c.metadata, jobs.group_key)
    chosen = sa.select(
        scores.c.job_id,
        scores.c.item_index,
        scores.c.evaluator_name,
        scores.c.score,
        jobs.score_key.label("key"),
        group.label("group_value"),
    )
    of_each = (chosen.where(scores.c.job_id == job_id) for job_id in (jobs.first, jobs.second))
    return sa.union_all(*of_each).subquery("given")


def _groups(jobs: JobPair) -> sa.Subquery:
    """Select the sums of each group of pairs; pairs without a group are groups of their own."""
    pairs = _pairs(jobs).c
    groups = sa.select(
        pairs.evaluator_name,
        sa.func.count(pairs.difference).label("pairs"),
        sa.func.sum(pairs.first_score).filter(pairs.difference.isnot(None)).label("first_total"),
        sa.func.sum(pairs.second_score).filter(pairs.difference.isnot(None)).label("second_total"),
        sa.func.sum(pairs.difference).label("difference"),
        sa.func.count().filter(pairs.difference > EQUAL).label("better"),
        sa.func.count().filter(pairs.difference < -EQUAL).label("worse"),
        sa.func.min(pairs.difference).label("least"),
        sa.func.max(pairs.difference).label("most"),
    ).group_by(
        pairs.evaluator_name, pairs.group_value, sa.case((pairs.group_value.is_(None), pairs.key))
    )
    return groups.subquery("groups")


def _sums(jobs: JobPair) -> sa.Select[Any]:
    """Select the fields of `PairedScores` for each evaluator, then those of its differences."""
    groups = _groups(jobs).c

    def total(value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.func.coalesce(sa.func.sum(value), 0)

    return (
        sa.select(
            groups.evaluator_name,
            total(groups.first_total),
            total(groups.second_total),
            sa.cast(total(groups.better), sa.BigInteger),
            sa.cast(total(groups.worse), sa.BigInteger),
            sa.func.count().filter(groups.difference > EQUAL),
            sa.func.count().filter(groups.difference < -EQUAL),
            *grouped_sums(groups.pairs, groups.difference, groups.least, groups.most),
        )
        .group_by(groups.evaluator_name)
        .order_by(groups.evaluator_name)
    )


def _paired_scores(row: sa.Row[Any]) -> PairedScores:
    own = [field.name for field in fields(PairedScores) if field.name != "differences"]
    return PairedScores(
        **dict(zip(own, row, strict=False)), differences=GroupedSums(*row[len(own) :])
    )


def largest_changes(
    connection: sa.Connection, jobs: JobPair, evaluator_name: str, *, losses: bool, limit: int
) -> list[Change]:
    """Return the pairs that lost most, or gained most, by the score of one evaluator."""
    pairs = _pairs(jobs)
    chosen = _by_size(pairs, losses=losses, limit=limit)
    chosen = chosen.where(pairs.c.evaluator_name == evaluator_name)
    return [Change._make(row[1:]) for row in connection.execute(chosen)]


class LargestChanges(NamedTuple):
    """The pairs that lost most, and those that gained most, with their evaluators' names."""

    losses: list[tuple[str, Change]]
    gains: list[tuple[str, Change]]


def largest_changes_of_all(
    connection: sa.Connection, jobs: JobPair, *, limit: int, evaluator_name: str | None = None
) -> LargestChanges:
    """Return the largest changes over all evaluators, or of one, by one grouping of both jobs."""
    pairs = _select_pairs(jobs).cte("pairs")
    halves = []
    for losses in (True, False):
        half = _by_size(pairs, losses=losses, limit=limit)
        if evaluator_name is not None:
            half = half.where(pairs.c.evaluator_name == evaluator_name)
        halves.append(sa.select(half.subquery()))
    found = LargestChanges([], [])
    for name, *values in connection.execute(sa.union_all(*halves)):
        change = Change._make(values)
        (found.losses if change.difference < 0 else found.gains).append((name, change))
    for side in found:  # a union has no order of its own
        side.sort(key=lambda pair: (-abs(pair[1].difference), pair[1].second_index, pair[0]))
    return found


def _by_size(found: sa.FromClause, *, losses: bool, limit: int) -> sa.Select[Any]:
    pairs = found.c
    order = pairs.difference if losses else pairs.difference.desc()
    return (
        sa.select(pairs.evaluator_name, *(pairs[name] for name in Change._fields))
        .where(pairs.difference < -EQUAL if losses else pairs.difference > EQUAL)
        .order_by(order, pairs.second_index, pairs.evaluator_name)
        .limit(limit)
    )


def requests_of(
    connection: sa.Connection, job_id: UUID, indexes: Collection[int]
) -> dict[int, str | None]:
    """Return the requests of some inputs of a job, by their index."""
    chosen = sa.select(item_results.c.item_index, item_results.c.request).where(
        item_results.c.job_id == job_id, item_results.c.item_index.in_(indexes)
    )
    return {index: request for index, request in connection.execute(chosen)}  # noqa: C416 (a row is no pair to `dict`)
