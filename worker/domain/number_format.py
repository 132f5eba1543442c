"""Format the numbers that people read, alike in the terminal, on pages and in reports."""

from __future__ import annotations

from worker.domain.intervals import Interval, NoInterval

NOTHING = "–"  # noqa: RUF001 (where there is no number)
ROUNDS_TO_ZERO = 0.0005


def score_text(value: float | None) -> str:
    """Return a score, or a mean of scores, to three places: 0.823."""
    if value is None:
        return NOTHING
    return _small(value, "") if 0 < abs(value) < ROUNDS_TO_ZERO else f"{value:.3f}"


def difference_text(value: float | None) -> str:
    """Return a difference with its sign, unless it is zero: +0.031."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0.000"
    return _small(value, "+") if abs(value) < ROUNDS_TO_ZERO else f"{value:+.3f}"


def interval_text(interval: Interval | NoInterval, *, signed: bool = False) -> str:
    """Return the ends of an interval, or why there is none: 0.801 to 0.845."""
    if isinstance(interval, NoInterval):
        return interval.reason
    text = difference_text if signed else score_text
    return f"{text(interval.low)} to {text(interval.high)}"


def p_text(value: float) -> str:
    """Return a p value to three places: 0.012, or <0.001."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _small(value: float, sign: str) -> str:
    return f"{value:{sign}.0e}"
