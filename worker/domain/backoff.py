"""Decide how long to wait before the next try, and how many tries are enough.

Every wait is in seconds. Randomness is passed in as a `random.Random`, so that a simulation can be
replayed. Waits use exponential backoff with full jitter (Marc Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from random import Random

MAX_BACKOFF = 60.0  # seconds between two tries of one batch
THROTTLE_BASE = 0.25  # seconds, doubled with each 429 in a row that has no Retry-After
MAX_THROTTLE_WAIT = 300.0  # a longer Retry-After is cut to this
MAX_GATE_WAIT = 300.0  # seconds between two probes of an API or judge that is out
OUTAGE_THRESHOLD = 3  # failures in a row that close the gate of the whole API

SEARCH_WAITS = (2.0, 5.0, 15.0, 30.0)  # seconds before each search for a batch in doubt
MAX_CLAIMS = 5  # claims in a row whose holders died; after them a batch is put on hold
NOT_FOUND_GRACE = 120.0  # seconds after submission in which a 404 may still turn into a 200
GONE_READS = 3  # reads in a row that find nothing, after that time, before a batch counts as gone
LOST_AFTER_FAILURES = 10  # failed polls in a row after which an overdue batch is lost
UNFINISHED_READS = 3  # reads of an ended batch without all items before the rest counts as failed

# Seconds before a notice is sent again. After the last one, most of a day later, it has failed.
NOTICE_WAITS = (5.0, 60.0, 600.0, 3600.0, 10_800.0, 21_600.0, 43_200.0)


def backoff(
    failures: int, rng: Random, *, base: float = 1.0, maximum: float = MAX_BACKOFF
) -> float:
    """Return an exponential wait with full jitter, at least a tenth of its span."""
    span = min(maximum, base * 2.0 ** min(failures, 16))
    return rng.uniform(span / 10, span)


def throttle_wait(retry_after: float | None, failures: int, rng: Random) -> float:
    """Return the wait after a 429: its Retry-After, up to a maximum, else a backoff."""
    if retry_after is None:
        # Usually one batch too many was sent, and a slot at the remote is free soon.
        return backoff(failures, rng, base=THROTTLE_BASE)
    return min(retry_after, MAX_THROTTLE_WAIT) + rng.uniform(0.0, 1.0)


def gate_wait(failures: int, rng: Random) -> float:
    """Return the wait before the next probe of an API or judge that is out."""
    return backoff(failures, rng, base=2.0, maximum=MAX_GATE_WAIT)


def search_wait(searches: int) -> float | None:
    """Return the wait before the search after so many in vain; None if those were enough."""
    return SEARCH_WAITS[searches] if searches < len(SEARCH_WAITS) else None


def first_search_wait() -> float:
    """Return the wait between a lost response and the first search for its batch."""
    return SEARCH_WAITS[0]


def notice_wait(attempts: int, rng: Random) -> float | None:
    """Return the wait after so many attempts to send a notice; None if those were enough."""
    if attempts > len(NOTICE_WAITS):
        return None
    return NOTICE_WAITS[attempts - 1] * rng.uniform(0.9, 1.1)
