"""When to look, and how many batches may be at the remote: functions of what was seen so far."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from statistics import fmean

import pytest

from worker.domain.backoff import throttle_wait
from worker.domain.concurrency import in_flight_allowed
from worker.domain.polling import (
    MAX_DURATIONS,
    MAX_JUDGES,
    MIN_LIST_WAIT,
    Durations,
    earliest_end,
    list_wait,
    poll_wait,
)

HALF_A_MINUTE_TO_A_WHOLE = [30 + n / 2 for n in range(60)]


def polls_of(duration: float, known: list[float], rng: Random) -> list[float]:
    """The moments at which a batch of this duration is polled."""
    moments = [0.0]
    while moments[-1] < duration:
        wait = poll_wait(moments[-1], known, minimum=1.0, maximum=30.0, rng=rng)
        moments.append(moments[-1] + wait)
    return moments[1:]


def test_without_any_knowledge_polls_grow_apart() -> None:
    moments = polls_of(600.0, [], Random(1))
    gaps = [after - before for before, after in pairwise(moments)]
    assert gaps[0] < 2.0
    assert max(gaps) > 25.0
    assert len(moments) < 40


def test_known_durations_find_the_end_with_few_polls_and_soon() -> None:
    rng = Random(1)
    found = [polls_of(d, HALF_A_MINUTE_TO_A_WHOLE, rng) for d in HALF_A_MINUTE_TO_A_WHOLE]
    assert fmean(len(moments) for moments in found) <= 4.0
    late = [m[-1] - d for m, d in zip(found, HALF_A_MINUTE_TO_A_WHOLE, strict=True)]
    assert fmean(late) < 0.1 * 45


def test_a_batch_that_takes_longer_than_any_known_is_polled_ever_more_seldom() -> None:
    moments = polls_of(500.0, HALF_A_MINUTE_TO_A_WHOLE, Random(1))
    gaps = [after - before for before, after in pairwise(moments)]
    assert gaps[-1] > 20.0


def test_nothing_is_watched_before_it_may_have_ended() -> None:
    assert earliest_end([]) == 0.0
    assert earliest_end([40.0]) == 0.0
    assert 25 < earliest_end(HALF_A_MINUTE_TO_A_WHOLE) < 30


@pytest.mark.parametrize(
    ("in_flight", "pages", "reads_a_batch"),
    [(1000, 10, 0.25), (200, 2, 0.25), (200, 1, 0.25), (50, 1, 0.5), (10, 1, 3.0), (5, 1, 3.0)],
)
def test_the_list_costs_a_batch_few_reads(in_flight: int, pages: int, reads_a_batch: float) -> None:
    usual = 45.0
    wait = list_wait([usual], 60.0, in_flight, pages, maximum=30.0)
    ends_a_second = in_flight / usual
    assert pages / wait / ends_a_second <= reads_a_batch + 0.01


def test_the_watch_is_as_quick_as_its_batches() -> None:
    assert list_wait([3.0], 9.0, 50, 1, maximum=30.0) == pytest.approx(0.12)
    assert list_wait([7200.0], 9.0, 50, 1, maximum=30.0) == 30.0
    assert list_wait([0.0], 9.0, 50, 1, maximum=30.0) == MIN_LIST_WAIT


def test_while_no_duration_is_known_the_list_is_read_a_page_at_a_time() -> None:
    assert list_wait([], 1.0, 1000, 10, maximum=30.0) == pytest.approx(5.0)
    assert list_wait([], 1.0, 1000, 1, maximum=30.0) == pytest.approx(0.5)
    assert 2.4 < list_wait([], 600.0, 1000, 1, maximum=30.0) < 3.0


def test_a_throttle_that_does_not_say_how_long_is_tried_again_soon_and_then_later() -> None:
    rng = Random(1)
    assert max(throttle_wait(None, 1, rng) for _ in range(100)) <= 0.5
    assert min(throttle_wait(None, 10, rng) for _ in range(100)) >= 6.0
    assert throttle_wait(7.0, 1, rng) >= 7.0


def test_the_limit_is_the_ceiling_until_the_remote_refuses_and_then_grows_back() -> None:
    assert in_flight_allowed(200, None, 0.0) == 200
    assert in_flight_allowed(200, 47.5, 0.0) == 48
    assert in_flight_allowed(200, 47.5, 20.0) == 51
    assert in_flight_allowed(200, 47.5, 1e9) == 200
    assert in_flight_allowed(200, 0.95, 0.0) == 1


def test_durations_are_those_of_the_latest_batches_of_the_judge() -> None:
    durations = Durations()
    for n in range(MAX_DURATIONS + 3):
        durations.add("judge", float(n))
    durations.add("other", -1.0)
    assert durations.of("judge") == [float(n) for n in range(3, MAX_DURATIONS + 3)]
    assert durations.of("other") == [0.0]
    assert durations.of("unknown") == []


def test_the_judge_that_was_not_heard_of_for_longest_is_forgotten() -> None:
    durations = Durations()
    for n in range(MAX_JUDGES):
        durations.add(str(n), 1.0)
    durations.add("0", 2.0)
    durations.add("one more", 1.0)
    assert durations.of("0") == [1.0, 2.0]
    assert durations.of("1") == []
