"""Estimate how far the mean of some scores may be from that of all such inputs.

The inputs of a job are seen as a sample: had others of the same kind been drawn, the mean would
have been another one. An interval of 95 % is made so that it contains the mean over all such inputs
in 95 of 100 jobs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, repeat
from operator import mul
from random import Random
from statistics import NormalDist

from worker.domain.distributions import t_critical

CONFIDENCE = 0.95
ENOUGH_FOR_T = 200  # inputs from which on the mean is as good as normally distributed
ENOUGH_FOR_BOOTSTRAP = 10  # with fewer, what was not drawn matters more than what was
RESAMPLES = 999  # so that the quantiles of 2.5 and 97.5 % are the 25th and the 975th
SEED = 1  # the same scores have the same interval, whenever and wherever it is computed
ROUNDING = 1e-12  # of a variance that would be 0
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)

ScoreCounts = Sequence[tuple[float, int]]
"""Scores in ascending order, each with the number of inputs that have it."""


class Method(StrEnum):
    T = "t"
    BOOTSTRAP = "bootstrap"
    WILSON = "wilson"
    CLUSTERED = "clustered"


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of 95 %, and how it was computed."""

    low: float
    high: float
    method: Method


@dataclass(frozen=True, slots=True)
class NoInterval:
    """Why there is no interval."""

    reason: str


NO_SCORES = NoInterval("there are no scores")
ONE_SCORE = NoInterval("there is only one score")
NO_SPREAD = NoInterval("all scores are the same")
TOO_FEW = NoInterval(f"there are fewer than {ENOUGH_FOR_BOOTSTRAP} scores")
HARDLY_ANY_SPREAD = NoInterval("nearly all scores are the same")


def mean_interval(counts: ScoreCounts) -> Interval | NoInterval:
    """Return the interval of the mean, by the method that suits the scores.

    Wilson's for scores that are 0 or 1; else the t interval from 200 scores on (Miller, "Adding
    error bars to evals", 2024, arXiv 2411.00640), and below that, where it is too narrow for skewed
    scores (Bowyer, Aitchison and Ivanova, "Don't use the CLT in LLM evals with fewer than a few
    hundred datapoints", 2025, arXiv 2503.01747), the bootstrap.
    """
    total = _size(counts)
    if total <= 1:
        return ONE_SCORE if total else NO_SCORES
    if len(counts) == 1:
        return NO_SPREAD
    if {score for score, _ in counts} == {0, 1}:
        return wilson_interval(counts[-1][1], total)
    if total >= ENOUGH_FOR_T:
        return t_interval(counts)
    if total >= ENOUGH_FOR_BOOTSTRAP:
        return bootstrap_interval(counts)
    return TOO_FEW


def mean_of(counts: ScoreCounts) -> float:
    return math.fsum(map(mul, *zip(*counts, strict=True))) / _size(counts)


def deviation_of(counts: ScoreCounts) -> float:
    """Return the standard deviation of a sample: with n - 1, for two scores or more."""
    mean = mean_of(counts)
    squares = math.fsum(count * (score - mean) ** 2 for score, count in counts)
    return math.sqrt(squares / (_size(counts) - 1))


def t_interval(counts: ScoreCounts) -> Interval:
    """Return mean ± t·s/√n, with t of n - 1 degrees of freedom (Student 1908)."""
    total = _size(counts)
    mean = mean_of(counts)
    half = t_critical(CONFIDENCE, total - 1) * deviation_of(counts) / math.sqrt(total)
    return _within_scale(mean - half, mean + half, Method.T, counts)


def wilson_interval(successes: float, trials: int) -> Interval:
    """Return the score interval of a proportion.

    Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927): the proportions p for which the observed one is
    within z·√(p(1-p)/n). It never leaves 0 to 1, and is not empty where all or none succeeded.
    """
    share, z2 = successes / trials, Z * Z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    half = Z * spread / (1 + z2 / trials)
    return Interval(max(0.0, centre - half), min(1.0, centre + half), Method.WILSON)


def bootstrap_interval(counts: ScoreCounts) -> Interval | NoInterval:
    """Return the studentized bootstrap interval, with a fixed seed.

    Efron, "The jackknife, the bootstrap and other resampling plans" (1982); Hall, "The
    bootstrap and Edgeworth expansion" (1992). The quantiles of t* = (m* - m) / (s*/√n) over
    resamples replace those of Student's t, so that the interval is as skewed as the scores are. The
    plain percentiles of m* are as narrow as the t interval, or narrower.

    Where so few scores differ from the others that many resamples have no spread, the quantiles are
    infinite. Scores from 0 to 1 then have Wilson's interval: as a variance on that scale is at most
    m(1-m) (Bhatia and Davis 2000), it is wide enough.
    """
    total, mean, deviation = _size(counts), mean_of(counts), deviation_of(counts)
    standard = [((score - mean) / deviation, count) for score, count in counts]
    values = list(chain.from_iterable(repeat(value, count) for value, count in standard))
    rng = Random(SEED)  # noqa: S311 (no secret)
    ratios = sorted(_studentized(rng.choices(values, k=total)) for _ in range(RESAMPLES))
    tail = round((RESAMPLES + 1) * (1 - CONFIDENCE) / 2)
    error = deviation / math.sqrt(total)
    low, high = mean - ratios[-tail] * error, mean - ratios[tail - 1] * error
    if math.isfinite(low) and math.isfinite(high):
        return _within_scale(low, high, Method.BOOTSTRAP, counts)
    return wilson_interval(mean * total, total) if _is_share(counts) else HARDLY_ANY_SPREAD


def _studentized(resample: list[float]) -> float:
    """Return m* / (s*/√n) of values whose mean is 0; infinite where they have no spread."""
    total = len(resample)
    mean = sum(resample) / total
    squares = sum(map(mul, resample, resample)) - total * mean * mean
    if squares <= ROUNDING * total:
        return math.copysign(math.inf, mean)
    return mean / math.sqrt(squares / (total - 1) / total)


def _size(counts: ScoreCounts) -> int:
    return sum(count for _, count in counts)


def _is_share(counts: ScoreCounts) -> bool:
    """Return whether the scores are on the scale from 0 to 1, as the judge API's are."""
    return counts[0][0] >= 0 and counts[-1][0] <= 1


def _within_scale(low: float, high: float, method: Method, counts: ScoreCounts) -> Interval:
    """Cut off what lies outside the scale from 0 to 1, where the mean cannot be."""
    if _is_share(counts):
        low, high = max(0.0, low), min(1.0, high)
    return Interval(low, high, method)
