"""Two jobs are compared by pairs of inputs, found in SQL, with the sums that Python finds."""

from __future__ import annotations

from dataclasses import astuple
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from tests.support.paired_scores import paired_scores
from tests.support.scored_jobs import add_scored_job
from worker.domain.pair_key import PairedBy, Pairing
from worker.domain.score_summary import TOO_LARGE, summarize
from worker.domain.verdict import Verdict
from worker.errors import NotPossible, UnknownJob
from worker.store import score_rollup
from worker.store.comparison_notes import comparison_notes
from worker.store.comparison_queries import JobPair, compare_jobs, largest_changes
from worker.store.group_queries import sums_by_evaluator
from worker.store.input_queries import InputFilter, Order, list_positions, score_counts
from worker.store.job_list_queries import means_by_job
from worker.store.job_queries import mean_scores
from worker.store.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.domain.comparison import PairedScores

BY_REQUEST = Pairing(PairedBy.REQUEST)
BY_ID = Pairing(PairedBy.METADATA, 'the "id", or $.x')


@pytest.fixture
def connection(database: Any) -> Iterator[sa.Connection]:
    with database.engine.begin() as opened:
        yield opened


def add(connection: sa.Connection, scores: Sequence[float | None], **given: Any) -> UUID:
    return add_scored_job(connection, {"clarity": scores}, **given)


def test_the_sums_are_those_of_python_whatever_pairs_and_groups(connection: sa.Connection) -> None:
    rng = Random(1)
    first = [round(rng.random(), 2) for _ in range(60)]
    second = [round(rng.random(), 2) if n % 3 else first[n] for n in range(60)]
    shuffled = rng.sample(range(60), 60)
    ids = [{BY_ID.key: number, "text": number // 7} for number in range(60)]
    one = add(connection, first, metadata=ids)
    other = add(
        connection,
        [second[n] for n in shuffled],
        requests=[f"question {n}" for n in shuffled],
        metadata=[ids[n] for n in shuffled],
    )
    expected = {
        None: paired_scores(first, second),
        "text": paired_scores(first, second, [n // 7 for n in range(60)]),
    }
    for pairing in (BY_REQUEST, BY_ID):
        for group_key, sums in expected.items():
            found = compare_jobs(connection, one, other, pairing, group_key)
            assert (found.counts.pairs, found.counts.different_requests) == (60, 0)
            (evaluator,) = found.evaluators
            assert_same(evaluator.scores, sums)


def assert_same(found: PairedScores, expected: PairedScores) -> None:
    assert flat(found) == pytest.approx(flat(expected), abs=1e-9)


def flat(scores: PairedScores) -> list[float]:
    return [*astuple(scores)[1:-1], *astuple(scores.differences)]


def test_the_scores_of_one_job_are_grouped_alike(connection: sa.Connection) -> None:
    rng = Random(2)
    given = [round(rng.random(), 2) for _ in range(40)]
    texts = [{"text": number // 9} if number < 36 else None for number in range(40)]
    job_id = add(connection, [*given, None], metadata=[*texts, {"text": 0}])
    found = sums_by_evaluator(connection, job_id, "text")["clarity"]
    groups = [str(text["text"]) if text else number for number, text in enumerate(texts)]
    expected = paired_scores([0.0] * 40, given, groups).differences
    assert astuple(found) == pytest.approx(astuple(expected), abs=1e-9)
    assert found.groups == 4 + 4


def test_pairs_by_index_whose_requests_differ_are_counted(connection: sa.Connection) -> None:
    one = add(connection, [0.1, 0.2, 0.3])
    other = add(connection, [0.2, 0.3, 0.4], requests=["question 0", "another", "one more"])
    assert compare_jobs(connection, one, other).counts.different_requests == 2


def test_inputs_without_a_partner_a_score_or_a_key_are_left_out_and_counted(
    connection: sa.Connection,
) -> None:
    one = add_scored_job(
        connection,
        {"clarity": [0.1, None, 0.3, 0.4, 0.5], "only here": [1.0] * 5},
        metadata=[{BY_ID.key: n} for n in "abcd"] + [None],
    )
    other = add_scored_job(
        connection,
        {"clarity": [0.2, 0.2, None], "tone": [0.5] * 3},
        metadata=[{BY_ID.key: n} for n in "abx"],
    )
    found = compare_jobs(connection, one, other, BY_ID)
    assert found.counts._asdict() == {
        "pairs": 2,
        "only_first": 2,
        "only_second": 1,
        "without_key": 1,
        "repeated": 0,
        "different_requests": 0,
    }
    (clarity,) = found.evaluators
    assert clarity.scores.pairs == 1
    assert clarity.verdict is Verdict.TOO_FEW
    assert found.not_compared == ["only here", "tone"]


def test_several_results_of_one_name_count_once_by_their_mean(connection: sa.Connection) -> None:
    one, other = add(connection, [0.1, 0.2]), add(connection, [0.3, 0.2])
    for position, score in ((1, 0.5), (2, None)):
        connection.exec_driver_sql(
            "INSERT INTO eval_evaluator_results"
            " (job_id, item_index, position, evaluator_name, score)"
            f" VALUES ('{other}', 0, {position}, 'clarity', {score or 'NULL'})"
        )
    (clarity,) = compare_jobs(connection, one, other).evaluators
    assert clarity.scores.pairs == 2
    assert clarity.scores.second_total == pytest.approx(0.4 + 0.2)


def test_numbers_of_any_size_are_read_without_an_error(connection: sa.Connection) -> None:
    """PostgreSQL refuses sums that are too large, and squares that are too small."""
    given = [1e308, 1e308, -1e200, 1e-200, 5e-324, 0.5]
    one = add(connection, given, metadata=[{"text": 1}] * 6)
    other = add(connection, [*given[:3], 0.0, 0.0, 0.75])
    for cluster in (None, "text"):
        (clarity,) = compare_jobs(connection, one, other, group_key=cluster).evaluators
        assert clarity.scores.pairs == 3
        assert clarity.scores.mean_difference == pytest.approx(0.25 / 3)
    assert sums_by_evaluator(connection, one, "text")["clarity"].size == 3
    assert [mean.mean for mean in mean_scores(connection, one)] == [None]
    assert [mean.mean for mean in means_by_job(connection, [one])[one]] == [None]
    for order in Order:
        assert list_positions(connection, InputFilter(one, order=order), limit=9)
    ((counts, unscored),) = score_counts(connection, one).values()
    assert summarize("clarity", counts, unscored).interval is TOO_LARGE


def test_what_cannot_be_compared_says_why(connection: sa.Connection) -> None:
    one = add(connection, [0.1, 0.2], metadata=[{BY_ID.key: 1}, None])
    other = add(connection, [0.3, 0.2], requests=["twice", "twice"])
    unknown = uuid4()
    with pytest.raises(UnknownJob, match=str(unknown)):
        compare_jobs(connection, one, unknown)
    with pytest.raises(NotPossible, match="with itself"):
        compare_jobs(connection, one, one)
    with pytest.raises(NotPossible, match=r"the same request \(1 value\).*'twice' \(0 in the f"):
        compare_jobs(connection, one, other, BY_REQUEST)
    with pytest.raises(NotPossible, match=r"the same metadata .*; 3 inputs have none"):
        compare_jobs(connection, one, other, BY_ID)


def test_the_largest_changes_come_first(connection: sa.Connection) -> None:
    one = add(connection, [0.5, 0.5, 0.5, 0.5, None])
    other = add(connection, [0.4, 0.9, 0.1, 0.5, 0.0])
    jobs = JobPair(one, other, Pairing())

    def changed(*, losses: bool) -> list[tuple[int, float]]:
        found = largest_changes(connection, jobs, "clarity", losses=losses, limit=2)
        return [(change.second_index, round(change.difference, 9)) for change in found]

    assert changed(losses=True) == [(2, -0.4), (0, -0.1)]
    assert changed(losses=False) == [(1, 0.4)]


def test_notes_say_how_the_jobs_differ_otherwise(connection: sa.Connection) -> None:
    one = add(connection, [0.1, 0.2, 0.3], judge_id="strict")
    other = add(connection, [0.2, 0.3], requests=["question 0", "another"], judge_id="mild")
    connection.exec_driver_sql(
        f"UPDATE eval_items SET status = 'failed' WHERE job_id = '{one}' AND item_index = 2"
    )
    connection.exec_driver_sql(
        f"UPDATE eval_jobs SET status = 'processing', finished_at = NULL WHERE id = '{other}'"
    )
    assert comparison_notes(connection, compare_jobs(connection, one, other)) == [
        "Two different requests are in 1 of 2 pairs. If the inputs are in another order, pair them "
        "by request.",
        "Without a partner, and left out: 1 input of A and 0 inputs of B.",
        "A has no results for 1 input.",
        "B has not ended: 2 of 2 inputs have results.",
        "The jobs have different judges: strict and mild.",
    ]


def test_another_version_of_the_judge_is_noted(connection: sa.Connection) -> None:
    one = add(connection, [0.1, 0.2], judge_version_id="v1")
    other = add(connection, [0.2, 0.3], judge_version_id="v2")
    score_rollup.write(Transaction(connection), [one, other])
    (note,) = comparison_notes(connection, compare_jobs(connection, one, other))
    assert note == "The judge had different versions: v1 and v2. A difference may be its own."


def test_no_version_is_called_unknown_before_both_jobs_have_ended(
    connection: sa.Connection,
) -> None:
    one = add(connection, [0.1, 0.2], judge_version_id="v1")
    other = add(connection, [0.2, 0.3], judge_version_id="v1")
    score_rollup.write(Transaction(connection), [one])
    connection.exec_driver_sql(
        f"UPDATE eval_jobs SET status = 'processing', finished_at = NULL WHERE id = '{other}'"
    )
    (note,) = comparison_notes(connection, compare_jobs(connection, one, other))
    assert note == "B has not ended: 2 of 2 inputs have results."


@pytest.mark.parametrize("text", ["index", "request", "metadata:id", "metadata:a:b"])
def test_a_pairing_is_read_as_it_is_written(text: str) -> None:
    assert str(Pairing.parse(text)) == text


@pytest.mark.parametrize("text", ["", "Index", "index:x", "metadata", "metadata:", "id"])
def test_an_unknown_pairing_is_refused_with_the_choices(text: str) -> None:
    with pytest.raises(ValueError, match="metadata:KEY"):
        Pairing.parse(text)
