"""When to try, look, poll or give up, and how waiting items are packed; pure functions of values.

Every wait is in seconds. Randomness comes in as a `random.Random`, so that a simulation replays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random

MAX_BACKOFF = 60.0  # seconds between two tries of one batch, at most
THROTTLE_BASE = 0.25  # seconds, doubled with each 429 in a row that does not say how long
MAX_THROTTLE_WAIT = 300.0  # of a Retry-After, as much is believed
MAX_GATE_WAIT = 300.0  # an API or judge that is out is asked again at least this often
OUTAGE_THRESHOLD = 3  # failures in a row before everybody waits for one to probe

LOOKS = (2.0, 5.0, 15.0, 30.0)  # waits before each look for a batch whose answer was lost
MAX_CLAIMS = 5  # of one batch in a row whose holders died; then it is set aside
NOT_FOUND_GRACE = 120.0  # after submission, a 404 on the status path may still turn into a 200
LOST_AFTER_FAILURES = 10  # polls in a row without a usable answer, once the batch is overdue too
UNFINISHED_READS = 3  # reads of an ended batch that lacks items before they count as failed

ENOUGH_DURATIONS = 8  # known of a judge, before its polls go by them
LOOKED_AT = (0.25, 0.5, 0.75, 0.95)  # shares of the known durations: a poll of a batch at each
EARLIEST = 0.02  # of the known durations, so many are shorter than a batch that is worth a look
WATCH_LEAST = 0.1  # seconds between two reads of the list
WATCH_UNKNOWING = 0.5  # the same for each page of it, where no duration is known
WATCH_PART = 0.04  # of a batch's duration between two reads
LISTED_CHEAPLY = 0.22  # requests that a batch may cost without asking: then a smaller part
LISTED_AT_MOST = 3.0  # requests that it may cost at all: beyond, a larger part,
WATCH_PART_MOST = 0.1  # up to this one

LIMIT_LOWERED = 0.95  # of the batches that ran when the remote refused one more
LIMIT_DOUBLES_IN = 180.0  # seconds: the way back up, until it refuses again
LIMIT_HOLDS = 10.0  # seconds before the limit is lowered again: refusals come in swarms

# Seconds before a notice is sent again; after the last of them it has failed, most of a day later.
NOTICE_WAITS = (5.0, 60.0, 600.0, 3600.0, 10_800.0, 21_600.0, 43_200.0)


def notice_wait(attempts: int, rng: Random) -> float | None:
    """After so many attempts, before the next one; None: it was tried often enough."""
    if attempts > len(NOTICE_WAITS):
        return None
    return NOTICE_WAITS[attempts - 1] * rng.uniform(0.9, 1.1)


def backoff(failures: int, rng: Random, *, base: float = 1.0, most: float = MAX_BACKOFF) -> float:
    """Exponential with full jitter; never under a tenth of its span, so that it does not spin."""
    span = min(most, base * 2.0 ** min(failures, 16))
    return rng.uniform(span / 10, span)


def throttle_wait(retry_after: float | None, failures: int, rng: Random) -> float:
    """As long as the remote asks for, within reason, and a little scatter; else a backoff."""
    if retry_after is None:
        # What it refuses is one batch too many, more often than not: a place is free soon.
        return backoff(failures, rng, base=THROTTLE_BASE)
    return min(retry_after, MAX_THROTTLE_WAIT) + rng.uniform(0.0, 1.0)


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


def _next_look(elapsed: float, durations: Sequence[float]) -> float:
    if len(durations) >= ENOUGH_DURATIONS:
        for share in LOOKED_AT:
            moment = quantile(durations, share)
            if moment > elapsed:
                return moment
    return elapsed * 1.25


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


def in_flight_allowed(ceiling: int, limit: float | None, since: float) -> int:
    """How many batches may be at the remote, `since` seconds after it was found to allow `limit`.

    Multiplicative decrease where it refuses one more, and growth from there until it does again.
    """
    if limit is None:
        return ceiling
    grown: float = limit * 2.0 ** min(since / LIMIT_DOUBLES_IN, 32.0)
    return max(1, min(ceiling, round(grown)))


def item_retry_wait(attempts: int, rng: Random) -> float:
    """Before a failed item goes into a later batch."""
    return backoff(attempts, rng, base=1.0)


def gate_wait(failures: int, rng: Random) -> float:
    """Before the next probe of an API or judge that is out; the first is soon."""
    return backoff(failures, rng, base=2.0, most=MAX_GATE_WAIT)


# --- Packing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """An item that waits, as far as packing needs to know it."""

    job_id: object
    item_index: int
    size: int  # bytes of its texts
    waited: float  # seconds


def pack(
    waiting: Iterable[Waiting], *, most_items: int, most_bytes: int
) -> list[tuple[Waiting, ...]]:
    """Cuts into batches, in order; an item over the byte limit travels alone."""
    batches: list[tuple[Waiting, ...]] = []
    current: list[Waiting] = []
    size = 0
    for item in waiting:
        if current and (len(current) == most_items or size + item.size > most_bytes):
            batches.append(tuple(current))
            current, size = [], 0
        current.append(item)
        size += item.size
    if current:
        batches.append(tuple(current))
    return batches


def ready(
    batches: Sequence[tuple[Waiting, ...]], *, most_items: int, linger: float, more: bool
) -> tuple[list[tuple[Waiting, ...]], float | None]:
    """Which packed batches go now, and in how many seconds the rest does (None: nothing waits).

    Only the last one can be part-filled. It goes when its oldest item has waited for company
    long enough; if there is `more` beyond what was packed, its company is already there.
    """
    if not batches or more:
        return list(batches), None
    *full, last = batches
    oldest = max(item.waited for item in last)
    if len(last) >= most_items or oldest >= linger:
        return [*full, last], None
    return full, linger - oldest


def allowance(slots: int, equals: int) -> int:
    """How many of the free slots the next of so many lanes of one priority may use: its part.

    What it leaves is shared by the lanes after it, so no slot stays free while work waits.
    """
    return -(-slots // equals)
