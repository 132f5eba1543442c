"""Comparisons agree with scipy, raise no false alarm, and find an effect that is there."""

from __future__ import annotations

import math
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest
import scipy  # its parts are imported at their first use: each takes a second

from tests.support.paired_scores import paired_scores
from worker.domain.clusters import ONE_GROUP, clustered_interval, standard_error
from worker.domain.comparison import (
    ONE_PAIR,
    SAME_DIFFERENCE,
    Comparison,
    compare,
    difference_interval,
    holm,
    sign_test,
)
from worker.domain.intervals import Interval, t_interval
from worker.domain.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.domain.comparison import PairedScores

RUNS = 2000


def only(pairs: PairedScores) -> Comparison:
    (found,) = compare([pairs])
    return found


def noisy(rng: Random, size: int, *, effect: float = 0.0) -> tuple[list[float], list[float]]:
    """Difficult and easy inputs, each answered twice; `effect` is added to the second answers."""
    difficulty = [rng.random() for _ in range(size)]
    first = [level + rng.gauss(0, 0.1) for level in difficulty]
    return first, [level + effect + rng.gauss(0, 0.1) for level in difficulty]


def passed(rng: Random, size: int, *, effect: float = 0.0) -> tuple[list[float], list[float]]:
    """The same with scores of 0 and 1."""
    difficulty = [rng.random() * 0.6 for _ in range(size)]
    first = [float(rng.random() < level) for level in difficulty]
    return first, [float(rng.random() < level + effect) for level in difficulty]


def test_the_interval_of_the_difference_is_that_of_scipy() -> None:
    first, second = noisy(Random(1), 80, effect=0.05)
    found = difference_interval(paired_scores(first, second))
    expected = scipy.stats.ttest_rel(second, first).confidence_interval(0.95)
    assert isinstance(found, Interval)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.parametrize(
    ("better", "worse"), [(0, 0), (1, 0), (5, 0), (6, 0), (30, 50), (400, 401), (9000, 8700)]
)
def test_the_sign_test_is_that_of_scipy(better: int, worse: int) -> None:
    trials = better + worse
    expected = scipy.stats.binomtest(better, trials).pvalue if trials else 1.0
    assert sign_test(better, worse) == pytest.approx(expected, rel=1e-8)
    assert sign_test(worse, better) == sign_test(better, worse)


def test_p_values_are_adjusted_as_holm_did() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9, 0.6]) == [1.0, 1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_the_smallest_visible_difference_is_2_8_standard_errors() -> None:
    first, second = noisy(Random(3), 100)
    scores = paired_scores(first, second)
    differences = [b - a for a, b in zip(first, second, strict=True)]
    error = scipy.stats.sem(differences)
    assert standard_error(scores.differences) == pytest.approx(error)
    assert only(scores).smallest_visible == pytest.approx(2.8 * error, rel=0.001)


def test_inputs_that_belong_together_have_a_clustered_standard_error() -> None:
    """By its definition: residuals are summed within groups before they are squared."""
    rng = Random(4)
    groups = [rng.randrange(12) for _ in range(90)]
    shift = [rng.gauss(0, 0.2) for _ in range(12)]
    first, second = noisy(rng, 90)
    second = [b + shift[group] for b, group in zip(second, groups, strict=True)]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean = math.fsum(differences) / 90
    sums = [
        math.fsum(d - mean for d, group in zip(differences, groups, strict=True) if group == key)
        for key in set(groups)
    ]
    expected = math.sqrt(12 / 11 * math.fsum(s * s for s in sums)) / 90
    clustered = paired_scores(first, second, groups)
    assert standard_error(clustered.differences) == pytest.approx(expected)
    assert standard_error(clustered.differences) > 1.5 * standard_error(
        paired_scores(first, second).differences
    )
    found = difference_interval(clustered)
    assert isinstance(found, Interval)
    half = scipy.stats.t.ppf(0.975, 11) * expected
    assert (found.high - found.low) / 2 == pytest.approx(half)


def test_where_each_score_is_a_group_the_clustered_interval_is_the_plain_one() -> None:
    rng = Random(6)
    scores = [round(rng.betavariate(6, 3), 2) for _ in range(300)]
    clustered = clustered_interval(paired_scores([0.0] * 300, scores).differences)
    plain = t_interval(sorted(Counter(scores).items()))
    assert isinstance(clustered, Interval)
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high))


# --- verdicts ---

LOW, HIGH = [0.2, 0.4, 0.3] * 20, [0.6, 0.7, 0.8] * 20


@pytest.mark.parametrize(
    ("first", "second", "verdict", "words"),
    [
        (LOW, HIGH, Verdict.BETTER, "B is better: +0.400 on average, 60 of 60 pairs higher."),
        (HIGH, LOW, Verdict.WORSE, "B is worse: -0.400 on average, 60 of 60 pairs lower."),
        (LOW, LOW, Verdict.SAME, "The scores of all pairs are the same."),
        ([0.5] * 9, [0.6] * 9, Verdict.BETTER, "B is better: +0.100 on average, 9 of 9"),
        ([0.5, 0.6, 0.7], [0.6, 0.8, 0.9], Verdict.TOO_FEW, "Too few pairs differ to tell."),
        ([0.5] * 30, [0.4, 0.6] * 15, Verdict.NO_DIFFERENCE, "No difference beyond chance."),
        ([0.5] * 30, [0.49] * 8 + [0.9] * 8 + [0.5] * 14, Verdict.MIXED, "a few large changes"),
        ([0.5] * 30, [0.51] * 27 + [0.1] * 3, Verdict.MIXED, "may differ by chance"),
        ([0.5] * 60, [0.51] * 45 + [0.1] * 15, Verdict.MIXED, "the mean says the opposite"),
    ],
)
def test_a_verdict_needs_both_the_mean_and_the_number_of_pairs(
    first: list[float], second: list[float], verdict: Verdict, words: str
) -> None:
    found = only(paired_scores(first, second))
    assert found.verdict is verdict
    assert words in found.sentence


@pytest.mark.parametrize(
    ("first", "second", "groups", "reason"),
    [
        ([0.5], [0.7], None, ONE_PAIR),
        ([0.5, 0.1], [0.7, 0.2], ["a", "a"], ONE_GROUP),
        ([0.5, 0.1], [0.7, 0.3], None, SAME_DIFFERENCE),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], None, SAME_DIFFERENCE),
    ],
)
def test_where_the_difference_has_no_interval_the_reason_is_given(
    first: list[float], second: list[float], groups: list[str] | None, reason: object
) -> None:
    found = only(paired_scores(first, second, groups))
    assert found.interval is reason
    assert found.smallest_visible is None


def test_each_evaluator_more_makes_a_chance_result_less_convincing() -> None:
    lucky = paired_scores([0.5] * 10, [0.6] * 9 + [0.4])
    dull = paired_scores([0.5] * 10, [0.4, 0.6] * 5)
    assert only(lucky).verdict is Verdict.BETTER
    assert compare([lucky, dull, dull])[0].verdict is not Verdict.BETTER


# --- how often a verdict is right ---


def share_of_alarms(
    draw: Callable[..., tuple[list[float], list[float]]],
    size: int,
    *,
    effect: float = 0.0,
    evaluators: int = 1,
    runs: int = RUNS,
) -> float:
    """The share of simulated comparisons in which any evaluator is said to differ."""
    rng = Random(size)
    alarms = 0
    for _ in range(runs):
        found = compare([paired_scores(*draw(rng, size, effect=effect)) for _ in range(evaluators)])
        alarms += any(one.verdict in (Verdict.BETTER, Verdict.WORSE) for one in found)
    return alarms / runs


def test_where_nothing_differs_5_of_100_comparisons_at_most_say_so() -> None:
    assert share_of_alarms(passed, 30) <= 0.05


@pytest.mark.long
@pytest.mark.parametrize("evaluators", [1, 5])
@pytest.mark.parametrize("size", [10, 100, 400])
@pytest.mark.parametrize("draw", [noisy, passed])
def test_false_alarms_are_rare_at_any_size(
    draw: Callable[..., tuple[list[float], list[float]]], size: int, evaluators: int
) -> None:
    assert share_of_alarms(draw, size, evaluators=evaluators) <= 0.05


def test_an_effect_that_is_there_is_found() -> None:
    assert share_of_alarms(noisy, 100, effect=0.07, runs=300) >= 0.9
    assert share_of_alarms(passed, 200, effect=0.2, runs=200) >= 0.9


@pytest.mark.long
@pytest.mark.parametrize("size", [50, 200])
def test_the_interval_contains_the_true_difference_in_95_of_100_comparisons(size: int) -> None:
    rng = Random(size)
    hits = 0
    for _ in range(RUNS):
        found = difference_interval(paired_scores(*noisy(rng, size, effect=0.03)))
        assert isinstance(found, Interval)
        hits += found.low <= 0.03 <= found.high
    assert 0.93 <= hits / RUNS <= 0.97


@pytest.mark.long
def test_with_groups_the_interval_contains_the_true_difference_as_often() -> None:
    """Of inputs that belong together; taken for independent ones, it would in 60 of 100."""
    rng = Random(5)
    groups = [number // 10 for number in range(300)]
    hits = {"clustered": 0, "naive": 0}
    for _ in range(RUNS):
        shift = [rng.gauss(0, 0.15) for _ in range(30)]
        first, second = noisy(rng, 300, effect=0.03)
        second = [b + shift[group] for b, group in zip(second, groups, strict=True)]
        hits["clustered"] += contains(first, second, groups, 0.03)
        hits["naive"] += contains(first, second, None, 0.03)
    assert 0.93 <= hits["clustered"] / RUNS <= 0.97
    assert hits["naive"] / RUNS < 0.8


def contains(
    first: Sequence[float], second: Sequence[float], groups: Sequence[int] | None, effect: float
) -> bool:
    found = difference_interval(paired_scores(first, second, groups))
    return isinstance(found, Interval) and found.low <= effect <= found.high
