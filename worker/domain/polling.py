"""Decide when a batch at the remote is read, by how long the latest batches of its judge took."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from random import Random

MAX_DURATIONS = 64  # kept for a judge
MAX_JUDGES = 1000  # the judge that was not seen for longest is forgotten first

ENOUGH_DURATIONS = 8  # known of a judge before its polls follow them
IMMEDIATE_SECONDS = 0.05  # a first poll that is due this soon needs no message

# A batch is polled when these shares of the known durations have passed.
POLLED_QUANTILES = (0.25, 0.5, 0.75, 0.95)
EARLIEST_QUANTILE = 0.02  # from here on a batch may have ended

MIN_LIST_WAIT = 0.1  # seconds between two reads of the list
UNKNOWN_LIST_WAIT = 0.5  # the same, for each page of the list, while no duration is known
# The list is read again after a part of a batch's usual duration: a small part while that costs
# few requests a batch, a larger part where it would cost many.
LIST_PART = 0.04
MAX_LIST_PART = 0.1
CHEAP_REQUESTS = 0.22  # requests a batch up to which the small part is used
MAX_REQUESTS = 3.0  # requests a batch above which the large part is used


class Durations:
    """The seconds from submission to end of the latest batches, by judge. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: OrderedDict[str, deque[float]] = OrderedDict()

    def add_all(self, known: Iterable[tuple[str, float]]) -> None:
        """Add pairs of judge id and seconds, the latest last."""
        for judge_id, seconds in known:
            self.add(judge_id, seconds)

    def add(self, judge_id: str, seconds: float) -> None:
        """Add the duration of one batch."""
        with self._lock:
            self._latest.setdefault(judge_id, deque(maxlen=MAX_DURATIONS)).append(max(seconds, 0.0))
            self._latest.move_to_end(judge_id)
            if len(self._latest) > MAX_JUDGES:
                self._latest.popitem(last=False)

    def of(self, judge_id: str) -> Sequence[float]:
        """Return the durations of a judge, sorted; empty where none is known."""
        with self._lock:
            return sorted(self._latest.get(judge_id, ()))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of a sorted sequence that is not empty."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def first_poll_wait(
    durations: Sequence[float], *, minimum: float, maximum: float, rng: Random
) -> float:
    """Return the wait between a submission and its first poll; 0.0 where batches end immediately.

    `minimum` holds while too few durations are known.
    """
    if len(durations) < ENOUGH_DURATIONS:
        return minimum
    wait = poll_wait(0.0, durations, minimum=0.0, maximum=maximum, rng=rng)
    return wait if wait >= IMMEDIATE_SECONDS else 0.0


def poll_wait(
    elapsed: float, durations: Sequence[float], *, minimum: float, maximum: float, rng: Random
) -> float:
    """Return the wait before the next poll of a batch that was submitted `elapsed` seconds ago.

    `durations` are sorted. A batch is polled when a quarter of them had ended, then half, three
    quarters, nearly all: three or four requests find the end within about a tenth of the batch's
    own duration. After that, and while few durations are known, it is polled after another quarter
    of its age: a logarithmic number of requests.
    """
    wait = min(max(_next_poll(elapsed, durations) - elapsed, minimum), maximum)
    return wait * rng.uniform(1.0, 1.1)


def _next_poll(elapsed: float, durations: Sequence[float]) -> float:
    if len(durations) >= ENOUGH_DURATIONS:
        for share in POLLED_QUANTILES:
            moment = quantile(durations, share)
            if moment > elapsed:
                return moment
    return elapsed * 1.25


def earliest_end(durations: Sequence[float]) -> float:
    """Return from which age on, in seconds, a batch may have ended; `durations` are sorted."""
    if len(durations) < ENOUGH_DURATIONS:
        return 0.0
    return quantile(durations, EARLIEST_QUANTILE) * 0.9


def list_wait(
    durations: Sequence[float], oldest: float, in_flight: int, pages: int, *, maximum: float
) -> float:
    """Return the wait before the list is read again.

    `durations` of the judge are sorted; `oldest` is the age of the oldest batch that may have
    ended; `pages` is what the last read took, for `in_flight` batches.

    The wait is a small part of a batch's usual duration, so that its end is noticed soon. With many
    batches in flight a read costs each of them little; with few it costs more, and the part grows.
    """
    usual = quantile(durations, 0.5) if durations else oldest
    requests = pages / max(in_flight, 1)  # a batch, if the list were read once in the usual time
    part = max(
        min(LIST_PART, requests / CHEAP_REQUESTS), min(MAX_LIST_PART, requests / MAX_REQUESTS)
    )
    minimum = MIN_LIST_WAIT if durations else UNKNOWN_LIST_WAIT * pages
    return min(max(usual * part, minimum), maximum)
