"""Estimate a mean of values that come in groups, such as scores of questions about one text.

Values of a group tell less than as many independent ones. Taking them for independent makes an
interval too narrow: Miller, "Adding error bars to evals" (2024, arXiv 2411.00640).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from worker.domain.distributions import t_critical
from worker.domain.intervals import CONFIDENCE, NO_SCORES, Interval, Method, NoInterval

EQUAL = 1e-9  # values that differ by less are the same: the difference is a rounding error

ONE_GROUP = NoInterval("there is only one group of inputs that belong together")
NO_SPREAD = NoInterval("there is no spread")


@dataclass(frozen=True, slots=True)
class GroupedSums:
    """Sums over groups of values. A group has n values, and s is their sum."""

    size: int  # the number of values
    total: float
    least: float
    most: float
    groups: int
    squares: float  # the sum of s·s
    products: float  # the sum of s·n
    sizes: float  # the sum of n·n

    @property
    def mean(self) -> float:
        return self.total / self.size


def standard_error(sums: GroupedSums) -> float:
    """Return the standard error of the mean, clustered by groups, of which there are two or more.

    The sum over groups of (s - n·m)², with the mean m, takes the place of the sum of squares (Liang
    and Zeger 1986), with G/(G - 1) against the bias of few groups G. Where each value is a group of
    its own, it is s/√n.
    """
    mean = sums.mean
    squares = sums.squares - 2 * mean * sums.products + mean * mean * sums.sizes
    correction = sums.groups / (sums.groups - 1)
    return math.sqrt(max(0.0, squares) * correction) / sums.size


def clustered_interval(sums: GroupedSums) -> Interval | NoInterval:
    """Return the mean ± t times its clustered standard error; t has one degree less than groups."""
    if not sums.size:
        return NO_SCORES
    if sums.groups <= 1:
        return ONE_GROUP
    error = standard_error(sums)
    if sums.most - sums.least < EQUAL or error < EQUAL:
        return NO_SPREAD
    half = t_critical(CONFIDENCE, sums.groups - 1) * error
    return Interval(sums.mean - half, sums.mean + half, Method.CLUSTERED)
