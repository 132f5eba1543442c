"""Read a model's response: a score with its reasons, or why there is none. Nothing is invented."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder(strict=False)  # models break lines within strings
_START_OF_OBJECT = re.compile(r'\{\s*"')


@dataclass(frozen=True, slots=True)
class ModelScore:
    """A score from 0 to 1, and why."""

    score: float
    reasons: str | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A response without a score that counts; a refusal would be the same in a second try."""

    reason: str
    is_refusal: bool = False


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of some samples. `confidence` is their agreement; a single one has none."""

    score: float
    justification: str | None
    confidence: float | None


def read_score(
    text: str | None, finish_reason: str | None, refusal: str | None = None
) -> ModelScore | Unreadable:
    """Read the last complete JSON object of what follows the model's reasoning."""
    if refusal:
        return Unreadable(f"the model refused: {_printable(refusal)}", is_refusal=True)
    if finish_reason == "length":
        return Unreadable("the response of the model was cut at its maximum length")
    if finish_reason == "content_filter":
        return Unreadable("the endpoint's content filter withheld the response of the model")
    answer = _without_reasoning(text or "")
    if answer.startswith("<think>"):
        return Unreadable("the response of the model ended in its reasoning")
    if not answer:
        return Unreadable("the response of the model was empty")
    found = _last_object(answer)
    if isinstance(found, Unreadable):
        return found
    score, reasons = found.get("score"), found.get("reasons")
    if isinstance(score, bool) or not isinstance(score, int | float):
        return Unreadable("the model gave no number as the score")
    if not 0 <= score <= 1:  # NaN is not, either
        return Unreadable(f"the model gave the score {score:.6g}, which is not from 0 to 1")
    return ModelScore(float(score), _printable(reasons) if isinstance(reasons, str) else None)


def mean_of(scores: Sequence[ModelScore]) -> Mean:
    """Combine samples; the reasons are those of the sample that is nearest to the mean.

    The agreement is 1 if all scores are the same, and 0 if half of them are 0 and half are 1.
    """
    mean = math.fsum(one.score for one in scores) / len(scores)
    nearest = min(scores, key=lambda one: abs(one.score - mean))
    deviation = math.fsum(abs(one.score - mean) for one in scores) / len(scores)
    agreement = round(1 - 2 * deviation, 6) if len(scores) > 1 else None
    return Mean(round(mean, 6), nearest.reasons, agreement)


def _without_reasoning(text: str) -> str:
    """Return what follows the reasoning that some endpoints leave in the response."""
    text = text.strip()
    if text.startswith("{") and text.endswith("}"):  # its reasons may quote the mark
        return text
    return text.rpartition("</think>")[2].strip()


def _last_object(text: str) -> dict[str, Any] | Unreadable:
    """An object that is still open at the end was cut: what is inside it does not count."""
    last: dict[str, Any] | None = None
    position = text.find("{")
    while position >= 0:
        try:
            last, end = _DECODER.raw_decode(text, position)
        except RecursionError:
            return Unreadable("the response of the model is nested too deeply")
        except ValueError as error:
            begins = last is None or _START_OF_OBJECT.match(text, position)
            if begins and _is_open(error, text):
                return Unreadable("the response of the model was cut")
            end = max(position + 1, _failed_at(error))  # what was read until there is part of it
        position = text.find("{", end)
    return last if last is not None else Unreadable("the model responded without a JSON object")


def _is_open(error: ValueError, text: str) -> bool:
    unterminated = str(error).startswith("Unterminated string")
    return unterminated or text.rfind("}") < _failed_at(error)


def _failed_at(error: ValueError) -> int:
    # Only an integer with too many digits has no position.
    return error.pos if isinstance(error, json.JSONDecodeError) else 0


def _printable(text: str) -> str:
    """Replace halves of surrogate pairs, which neither a database nor a response can hold."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
