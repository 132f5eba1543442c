"""Read the inputs of a job by page, filter and rank, within limits whatever the job's size."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.domain.intervals import ScoreCounts
from worker.domain.lifecycle import Status
from worker.store.job_queries import Item, ItemResult, Score
from worker.store.rows import read_rows, select_rows
from worker.store.score_functions import is_addable, mean_if_addable
from worker.store.sql_functions import has_pair, looked_up
from worker.store.tables import evaluator_results, items, jobs
from worker.store.views import item_results, scores

CLIPPED = 400  # characters of a text that lists show
EXPORT_CHUNK = 500  # inputs that are read at a time
SAMPLE = 1_000  # results in which a job's evaluators are looked for
SAME_REQUEST_JOBS = 50  # latest jobs of a judge in which a request is looked for


class Order(StrEnum):
    """How inputs are sorted: by index, or by their scores."""

    INDEX = "index"
    WORST = "worst"
    BEST = "best"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class InputFilter:
    """Which inputs of a job to list, and how to sort them; None: any.

    `metadata` is a name and its value as text. Scores lie from `at_least` up to `at_most`, and are
    less than `below`. They, and the order, are those of `evaluator`, of which each input has a
    result; without one, any evaluator's score may lie there, and the order is that of the mean over
    the evaluators.
    """

    job_id: UUID
    order: Order = Order.INDEX
    status: str | None = None
    error: str | None = None
    text: str | None = None
    metadata: tuple[str, str] | None = None
    evaluator: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None


class Position(NamedTuple):
    """Where an input is in a sorted list: its rank comes first, its index decides among equals."""

    rank: float
    item_index: int


class InputRow(NamedTuple):
    """An input as lists show it, with the beginnings of its texts."""

    item_index: int
    status: str
    request: str | None
    response: str | None
    attempts: int
    error: str | None
    finished_at: datetime | None


class ScoreRow(NamedTuple):
    """The score of an evaluator for an input, with the beginning of its reason."""

    item_index: int
    evaluator_name: str
    score: float | None
    justification: str | None


class InputDetail(NamedTuple):
    """An input with all that was given and recorded."""

    item_index: int
    status: str
    request: str | None
    response: str | None
    contexts: Any
    functions: Any
    expected_output: str | None
    extra: Any
    metadata: Any
    due_at: datetime
    attempts: int
    error: str | None
    batch_id: UUID | None
    execution_log_id: str | None
    finished_at: datetime | None


class ResultRow(NamedTuple):
    """What an evaluator said about an input."""

    evaluator_name: str
    score: float | None
    justification: str | None
    confidence: float | None
    evaluator_id: str | None
    evaluator_version_id: str | None
    extra: Any


class SameRequest(NamedTuple):
    """An input of another job that asks the same, with the mean of its scores."""

    job_id: UUID
    item_index: int
    status: str
    created_at: datetime
    tags: Any
    mean: float | None


class ReasonCount(NamedTuple):
    """How many inputs failed for a reason."""

    error: str | None
    failures: int


def list_positions(
    connection: sa.Connection,
    wanted: InputFilter,
    *,
    after: Position | None = None,
    before: Position | None = None,
    limit: int,
) -> list[Position]:
    """Return positions of inputs in order: the next ones after one, or the last ones before."""
    ranked = _ranked(wanted).subquery()
    rank, index = ranked.c.rank, ranked.c.item_index
    chosen = sa.select(rank, index).limit(limit)
    if before is not None:
        chosen = chosen.where(_is_beyond(wanted, rank, index, before, operator.lt))
        return read_rows(connection, Position, chosen.order_by(rank.desc(), index.desc()))[::-1]
    if after is not None:
        chosen = chosen.where(_is_beyond(wanted, rank, index, after, operator.gt))
    return read_rows(connection, Position, chosen.order_by(rank, index))


def position_of(connection: sa.Connection, wanted: InputFilter, item_index: int) -> Position | None:
    """Return the position of an input; None if it is not in the list."""
    one = _ranked(wanted).where(items.c.item_index == item_index)
    found = connection.execute(one).first()
    return None if found is None else Position(found.rank, found.item_index)


def count_inputs(connection: sa.Connection, wanted: InputFilter, *, limit: int) -> int:
    """Count the inputs of a list, but no further than one more than `limit`."""
    found = _ranked(wanted).limit(limit + 1).subquery()
    return connection.scalar(sa.select(sa.func.count()).select_from(found)) or 0


def rows_of(connection: sa.Connection, job_id: UUID, indexes: Sequence[int]) -> list[InputRow]:
    """Return these inputs in this order."""
    clipped = {
        name: sa.func.substr(items.c[name], 1, CLIPPED) for name in ("request", "response", "error")
    }
    chosen = select_rows(InputRow, items, **clipped).where(
        items.c.job_id == job_id, items.c.item_index.in_(indexes)
    )
    found = {row.item_index: row for row in read_rows(connection, InputRow, chosen)}
    return [found[index] for index in indexes if index in found]


def scores_of(connection: sa.Connection, job_id: UUID, indexes: Collection[int]) -> list[ScoreRow]:
    """Return the scores of these inputs."""
    reason = sa.func.substr(evaluator_results.c.justification, 1, CLIPPED)
    chosen = select_rows(ScoreRow, evaluator_results, justification=reason).where(
        evaluator_results.c.job_id == job_id, evaluator_results.c.item_index.in_(indexes)
    )
    return read_rows(
        connection,
        ScoreRow,
        chosen.order_by(evaluator_results.c.item_index, evaluator_results.c.position),
    )


def evaluators_of(connection: sa.Connection, job_id: UUID) -> list[str]:
    """Return the names of a job's evaluators, as far as its first results have them."""
    first = (
        sa.select(evaluator_results.c.evaluator_name)
        .where(evaluator_results.c.job_id == job_id)
        .order_by(evaluator_results.c.item_index, evaluator_results.c.position)
        .limit(SAMPLE)
        .subquery()
    )
    names = sa.select(first.c.evaluator_name).distinct().order_by(first.c.evaluator_name)
    return list(connection.scalars(names))


def detail_of(connection: sa.Connection, job_id: UUID, item_index: int) -> InputDetail | None:
    """Return one input; None if there is no such input."""
    chosen = select_rows(InputDetail, items).where(
        items.c.job_id == job_id, items.c.item_index == item_index
    )
    return next(iter(read_rows(connection, InputDetail, chosen)), None)


def results_of(connection: sa.Connection, job_id: UUID, item_index: int) -> list[ResultRow]:
    """Return what each evaluator said about an input."""
    chosen = select_rows(ResultRow, evaluator_results).where(
        evaluator_results.c.job_id == job_id, evaluator_results.c.item_index == item_index
    )
    return read_rows(connection, ResultRow, chosen.order_by(evaluator_results.c.position))


def same_requests(
    connection: sa.Connection, job_id: UUID, request: str, *, limit: int
) -> list[SameRequest]:
    """Return inputs with the same request in the latest other jobs of the same judge."""
    judge_id = sa.select(jobs.c.judge_id).where(jobs.c.id == job_id).scalar_subquery()
    latest = (
        sa.select(jobs.c.id, jobs.c.created_at, jobs.c.tags)
        .where(jobs.c.judge_id == judge_id, jobs.c.id != job_id)
        .order_by(jobs.c.id.desc())
        .limit(SAME_REQUEST_JOBS)
        .subquery()
    )
    mean = (
        sa.select(mean_if_addable(evaluator_results.c.score))
        .where(
            evaluator_results.c.job_id == items.c.job_id,
            evaluator_results.c.item_index == items.c.item_index,
        )
        .scalar_subquery()
    )
    chosen = (
        sa.select(
            items.c.job_id,
            items.c.item_index,
            items.c.status,
            latest.c.created_at,
            latest.c.tags,
            mean,
        )
        .join_from(latest, items, items.c.job_id == latest.c.id)
        .where(items.c.request == request)
        .order_by(items.c.job_id.desc(), items.c.item_index)
        .limit(limit)
    )
    return read_rows(connection, SameRequest, chosen)


def reasons_of(connection: sa.Connection, job_id: UUID, *, limit: int) -> list[ReasonCount]:
    """Return the reasons for which inputs of a job failed, most frequent first."""
    count = sa.func.count()
    chosen = (
        sa.select(items.c.error, count)
        .where(items.c.job_id == job_id, items.c.status == Status.FAILED)
        .group_by(items.c.error)
        .order_by(count.desc(), items.c.error)
        .limit(limit)
    )
    return read_rows(connection, ReasonCount, chosen)


def score_counts(connection: sa.Connection, job_id: UUID) -> dict[str, tuple[ScoreCounts, int]]:
    """Map each evaluator to its scores with their numbers, and to its results without a score."""
    columns = evaluator_results.c
    chosen = (
        sa.select(columns.evaluator_name, columns.score, sa.func.count().label("number"))
        .where(columns.job_id == job_id)
        .group_by(columns.evaluator_name, columns.score)
        .order_by(columns.evaluator_name, columns.score)
    )
    found: dict[str, tuple[ScoreCounts, int]] = {}
    for name, rows in groupby(connection.execute(chosen), key=lambda row: str(row.evaluator_name)):
        given = list(rows)
        counts = [(row.score, row.number) for row in given if row.score is not None]
        found[name] = counts, sum(row.number for row in given if row.score is None)
    return found


def export_results(
    connection: sa.Connection, wanted: InputFilter, *, start: int
) -> list[ItemResult]:
    """Return the next results of a filter from an index on, in the order of inputs."""
    positions = list_positions(
        connection,
        replace(wanted, order=Order.INDEX),
        after=Position(start - 1, start - 1),
        limit=EXPORT_CHUNK,
    )
    return _whole_results(
        connection, wanted.job_id, [position.item_index for position in positions]
    )


def _whole_results(
    connection: sa.Connection, job_id: UUID, indexes: Sequence[int]
) -> list[ItemResult]:
    chosen = select_rows(Item, item_results).where(
        item_results.c.job_id == job_id, item_results.c.item_index.in_(indexes)
    )
    given = select_rows(Score, scores).where(
        scores.c.job_id == job_id, scores.c.item_index.in_(indexes)
    )
    by_item: dict[int, list[Score]] = {}
    for score in read_rows(connection, Score, given):
        by_item.setdefault(score.item_index, []).append(score)
    found = read_rows(connection, Item, chosen.order_by(item_results.c.item_index))
    return [ItemResult(item, by_item.get(item.item_index, [])) for item in found]


def _ranked(wanted: InputFilter) -> sa.Select[Any]:
    """Select the inputs of a list with their ranks, of which the lowest comes first."""
    chosen = sa.select(items.c.item_index).where(*_conditions(wanted))
    if wanted.order is Order.INDEX:
        chosen = chosen.where(items.c.job_id == wanted.job_id)
        return chosen.add_columns(items.c.item_index.label("rank"))
    columns = evaluator_results.c
    score = columns.score
    rank = {
        Order.WORST: mean_if_addable(score),
        Order.BEST: -mean_if_addable(score),
        Order.SPREAD: sa.func.min(score) - sa.func.max(score),
    }[wanted.order]
    per_input = sa.select(columns.job_id, columns.item_index, rank.label("rank")).where(
        columns.job_id == wanted.job_id, is_addable(score)
    )
    if wanted.evaluator is not None and wanted.order is not Order.SPREAD:
        per_input = per_input.where(columns.evaluator_name == wanted.evaluator)
    ranks = per_input.group_by(columns.job_id, columns.item_index).subquery()
    is_same_input = sa.and_(
        items.c.job_id == looked_up(ranks.c.job_id), items.c.item_index == ranks.c.item_index
    )
    return chosen.add_columns(ranks.c.rank).join(ranks, is_same_input)


def _conditions(wanted: InputFilter) -> Iterator[sa.ColumnElement[bool]]:
    if wanted.status is not None:
        yield items.c.status == wanted.status
    if wanted.error is not None:
        yield items.c.error == wanted.error
    if wanted.text is not None:
        texts = (items.c.request, items.c.response, items.c.expected_output)
        yield sa.or_(*(text.icontains(wanted.text, autoescape=True) for text in texts))
    if wanted.metadata is not None:
        yield has_pair(items.c.metadata, *wanted.metadata)
    if of_result := list(_result_conditions(wanted)):
        yield sa.exists().where(
            evaluator_results.c.job_id == looked_up(items.c.job_id),
            evaluator_results.c.item_index == items.c.item_index,
            *of_result,
        )


def _result_conditions(wanted: InputFilter) -> Iterator[sa.ColumnElement[bool]]:
    score = evaluator_results.c.score
    limits = [
        score >= wanted.at_least if wanted.at_least is not None else None,
        score <= wanted.at_most if wanted.at_most is not None else None,
        score < wanted.below if wanted.below is not None else None,
    ]
    yield from (limit for limit in limits if limit is not None)
    if wanted.evaluator is not None:
        yield evaluator_results.c.evaluator_name == wanted.evaluator


def _is_beyond(
    wanted: InputFilter,
    rank: sa.ColumnElement[Any],
    index: sa.ColumnElement[int],
    position: Position,
    compare: Callable[[Any, Any], sa.ColumnElement[bool]],
) -> sa.ColumnElement[bool]:
    """Build the condition that a row comes after a position, or before it."""
    if wanted.order is Order.INDEX:  # which the primary key answers
        return compare(index, position.item_index)
    same_rank = sa.and_(rank == position.rank, compare(index, position.item_index))
    return sa.or_(compare(rank, position.rank), same_rank)
