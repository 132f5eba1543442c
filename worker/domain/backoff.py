"""When to try, look, poll or give up, and how waiting items are packed; pure functions of values.

Every wait is in seconds. Randomness comes in as a `random.Random`, so that a simulation replays.
"""

from __future__ import annotations

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


def item_retry_wait(attempts: int, rng: Random) -> float:
    """Before a failed item goes into a later batch."""
    return backoff(attempts, rng, base=1.0)


def gate_wait(failures: int, rng: Random) -> float:
    """Before the next probe of an API or judge that is out; the first is soon."""
    return backoff(failures, rng, base=2.0, most=MAX_GATE_WAIT)
