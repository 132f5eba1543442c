"""Figures of one evaluator, and the words in which people read them."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain.intervals import NO_SCORES, Interval, Method, NoInterval
from worker.domain.number_format import difference_text, interval_text, p_text, score_text
from worker.domain.score_summary import summarize

if TYPE_CHECKING:
    from worker.domain.score_summary import ScoreSummary

SCORES = st.lists(st.floats(-3, 3, allow_nan=False).map(lambda x: round(x, 2)), min_size=2)


def summary_of(scores: list[float], unscored: int = 0) -> ScoreSummary:
    return summarize("clarity", sorted(Counter(scores).items()), unscored)


@settings(max_examples=50)
@given(SCORES)
def test_the_figures_are_those_of_the_standard_library(scores: list[float]) -> None:
    found = summary_of(scores)
    assert found.scored == len(scores)
    assert found.mean == pytest.approx(statistics.fmean(scores), abs=1e-12)
    assert found.median == pytest.approx(statistics.median(scores), abs=1e-12)
    assert found.deviation == pytest.approx(statistics.stdev(scores), abs=1e-9)
    assert (found.least, found.most) == (min(scores), max(scores))


@settings(max_examples=50)
@given(SCORES)
def test_each_score_is_in_one_bin_of_the_histogram(scores: list[float]) -> None:
    bins = summary_of(scores).bins
    assert len(bins) == 10
    assert sum(found.count for found in bins) == len(scores)
    for index, found in enumerate(bins):
        inside = [s for s in scores if found.low <= s < found.high]
        if index == 9:
            inside += [s for s in scores if s == found.high]
        assert found.count == len(inside)


def test_scores_from_0_to_1_have_the_same_bins_whatever_they_are() -> None:
    bins = summary_of([0.3, 0.35, 0.3999, 1.0]).bins
    assert [(found.low, found.high) for found in bins][3] == (0.3, 0.4)
    assert [found.count for found in bins] == [0, 0, 0, 3, 0, 0, 0, 0, 0, 1]


def test_an_evaluator_that_gave_no_score_has_no_figures() -> None:
    found = summary_of([], unscored=7)
    assert (found.scored, found.unscored, found.mean, found.median) == (0, 7, None, None)
    assert found.interval is NO_SCORES
    assert found.bins == ()


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (score_text(0.8234), "0.823"),
        (score_text(0.0), "0.000"),
        (score_text(0.00012), "1e-04"),
        (score_text(None), "\u2013"),
        (difference_text(0.0314), "+0.031"),
        (difference_text(-0.0314), "-0.031"),
        (difference_text(0.0), "0.000"),
        (difference_text(-0.0001), "-1e-04"),
        (p_text(0.0004), "<0.001"),
        (p_text(0.0123), "0.012"),
        (p_text(1.0), "1.000"),
        (interval_text(Interval(0.1, 0.25, Method.T)), "0.100 to 0.250"),
        (interval_text(Interval(-0.1, 0.25, Method.T), signed=True), "-0.100 to +0.250"),
        (interval_text(NoInterval("why")), "why"),
    ],
)
def test_numbers_are_shown_to_three_places(shown: str, text: str) -> None:
    assert shown == text
