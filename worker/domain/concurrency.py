"""How many batches may be at the remote at once."""

from __future__ import annotations

LIMIT_LOWERED = 0.95  # of the batches that ran when the remote refused one more


LIMIT_DOUBLES_IN = 180.0  # seconds: the way back up, until it refuses again


LIMIT_HOLDS = 10.0  # seconds before the limit is lowered again: refusals come in swarms


def in_flight_allowed(ceiling: int, limit: float | None, since: float) -> int:
    """How many batches may be at the remote, `since` seconds after it was found to allow `limit`.

    Multiplicative decrease where it refuses one more, and growth from there until it does again.
    """
    if limit is None:
        return ceiling
    grown: float = limit * 2.0 ** min(since / LIMIT_DOUBLES_IN, 32.0)
    return max(1, min(ceiling, round(grown)))


def allowance(slots: int, equals: int) -> int:
    """How many of the free slots the next of so many lanes of one priority may use: its part.

    What it leaves is shared by the lanes after it, so no slot stays free while work waits.
    """
    return -(-slots // equals)
