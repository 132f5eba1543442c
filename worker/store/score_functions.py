"""Define sums over scores that no score takes out of the range of numbers.

A judge may give any number. PostgreSQL raises an error where a sum or a product of some is too
large, or a product is too small, and SQLite makes it infinite.
"""

from __future__ import annotations

import sqlalchemy as sa

from worker.domain.score_summary import LARGEST_SCORE

_LARGEST: sa.ColumnElement[float] = sa.literal_column(repr(LARGEST_SCORE))
_SMALLEST: sa.ColumnElement[float] = sa.literal_column(repr(1 / LARGEST_SCORE))


def is_addable(score: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Build the condition that sums of such scores, and of their squares, are numbers."""
    return sa.func.abs(score) <= _LARGEST


def sum_if_addable(
    score: sa.ColumnElement[float], value: sa.ColumnElement[float]
) -> sa.ColumnElement[float]:
    """Build the sum of a value of each score; NULL if one of the scores is too large."""
    return _if_addable(score, sa.func.sum(value).filter(is_addable(score)))


def mean_if_addable(score: sa.ColumnElement[float]) -> sa.ColumnElement[float]:
    """Build the mean of scores; NULL if one of them is too large."""
    return _if_addable(score, sa.func.avg(score).filter(is_addable(score)))


def _if_addable(
    score: sa.ColumnElement[float], aggregate: sa.ColumnElement[float]
) -> sa.ColumnElement[float]:
    return sa.case((sa.func.max(sa.func.abs(score)) <= _LARGEST, aggregate))


def square(value: sa.ColumnElement[float]) -> sa.ColumnElement[float]:
    """Build the square of an addable value; that of a tiny one is 0."""
    return sa.case((sa.func.abs(value) >= _SMALLEST, value * value), else_=0.0)
