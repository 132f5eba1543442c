"""Decide how many batches may be at the remote at the same time.

A throttle lowers the limit by a factor, as in AIMD (Chiu and Jain, "Analysis of the Increase and
Decrease Algorithms for Congestion Avoidance", 1989). It grows back exponentially with time.
"""

from __future__ import annotations

DECREASE_FACTOR = 0.95  # of the batches that were running when the remote refused one more
DOUBLING_SECONDS = 180.0  # the limit doubles in this time, until the remote refuses again
DECREASE_INTERVAL = 10.0  # seconds between two decreases: refusals come in swarms


def in_flight_allowed(ceiling: int, limit: float | None, since: float) -> int:
    """Return how many batches may be in flight, `since` seconds after `limit` was measured."""
    if limit is None:
        return ceiling
    grown: float = limit * 2.0 ** min(since / DOUBLING_SECONDS, 32.0)
    return max(1, min(ceiling, round(grown)))


def free_slots(allowed: int, *, taken: int, in_doubt: int) -> int:
    """Return how many more batches may be at the remote, where `in_doubt` ones may be there too.

    These never take the last slot: they are searched for during a minute or longer, and all other
    work would stand still meanwhile.
    """
    return allowed - taken - min(in_doubt, allowed - 1)


def fair_share(slots: int, lanes: int) -> int:
    """Return how many of the free slots one of so many lanes of equal priority may use.

    What a lane leaves is shared by the lanes after it, so that no slot stays free.
    """
    return -(-slots // lanes)
