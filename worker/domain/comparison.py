"""Compare two jobs by pairs: the same input, evaluated once in each of them.

Inputs differ in difficulty much more than two answers to the same input do. Differences within
pairs take that out: Miller, "Adding error bars to evals" (2024, arXiv 2411.00640).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from worker.domain.distributions import fair_coin_tail, t_critical
from worker.domain.intervals import CONFIDENCE, Interval, Method, NoInterval
from worker.domain.verdict import Evidence, Verdict, decide, sentence

SIGNIFICANT = 1 - CONFIDENCE
POWER = 0.8  # the chance to find a difference of the smallest size that counts as visible
VISIBLE_ERRORS = NormalDist().inv_cdf(1 - SIGNIFICANT / 2) + NormalDist().inv_cdf(POWER)  # 2.8
EQUAL = 1e-9  # scores that differ by less are the same: the difference is a rounding error

ONE_PAIR = NoInterval("there is only one pair")
ONE_GROUP = NoInterval("there is only one group of inputs that belong together")
SAME_DIFFERENCE = NoInterval("the difference is the same everywhere")


@dataclass(frozen=True, slots=True)
class PairedScores:
    """Sums over the pairs of one evaluator, of which there is at least one.

    A difference is the second score minus the first. Pairs form groups of inputs that belong
    together; by default each pair is a group of its own. A group has n pairs, and the sum s of
    their differences.
    """

    evaluator_name: str
    pairs: int
    first_total: float  # the sum of the first scores
    second_total: float
    better: int  # pairs whose second score is higher
    worse: int
    least: float  # the least difference
    most: float
    groups: int
    group_squares: float  # the sum of s·s
    group_products: float  # the sum of s·n
    group_sizes: float  # the sum of n·n
    groups_better: int  # groups with s > 0
    groups_worse: int

    @property
    def same(self) -> int:
        return self.pairs - self.better - self.worse

    @property
    def first_mean(self) -> float:
        return self.first_total / self.pairs

    @property
    def second_mean(self) -> float:
        return self.second_total / self.pairs

    @property
    def mean_difference(self) -> float:
        return self.second_mean - self.first_mean


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the pairs of one evaluator say about the second job, seen from the first.

    `p` is that of the sign test, adjusted for the number of evaluators. `smallest_visible` is the
    mean difference that such pairs show in four of five comparisons.
    """

    scores: PairedScores
    p: float
    interval: Interval | NoInterval
    sentence: str
    smallest_visible: float | None
    verdict: Verdict


def compare(found: Sequence[PairedScores]) -> list[Comparison]:
    """Return a comparison for each evaluator; the error rate of 5 % holds for all of them."""
    adjusted = holm([sign_test(one.groups_better, one.groups_worse) for one in found])
    return [_compare_one(one, p) for one, p in zip(found, adjusted, strict=True)]


def _compare_one(scores: PairedScores, p: float) -> Comparison:
    interval = difference_interval(scores)
    visible = None
    if isinstance(interval, Interval):
        visible = VISIBLE_ERRORS * standard_error(scores)
    found = Evidence(
        scores.pairs,
        scores.better,
        scores.worse,
        scores.groups_better - scores.groups_worse,
        scores.mean_difference,
        interval,
        is_significant=p < SIGNIFICANT,
        can_be_significant=sign_test(0, scores.groups_better + scores.groups_worse) < SIGNIFICANT,
        smallest_visible=visible,
    )
    verdict = decide(found)
    return Comparison(
        scores,
        p=p,
        interval=interval,
        sentence=sentence(verdict, found),
        smallest_visible=visible,
        verdict=verdict,
    )


def difference_interval(scores: PairedScores) -> Interval | NoInterval:
    """Return the mean difference ± t·s/√n, with the t of one degree of freedom less than groups."""
    if scores.groups <= 1:
        return ONE_PAIR if scores.pairs == 1 else ONE_GROUP
    error = standard_error(scores)
    if scores.most - scores.least < EQUAL or error < EQUAL:
        return SAME_DIFFERENCE
    half = t_critical(CONFIDENCE, scores.groups - 1) * error
    return Interval(scores.mean_difference - half, scores.mean_difference + half, Method.T)


def standard_error(scores: PairedScores) -> float:
    """Return the standard error of the mean difference, clustered by groups.

    The sum over groups of (s - n·d)², with the mean difference d, takes the place of the sum of
    squares (Liang and Zeger 1986; Miller 2024), with G/(G - 1) against the bias of few
    groups G. Where each pair is a group, it is s/√n.
    """
    difference = scores.mean_difference
    squares = (
        scores.group_squares
        - 2 * difference * scores.group_products
        + difference * difference * scores.group_sizes
    )
    correction = scores.groups / (scores.groups - 1)
    return math.sqrt(max(0.0, squares) * correction) / scores.pairs


def sign_test(better: int, worse: int) -> float:
    """Return the two-sided p of the exact sign test; equal pairs count for neither side.

    Dixon and Mood, "The statistical sign test" (1946). Whether a pair gets better or worse is the
    throw of a coin where nothing differs. It assumes nothing about the scores. For scores that are
    0 or 1, it is the exact test of McNemar.
    """
    return min(1.0, 2 * fair_coin_tail(min(better, worse), better + worse))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, in the same order.

    Holm, "A simple sequentially rejective multiple test procedure" (1979): the smallest of m is
    multiplied by m, the next by m - 1, and none is smaller than the one before it. The chance of
    any false alarm stays below 5 %, whatever the evaluators have to do with one another.
    """
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted
