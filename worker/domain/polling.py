"""How long the latest batches of each judge took, for all that this process knows: only a hint."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from random import Random

KEPT = 64  # durations of a judge
JUDGES = 1000  # the one that was not heard of for longest is forgotten first


class Durations:
    """Seconds from submission to end, by judge. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: OrderedDict[str, deque[float]] = OrderedDict()

    def learn(self, known: Iterable[tuple[str, float]]) -> None:
        """From judges and seconds, the latest last."""
        for judge_id, seconds in known:
            self.note(judge_id, seconds)

    def note(self, judge_id: str, seconds: float) -> None:
        with self._lock:
            self._latest.setdefault(judge_id, deque(maxlen=KEPT)).append(max(seconds, 0.0))
            self._latest.move_to_end(judge_id)
            if len(self._latest) > JUDGES:
                self._latest.popitem(last=False)

    def of(self, judge_id: str) -> Sequence[float]:
        """Sorted; empty where nothing is known."""
        with self._lock:
            return sorted(self._latest.get(judge_id, ()))


ENOUGH_DURATIONS = 8  # known of a judge, before its polls go by them


LOOKED_AT = (0.25, 0.5, 0.75, 0.95)  # shares of the known durations: a poll of a batch at each


EARLIEST = 0.02  # of the known durations, so many are shorter than a batch that is worth a look


WATCH_LEAST = 0.1  # seconds between two reads of the list


WATCH_UNKNOWING = 0.5  # the same for each page of it, where no duration is known


WATCH_PART = 0.04  # of a batch's duration between two reads


LISTED_CHEAPLY = 0.22  # requests that a batch may cost without asking: then a smaller part


LISTED_AT_MOST = 3.0  # requests that it may cost at all: beyond, a larger part,


WATCH_PART_MOST = 0.1  # up to this one


def poll_wait(
    elapsed: float, durations: Sequence[float], *, least: float, most: float, rng: Random
) -> float:
    """The wait before the next poll, by how long this judge's latest batches took (sorted).

    A poll when a quarter of them had ended, then half, three quarters, nearly all: three or four
    requests find the end within about a tenth of the batch's own time. Beyond that, and while too
    few are known, after another quarter of the time it has run so far: a logarithmic number.
    """
    wait = min(max(_next_look(elapsed, durations) - elapsed, least), most)
    return wait * rng.uniform(1.0, 1.1)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of a sorted sequence that is not empty."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def worth_a_look_after(durations: Sequence[float]) -> float:
    """From how many seconds on a batch may have ended, by the latest of its judge (sorted)."""
    if len(durations) < ENOUGH_DURATIONS:
        return 0.0
    return quantile(durations, EARLIEST) * 0.9


def watch_wait(
    durations: Sequence[float], oldest: float, in_flight: int, pages: int, *, most: float
) -> float:
    """Between two reads of the list, of so many pages, for so many batches of a judge (sorted
    durations; `oldest` is the age of the first that may have ended) and others.

    A small part of the time that a batch usually takes, so that its end is seen soon after: with
    many in flight as small as costs each a fifth of a request; with few in flight a larger one,
    as each then pays more of it.
    """
    usual = quantile(durations, 0.5) if durations else oldest
    a_batch = pages / max(in_flight, 1)  # requests, if it were read once in the usual time
    part = max(
        min(WATCH_PART, a_batch / LISTED_CHEAPLY), min(WATCH_PART_MOST, a_batch / LISTED_AT_MOST)
    )
    least = WATCH_LEAST if durations else WATCH_UNKNOWING * pages
    return min(max(usual * part, least), most)


def _next_look(elapsed: float, durations: Sequence[float]) -> float:
    if len(durations) >= ENOUGH_DURATIONS:
        for share in LOOKED_AT:
            moment = quantile(durations, share)
            if moment > elapsed:
                return moment
    return elapsed * 1.25
