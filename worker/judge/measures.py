"""Measure responses deterministically, from 0 to 1 and without a model.

An evaluator takes the fields of an input and returns a score and what was compared. A score of
None means that the input has nothing to measure.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from worker.domain.phrases import quantity

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = frozenset({"a", "an", "the"})


Measurement = tuple[float | None, str]  # the score, and what was compared


def exact_match(fields: Mapping[str, Any]) -> Measurement:
    """Return 1 if the response equals the expected output after normalisation, else 0.

    Source: "exact match" of SQuAD (Rajpurkar et al., 2016, arXiv:1606.05250): lower case, without
    punctuation and articles, white space collapsed.
    """
    response, expected = _words(fields.get("response")), _words(fields.get("expected_output"))
    same = response == expected
    verb = "equals" if same else "differs from"
    return float(same), f"normalised response {_short(response)} {verb} {_short(expected)}"


def token_f1(fields: Mapping[str, Any]) -> Measurement:
    """Return the harmonic mean of precision and recall of the words, counting repeated ones.

    Source: the F1 of SQuAD (Rajpurkar et al., 2016, arXiv:1606.05250).
    """
    response, expected = _words(fields.get("response")), _words(fields.get("expected_output"))
    if not response or not expected:
        return float(response == expected), "one of the two texts has no words"
    shared = sum((Counter(response) & Counter(expected)).values())
    words = quantity(shared, "shared word")
    counts = f"{words} of {len(response)} given and {len(expected)} expected"
    return 2 * shared / (len(response) + len(expected)), counts


def rouge_l(fields: Mapping[str, Any]) -> Measurement:
    """Return F1 over the longest common subsequence of words: the right words in order.

    Source: ROUGE-L (Lin, 2004, aclanthology.org/W04-1013), with beta 1.
    """
    response, expected = _words(fields.get("response")), _words(fields.get("expected_output"))
    if not response or not expected:
        return float(response == expected), "one of the two texts has no words"
    common = _longest_common_subsequence(response[:1000], expected[:1000])
    score = 2 * common / (len(response) + len(expected))
    return score, f"longest common subsequence: {quantity(common, 'word')}"


def final_number_match(fields: Mapping[str, Any]) -> Measurement:
    """Return 1 if the last numbers of response and expected output are equal, else 0.

    Source: how answers to GSM8K are graded (Cobbe et al., 2021, arXiv:2110.14168).
    """
    expected = _last_number(fields.get("expected_output"))
    if expected is None:
        return None, "the expected output has no number"
    response = _last_number(fields.get("response"))
    if response is None:
        return 0.0, f"the response has no number; {expected:g} is expected"
    same = abs(response - expected) <= 1e-9 * max(1.0, abs(expected))
    return float(same), f"final number {response:g}; {expected:g} is expected"


def expected_in_response(fields: Mapping[str, Any]) -> Measurement:
    """Return 1 if the normalised response contains the normalised expected output, else 0.

    Source: the "contains" accuracy of open-domain question answering (Mallen et al., 2023,
    arXiv:2212.10511).
    """
    response, expected = _words(fields.get("response")), _words(fields.get("expected_output"))
    if not expected:
        return None, "the expected output has no words"
    found = f" {' '.join(expected)} " in f" {' '.join(response)} "
    return float(found), f"{_short(expected)} {'occurs' if found else 'does not occur'} in it"


def context_support(fields: Mapping[str, Any]) -> Measurement:
    """Return the share of the response's words, articles aside, that occur in the contexts.

    Source: the precision of knowledge F1 (Shuster et al., 2021, arXiv:2104.07567).
    """
    response = _words(fields.get("response"))
    if not response:
        return None, "the response has no words"
    known = {word for context in fields.get("contexts") or [] for word in _words(context)}
    supported = sum(word in known for word in response)
    counts = f"{supported} of {len(response)} words occur in the contexts"
    return supported / len(response), counts


def request_overlap(fields: Mapping[str, Any]) -> Measurement:
    """Return the share of the request's distinct words that occur in the response.

    Source: the query term coverage of retrieval (Manning et al., 2008, ISBN 0521865719, ch. 6).
    """
    request = set(_words(fields.get("request")))
    if not request:
        return None, "the request has no words"
    repeated = request & set(_words(fields.get("response")))
    words = f"{len(repeated)} of {len(request)} words occur in the response"
    return len(repeated) / len(request), words


def non_empty(fields: Mapping[str, Any]) -> Measurement:
    """Return 1 if the response has a word, else 0. Source: its definition."""
    words = _words(fields.get("response"))
    return float(bool(words)), f"the response has {quantity(len(words), 'word')}"


EVALUATORS: Mapping[str, Callable[[Mapping[str, Any]], Measurement]] = {
    "Exact match": exact_match,
    "Token F1": token_f1,
    "ROUGE-L": rouge_l,
    "Final number match": final_number_match,
    "Expected in response": expected_in_response,
    "Context support": context_support,
    "Request overlap": request_overlap,
    "Non-empty": non_empty,
}


@cache
def evaluator_id(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"evalworker:sandbox:evaluator:{name}"))


@cache
def evaluator_version_id(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"{evaluator_id(name)}:1"))


def evaluator_result(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return one entry of `evaluator_results` as newer servers show it."""
    score, justification = EVALUATORS[name](fields)
    return {
        "evaluator_name": name,
        "score": None if score is None else round(score, 6),
        "justification": justification,
        "evaluator_id": evaluator_id(name),
        "evaluator_version_id": evaluator_version_id(name),
        "confidence": None if score is None else 1.0,
    }


def _words(text: str | None) -> list[str]:
    words = (text or "").lower().translate(_PUNCTUATION).split()
    return [word for word in words if word not in _ARTICLES]


def _short(words: list[str]) -> str:
    text = " ".join(words)
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


def _last_number(text: str | None) -> float | None:
    found = _NUMBER.findall(text or "")
    return float(found[-1].replace(",", "")) if found else None


def _longest_common_subsequence(one: list[str], other: list[str]) -> int:
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for column, against in enumerate(other, 1):
            above = row[column]
            row[column] = diagonal + 1 if word == against else max(above, row[column - 1])
            diagonal = above
    return row[-1]
