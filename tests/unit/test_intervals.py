"""Intervals agree with scipy, and contain the true mean as often as they promise."""

from __future__ import annotations

import math
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import pytest
import scipy  # its parts are imported at their first use: each takes a second

from worker.domain.distributions import fair_coin_tail, regularized_beta, t_critical
from worker.domain.intervals import (
    HARDLY_ANY_SPREAD,
    NO_SCORES,
    NO_SPREAD,
    ONE_SCORE,
    TOO_FEW,
    Interval,
    Method,
    bootstrap_interval,
    mean_interval,
    t_interval,
    wilson_interval,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from worker.domain.intervals import NoInterval, ScoreCounts

RUNS = 2000

Draw: TypeAlias = "Callable[[Random, int], list[float]]"


def counted(scores: Iterable[float]) -> ScoreCounts:
    return sorted(Counter(scores).items())


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 30, 199, 10_000, 1_000_000])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_the_quantiles_of_t_are_those_of_scipy(confidence: float, degrees: int) -> None:
    expected = scipy.stats.t.ppf((1 + confidence) / 2, degrees)
    assert t_critical(confidence, degrees) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("trials", [1, 6, 100, 50_000])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.49, 0.5, 0.7, 1.0])
def test_the_tails_of_the_binomial_are_those_of_scipy(share: float, trials: int) -> None:
    successes = int(share * trials)
    expected = scipy.stats.binom.cdf(successes, trials, 0.5)
    assert fair_coin_tail(successes, trials) == pytest.approx(expected, rel=1e-8, abs=1e-300)


@pytest.mark.parametrize("x", [0.0, 1e-9, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.5, 400.0), (3.0, 2.0), (90.0, 7.5)])
def test_the_incomplete_beta_function_is_that_of_scipy(x: float, a: float, b: float) -> None:
    assert regularized_beta(x, a, b) == pytest.approx(scipy.special.betainc(a, b, x), rel=1e-9)


def test_the_t_interval_is_that_of_scipy() -> None:
    rng = Random(1)
    scores = [round(rng.betavariate(6, 3), 2) for _ in range(300)]
    found = mean_interval(counted(scores))
    low, high = scipy.stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert isinstance(found, Interval)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert found.method is Method.T


@pytest.mark.parametrize(("successes", "trials"), [(0, 12), (1, 10), (57, 100), (400, 400)])
def test_the_interval_of_a_proportion_is_that_of_scipy(successes: int, trials: int) -> None:
    expected = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    found = wilson_interval(successes, trials)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_scores_of_0_and_1_have_wilsons_interval_however_many_there_are() -> None:
    for zeros, ones in ((1, 4), (300, 700)):
        found = mean_interval([(0.0, zeros), (1.0, ones)])
        assert found == wilson_interval(ones, zeros + ones)


def test_the_bootstrap_is_about_that_of_scipy_and_always_the_same() -> None:
    rng = Random(2)
    scores = [round(rng.betavariate(8, 2), 3) for _ in range(150)]
    found = mean_interval(counted(scores))
    assert isinstance(found, Interval)
    assert found.method is Method.BOOTSTRAP
    assert found == mean_interval(counted(reversed(scores)))
    expected = scipy.stats.bootstrap(
        (scores,), lambda x, axis: x.mean(axis=axis), method="BCa", rng=1, n_resamples=2000
    ).confidence_interval
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.15 * width)
    assert found.high == pytest.approx(expected.high, abs=0.15 * width)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([], NO_SCORES),
        ([0.7], ONE_SCORE),
        ([0.7] * 500, NO_SPREAD),
        ([1.0] * 50, NO_SPREAD),
        ([0.1, 0.2, 0.3], TOO_FEW),
        ([3.0] * 19 + [2.0], HARDLY_ANY_SPREAD),
    ],
)
def test_where_no_interval_would_mean_anything_the_reason_is_given(
    scores: list[float], reason: NoInterval
) -> None:
    assert mean_interval(counted(scores)) is reason


def test_an_interval_does_not_leave_the_scale_of_scores_from_0_to_1() -> None:
    found = t_interval(counted([1.0] * 11 + [0.2]))
    assert found.high == 1.0
    assert t_interval(counted([5.0] * 11 + [1.0])).high > 5.0


def test_where_hardly_any_score_differs_the_interval_is_as_wide_as_the_scale_allows() -> None:
    found = bootstrap_interval(counted([1.0] * 19 + [0.5]))
    assert found == wilson_interval(19.5, 20)


# --- how often an interval contains the true mean ---


def uniform(rng: Random, size: int) -> list[float]:
    return [rng.random() for _ in range(size)]


def skewed(rng: Random, size: int) -> list[float]:
    """Most answers are good, as many judges see it."""
    return [round(rng.betavariate(8, 2), 2) for _ in range(size)]


def graded(rng: Random, size: int) -> list[float]:
    return rng.choices([0, 0.25, 0.5, 0.75, 1], [2, 5, 13, 30, 50], k=size)


def with_failures(rng: Random, size: int) -> list[float]:
    return [0.0 if rng.random() < 0.2 else rng.betavariate(8, 2) for _ in range(size)]


def passed(rng: Random, size: int) -> list[float]:
    return [float(rng.random() < 0.7) for _ in range(size)]


MEANS: dict[Draw, float] = {
    uniform: 0.5,
    skewed: 0.8,
    graded: 0.8025,
    with_failures: 0.64,
    passed: 0.7,
}
SIZES: dict[Draw, tuple[int, ...]] = {
    uniform: (200,),
    skewed: (200, 300),
    graded: (200,),
    passed: (50, 100, 200, 1000),
}
SMALL: dict[Draw, tuple[int, ...]] = {
    uniform: (20, 50),
    skewed: (20, 50, 199),
    graded: (50, 100),
    with_failures: (50, 100),
}


def coverage(draw: Draw, size: int, runs: int) -> float:
    """The share of simulated jobs whose interval contains the true mean."""
    rng = Random(size)
    hits = 0
    for _ in range(runs):
        found = mean_interval(counted(draw(rng, size)))
        assert isinstance(found, Interval)
        hits += found.low <= MEANS[draw] <= found.high
    return hits / runs


def cases(sizes: dict[Draw, tuple[int, ...]]) -> list[object]:
    return [
        pytest.param(draw, size, id=f"{draw.__name__}-{size}")
        for draw, chosen in sizes.items()
        for size in chosen
    ]


@pytest.mark.long
@pytest.mark.parametrize(("draw", "size"), cases({**SIZES, with_failures: (200, 1000)}))
def test_95_of_100_intervals_contain_the_true_mean(draw: Draw, size: int) -> None:
    assert 0.93 <= coverage(draw, size, RUNS) <= 0.97


@pytest.mark.long
@pytest.mark.parametrize(("draw", "size"), cases(SMALL))
def test_95_of_100_intervals_by_the_bootstrap_contain_the_true_mean(draw: Draw, size: int) -> None:
    assert 0.93 <= coverage(draw, size, RUNS) <= 0.97


@pytest.mark.long
@pytest.mark.parametrize("draw", [uniform, skewed, with_failures])
def test_of_20_scores_the_interval_is_too_wide_rather_than_too_narrow(draw: Draw) -> None:
    assert coverage(draw, 20, RUNS) >= 0.93


@pytest.mark.parametrize(("draw", "size"), [(passed, 100), (graded, 200)])
def test_intervals_that_cost_little_are_simulated_for_every_change(draw: Draw, size: int) -> None:
    assert 0.93 <= coverage(draw, size, RUNS) <= 0.97


def test_the_bootstrap_is_not_far_from_its_promise() -> None:
    runs = 150
    assert abs(coverage(skewed, 20, runs) - 0.95) <= 3 * math.sqrt(0.95 * 0.05 / runs)
