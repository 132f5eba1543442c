"""Many people who look at the same page cost the database one read."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.console.reader import SharedRead


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class CountedRead:
    """A read that can be held up, and fail."""

    def __init__(self) -> None:
        self.times = 0
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()
        self.error: Exception | None = None

    def __call__(self) -> int:
        self.times += 1
        self.begun.set()
        assert self.may_end.wait(10)
        if self.error is not None:
            raise self.error
        return self.times


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def read() -> CountedRead:
    return CountedRead()


def test_who_asks_once_in_each_interval_sees_something_new(clock: Clock, read: CountedRead) -> None:
    shared = SharedRead(clock)
    for expected in range(1, 7):
        assert shared.get(read, 10) == expected
        clock.now += 10


def test_all_who_ask_in_an_interval_get_the_same(clock: Clock, read: CountedRead) -> None:
    shared = SharedRead(clock)
    for tenth in range(60):
        clock.now = 1_000 + tenth
        assert shared.get(read, 10) == tenth // 10 + 1


def test_who_refreshes_often_reads_for_those_who_do_it_seldom(
    clock: Clock, read: CountedRead
) -> None:
    shared = SharedRead(clock)
    assert shared.get(read, 30) == 1
    clock.now += 5
    assert shared.get(read, 5) == 2
    assert shared.get(read, 30) == 2


@pytest.mark.parametrize("error", [None, ValueError("too slow")])
def test_who_asks_while_a_read_runs_waits_for_its_outcome(
    clock: Clock, read: CountedRead, error: Exception | None
) -> None:
    shared = SharedRead(clock)
    read.error = error
    read.may_end.clear()
    with ThreadPoolExecutor(10) as people:
        asked = [people.submit(shared.get, read, 10) for _ in range(10)]
        assert read.begun.wait(10)
        read.may_end.set()
    assert [one.exception() or one.result() for one in asked] == [error or 1] * 10
    assert read.times == 1


def test_a_read_that_takes_longer_than_an_interval_is_not_begun_again(
    clock: Clock, read: CountedRead
) -> None:
    shared = SharedRead(clock)
    read.may_end.clear()
    with ThreadPoolExecutor(2) as people:
        first = people.submit(shared.get, read, 10)
        assert read.begun.wait(10)
        read.begun.clear()
        clock.now += 100
        second = people.submit(shared.get, read, 10)
        assert not read.begun.wait(0.2)
        read.may_end.set()
    assert (first.result(), second.result()) == (1, 1)


def test_an_error_is_not_kept_longer_than_a_result(clock: Clock, read: CountedRead) -> None:
    shared = SharedRead(clock)
    read.error = ValueError("too slow")
    for _ in range(2):
        with pytest.raises(ValueError, match="too slow"):
            shared.get(read, 10)
    read.error = None
    clock.now += 10
    assert shared.get(read, 10) == 2
