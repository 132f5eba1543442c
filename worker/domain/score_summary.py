"""Summarize the scores that an evaluator gave to the inputs of a job."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from worker.domain.intervals import (
    Interval,
    NoInterval,
    ScoreCounts,
    deviation_of,
    mean_interval,
    mean_of,
)

BINS = 10
SHARE_EDGES = tuple(number / BINS for number in range(BINS + 1))
"""The bins' edges of scores from 0 to 1, as the roll-up `eval_job_scores` has them, too."""


LARGEST_SCORE = 1e150  # the squares of larger ones would overflow when added up

TOO_LARGE = NoInterval("a score is too large to be added up")


@dataclass(frozen=True, slots=True)
class Bin:
    """The number of scores from `low` up to `high`, without it; the last bin includes it."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """The figures of one evaluator; None where no input has a score, or one is too large."""

    evaluator_name: str
    scored: int
    unscored: int
    mean: float | None
    interval: Interval | NoInterval
    median: float | None
    deviation: float | None
    least: float | None
    most: float | None
    bins: tuple[Bin, ...]


def summarize(evaluator_name: str, counts: ScoreCounts, unscored: int) -> ScoreSummary:
    """Return the figures of an evaluator; `unscored` inputs were evaluated without a score."""
    scored = sum(count for _, count in counts)
    addable = all(abs(score) <= LARGEST_SCORE for score, _ in (*counts[:1], *counts[-1:]))
    return ScoreSummary(
        evaluator_name,
        scored,
        unscored,
        mean=mean_of(counts) if counts and addable else None,
        interval=mean_interval(counts) if addable else TOO_LARGE,
        median=median_of(counts) if counts else None,
        deviation=deviation_of(counts) if scored > 1 and addable else None,
        least=counts[0][0] if counts else None,
        most=counts[-1][0] if counts else None,
        bins=tuple(histogram(counts)) if addable else (),
    )


def median_of(counts: ScoreCounts) -> float:
    """Return the middle score, or the mean of the two in the middle."""
    ranks = list(accumulate(count for _, count in counts))
    middle = (ranks[-1] - 1) // 2, ranks[-1] // 2
    low, high = (counts[bisect_right(ranks, rank)][0] for rank in middle)
    return low / 2 + high / 2


def histogram(counts: ScoreCounts) -> Iterator[Bin]:
    """Yield ten bins of equal width: of the scale from 0 to 1, or from the least to the most."""
    if not counts:
        return
    least, most = counts[0][0], counts[-1][0]
    edges = SHARE_EDGES
    if least < 0 or most > 1:
        width = (most - least) / BINS or 1.0
        edges = (*(least + number * width for number in range(BINS)), max(most, least + width))
    found = [0] * BINS
    for score, count in counts:
        found[min(bisect_right(edges, score), BINS) - 1] += count
    for (low, high), count in zip(pairwise(edges), found, strict=True):
        yield Bin(low, high, count)
