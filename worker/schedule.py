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
MAX_THROTTLE_WAIT = 300.0  # of a Retry-After, as much is believed
MAX_GATE_WAIT = 300.0  # an API or judge that is out is asked again at least this often
OUTAGE_THRESHOLD = 3  # failures in a row before everybody waits for one to probe

LOOKS = (2.0, 5.0, 15.0, 30.0)  # waits before each look for a batch whose answer was lost
MAX_CLAIMS = 5  # of one batch in a row whose holders died; then it is set aside
NOT_FOUND_GRACE = 120.0  # after submission, a 404 on the status path may still turn into a 200
LOST_AFTER_FAILURES = 10  # polls in a row without a usable answer, once the batch is overdue too
UNFINISHED_READS = 3  # reads of an ended batch that lacks items before they count as failed


def backoff(failures: int, rng: Random, *, base: float = 1.0, most: float = MAX_BACKOFF) -> float:
    """Exponential with full jitter; never under a tenth of its span, so that it does not spin."""
    span = min(most, base * 2.0 ** min(failures, 16))
    return rng.uniform(span / 10, span)


def throttle_wait(retry_after: float | None, failures: int, rng: Random) -> float:
    """As long as the remote asks for, within reason, and a little scatter; else a backoff."""
    if retry_after is None:
        return backoff(failures + 1, rng)
    return min(retry_after, MAX_THROTTLE_WAIT) + rng.uniform(0.0, 1.0)


def poll_wait(elapsed: float, *, least: float, most: float, rng: Random) -> float:
    """The wait before the next poll: a quarter of the time it has run so far, within bounds.

    Asking at growing distances costs a logarithmic number of requests and finds the end within
    about a quarter of the batch's own time.
    """
    wait = min(max(elapsed / 4, least), most)
    return wait * rng.uniform(0.9, 1.1)


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
