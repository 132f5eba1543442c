"""A score is read where there is one, and never invented."""

from __future__ import annotations

import json

import pytest

from worker.judge.model_score import Mean, ModelScore, Unreadable, mean_of, read_score


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"reasons": "r", "score": 0.5}', ModelScore(0.5, "r")),
        ('{"score": 1}', ModelScore(1.0, None)),
        ('{"score": 0, "reasons": 5}', ModelScore(0.0, None)),
        ('Draft: {"score": 1}. Final:\n```json\n{"reasons": "r", "score": 0.25}\n```', None),
        ('{"reasons": "d", "score": 0.25} That is: {"reasons": "r", "score": 0.25}', None),
        ('{"reasons": "r", "score": 0.25} {', None),
        ('{"reasons": "r", "score": 0.25} {x', None),
        ('So {"score": 1} or {"score"</think>\n{"reasons": "r", "score": 0.25}', None),
        ('<think>{"</think>{"reasons": "r", "score": 0.25}', None),
        ('{"reasons": "a </think> b\nc", "score": 1}', ModelScore(1.0, "a </think> b\nc")),
        ('<think>{x} {"score": 1}</think>{"reasons": "r", "score": 0.25} {ok} }', None),
        ('{"a": {"score": 1}, "reasons": "r", "score": 0.25}', None),
        ('{"reasons": "\\ud800", "score": 1}', ModelScore(1.0, "?")),
    ],
)
def test_the_last_complete_object_counts(text: str, verdict: ModelScore | None) -> None:
    assert read_score(text, "stop") == (verdict or ModelScore(0.25, "r"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "empty"),
        (" \n", "empty"),
        ("Eight of ten.", "without a JSON object"),
        ("[0.5]", "without a JSON object"),
        ('<think>Draft: {"score": 0.9}. But.</think>\nI cannot decide.', "without a JSON object"),
        ('\n<think>Draft: {"score": 0.9}. But', "ended in its reasoning"),
        ("<think>So it is.</think>\n", "empty"),
        ('{"reasons": "r"}', "no number"),
        ('{"score": "0.5"}', "no number"),
        ('{"score": true}', "no number"),
        ('{"score": null}', "no number"),
        ('{"score": 8}', "not from 0 to 1"),
        ('{"score": -0.1}', "not from 0 to 1"),
        ('{"score": NaN}', "not from 0 to 1"),
        ('{"score": 1e999}', "not from 0 to 1"),
        ('{"score": 1} and, on reflection, {"score": 0.', "cut"),
        ('{"reasons": "they wrote {"score": 1}', "without a JSON object"),
        ('{"reasons": "r", "parts": [{"score": 1}', "cut"),
        ("{" * 100_000, "cut"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"score": ' + "9" * 5000 + "}", "without a JSON object"),
    ],
)
def test_what_is_no_score_is_unreadable(text: str | None, part: str) -> None:
    read = read_score(text, "stop")
    assert isinstance(read, Unreadable)
    assert part in read.reason


def test_a_response_that_was_cut_counts_for_nothing_whatever_it_holds() -> None:
    assert isinstance(read_score('{"score": 1}', "length"), Unreadable)
    assert isinstance(read_score('{"score": 1}', "content_filter"), Unreadable)


def test_a_refusal_says_why() -> None:
    refused = Unreadable("the model refused: I cannot help.", is_refusal=True)
    assert read_score(None, "stop", "I cannot help.") == refused


def test_no_part_of_a_verdict_is_read_as_one() -> None:
    verdict = json.dumps({"reasons": 'quotes "{x}" and \\ \n', "score": 0.25, "more": [1e-3, None]})
    for end in range(2, len(verdict)):
        assert isinstance(read_score(f'{{"score": 1}} {verdict[:end]}', None), Unreadable)


def test_samples_are_averaged_and_their_agreement_is_the_confidence() -> None:
    one, other = ModelScore(1.0, "good"), ModelScore(0.0, "bad")
    assert mean_of([one]) == Mean(1.0, "good", None)
    assert mean_of([one, one]) == Mean(1.0, "good", 1.0)
    assert mean_of([one, other]) == Mean(0.5, "good", 0.0)
    mean = mean_of([ModelScore(0.9, "a"), ModelScore(0.6, "b"), ModelScore(0.3, "c")])
    assert (mean.score, mean.justification) == (0.6, "b")
    assert mean.confidence == pytest.approx(0.6)
