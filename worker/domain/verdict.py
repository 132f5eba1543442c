"""Decide what a comparison allows to say, and say it in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worker.domain.intervals import Interval, NoInterval
from worker.domain.number_format import difference_text, score_text


class Verdict(StrEnum):
    BETTER = "better"
    WORSE = "worse"
    MIXED = "mixed"
    SAME = "same"
    NO_DIFFERENCE = "no difference"
    TOO_FEW = "too few"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict rests on.

    `is_significant` and `can_be_significant` are those of the sign test: with fewer than six pairs
    that differ, no result of it could be. Its `direction` is positive where more got better.
    """

    pairs: int
    better: int
    worse: int
    direction: int
    difference: float
    interval: Interval | NoInterval
    is_significant: bool
    can_be_significant: bool
    smallest_visible: float | None


def decide(found: Evidence) -> Verdict:
    """Return the verdict on the second job, seen from the first.

    "Better" and "worse" need both: more pairs than chance explains, and a mean that agrees. A few
    large changes move only the mean, and many tiny ones only the sign test.
    """
    if found.better == found.worse == 0:
        return Verdict.SAME
    if not found.can_be_significant:
        return Verdict.TOO_FEW
    if not found.is_significant:
        return Verdict.MIXED if _excludes_zero(found.interval) else Verdict.NO_DIFFERENCE
    if found.direction * found.difference <= 0 or _includes_zero(found.interval):
        return Verdict.MIXED
    return Verdict.BETTER if found.difference > 0 else Verdict.WORSE


def sentence(verdict: Verdict, found: Evidence) -> str:
    """Return the verdict in words, in which A is the first job and B the second."""
    mean = difference_text(found.difference)
    match verdict:
        case Verdict.BETTER:
            return f"B is better: {mean} on average, {found.better} of {found.pairs} pairs higher."
        case Verdict.WORSE:
            return f"B is worse: {mean} on average, {found.worse} of {found.pairs} pairs lower."
        case Verdict.SAME:
            return "The scores of all pairs are the same."
        case Verdict.TOO_FEW:
            return "Too few pairs differ to tell."
        case Verdict.NO_DIFFERENCE:
            return f"No difference beyond chance.{_would_be_seen(found.smallest_visible)}"
        case Verdict.MIXED:
            return f"Unclear: {_contradiction(found, mean)}."


def _contradiction(found: Evidence, mean: str) -> str:
    counts = f"{found.better} pairs higher, {found.worse} lower"
    if not found.is_significant:
        return f"a few large changes move the mean ({mean}), but {counts}"
    if _includes_zero(found.interval):
        return f"{counts}, but the mean ({mean}) may differ by chance"
    return f"{counts}, but the mean says the opposite ({mean})"


def _would_be_seen(size: float | None) -> str:
    if size is None:
        return ""
    return f" A difference of {score_text(size)} would probably have been seen."


def _excludes_zero(interval: Interval | NoInterval) -> bool:
    return isinstance(interval, Interval) and (interval.low > 0 or interval.high < 0)


def _includes_zero(interval: Interval | NoInterval) -> bool:
    return isinstance(interval, Interval) and not _excludes_zero(interval)
