"""Compare two jobs by pairs: the same input, evaluated once in each of them.

Inputs differ in difficulty much more than two answers to the same input do. Differences within
pairs take that out: Miller, "Adding error bars to evals" (2024, arXiv 2411.00640).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from worker.domain.clusters import NO_SPREAD, GroupedSums, clustered_interval, standard_error
from worker.domain.distributions import fair_coin_tail
from worker.domain.intervals import CONFIDENCE, Interval, NoInterval
from worker.domain.verdict import Evidence, Verdict, decide, sentence

SIGNIFICANT = 1 - CONFIDENCE
POWER = 0.8  # the chance to find a difference of the smallest size that counts as visible
VISIBLE_ERRORS = NormalDist().inv_cdf(1 - SIGNIFICANT / 2) + NormalDist().inv_cdf(POWER)  # 2.8

ONE_PAIR = NoInterval("there is only one pair")
SAME_DIFFERENCE = NoInterval("the difference is the same everywhere")


@dataclass(frozen=True, slots=True)
class PairedScores:
    """Sums over the pairs of one evaluator, of which there is at least one.

    A difference is the second score minus the first. Pairs form groups of inputs that belong
    together; by default each pair is a group of its own.
    """

    evaluator_name: str
    first_total: float  # the sum of the first scores
    second_total: float
    better: int  # pairs whose second score is higher
    worse: int
    groups_better: int  # groups of which the sum of the differences is positive
    groups_worse: int
    differences: GroupedSums

    @property
    def pairs(self) -> int:
        return self.differences.size

    @property
    def groups(self) -> int:
        return self.differences.groups

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
        return self.differences.mean


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
        visible = VISIBLE_ERRORS * standard_error(scores.differences)
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
    """Return the mean difference ± t·s/√n, or clustered by groups; or why there is no interval."""
    if scores.pairs == 1:
        return ONE_PAIR
    interval = clustered_interval(scores.differences)
    return SAME_DIFFERENCE if interval is NO_SPREAD else interval


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
